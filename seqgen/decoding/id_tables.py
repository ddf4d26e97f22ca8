"""Texts and ids of options as arrays of few shapes, so that few programs are compiled."""

from collections.abc import Callable, Sequence

import jax.numpy as jnp
import numpy as np

from seqgen.decoding.bans import ANY_ID
from seqgen.errors import ConfigError
from seqgen.types import EOS_ID, UNK_ID, Array

Encode = Callable[[str], Sequence[int]]


def word_table(words: Sequence[str], encode: Encode) -> Array | None:
    """int32 [W, L] ids of the words that can be generated, for `bans.ban_words`.

    A word that is not in the vocabulary cannot come, so it is left out. W and L are powers of two:
    words stand at the right, `ANY_ID` before them and in rows without a word. None without words.
    """
    rows = [list(encode(word)) for word in words]
    rows = [row for row in rows if row and UNK_ID not in row]
    if not rows:
        return None
    table = np.full((_room(len(rows)), _room(max(map(len, rows)))), ANY_ID, np.int32)
    for place, row in enumerate(rows):
        table[place, -len(row) :] = row
    return jnp.asarray(table)


def forced_ids(prefix: str, encode: Encode) -> Array | None:
    """int32 [P] ids of a prefix for `bans.force_prefix`, P a power of two; None without one.

    Raises:
      ConfigError: if it holds what the vocabulary does not.
    """
    ids = list(encode(prefix)) if prefix else []
    if UNK_ID in ids:
        raise ConfigError(
            f"forced_prefix {prefix!r} cannot be written in the target vocabulary",
            details=["a part of it is the unknown token there"],
        )
    if not ids:
        return None
    return jnp.asarray(ids + [ANY_ID] * (_room(len(ids)) - len(ids)), jnp.int32)


def stop_ids(ids: Sequence[int]) -> Array | None:
    """int32 [n] different ids beside EOS, the last one repeated up to a power of two, or None."""
    others = sorted(set(ids) - {EOS_ID})
    if not others:
        return None
    return jnp.asarray(others + others[-1:] * (_room(len(others)) - len(others)), jnp.int32)


def _room(count: int) -> int:
    return 1 << (count - 1).bit_length()
