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
    shape = power_of_two(len(rows)), power_of_two(max(map(len, rows)))
    table = np.full(shape, ANY_ID, np.int32)
    for place, row in enumerate(rows):
        table[place, -len(row) :] = row
    return jnp.asarray(table)


def forced_ids(prefix: str, encode: Encode) -> Array | None:
    """int32 [P] ids of a prefix for `bans.force_prefix`, P a power of two; None without one.

    Raises:
      ConfigError: see `written_ids`.
    """
    if not prefix:
        return None
    ids = written_ids("forced_prefix", prefix, encode)
    return jnp.asarray([*ids, *[ANY_ID] * (power_of_two(len(ids)) - len(ids))], jnp.int32)


def written_ids(name: str, text: str, encode: Encode) -> tuple[int, ...]:
    """Ids of a text that answers must hold; `name` is the option's.

    Raises:
      ConfigError: it holds what the vocabulary does not, or has no tokens.
    """
    ids = tuple(encode(text))
    if not ids or UNK_ID in ids:
        raise ConfigError(
            f"{name} {text!r} cannot be written in the target vocabulary",
            details=["a part of it is the unknown token there" if ids else "it has no tokens"],
        )
    return ids


def stop_ids(ids: Sequence[int]) -> Array | None:
    """int32 [n] different ids beside EOS, the last one repeated up to a power of two, or None."""
    others = sorted(set(ids) - {EOS_ID})
    if not others:
        return None
    room = power_of_two(len(others))
    return jnp.asarray(others + others[-1:] * (room - len(others)), jnp.int32)


def power_of_two(count: int, *, fewest: int = 1) -> int:
    """The smallest power of two that is at least `count` (1 or more) and `fewest`, itself one."""
    return max(fewest, 1 << (count - 1).bit_length())
