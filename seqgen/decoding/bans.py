"""Tokens that may not come next because of what an answer holds already: their logits are -inf."""

import jax
import jax.numpy as jnp

from seqgen.types import Array

ANY_ID = -1  # stands in a table of ids where no token is asked for


def ban_repeated_ngrams(logits: Array, ids: Array, position: Array, size: Array) -> Array:
    """No n tokens in a row come twice (Paulus et al. 2017, arXiv:1705.04304, section 2.5).

    Every place whose `size - 1` tokens before it equal the newest ones names a banned token: the
    one that stands there. The number of tokens compared is that of a loop, so it may be traced.

    Args:
      logits: float32 [B, K, V].
      ids: int32 [B, K, T] tokens generated so far.
      position: int32 scalar, how many they are.
      size: int32 scalar n, at least 1; with 1 no token comes twice.
    """
    room = ids.shape[-1]
    places = jnp.arange(room)

    def compare(back: Array, same: Array) -> Array:
        newest = jnp.take(ids, jnp.maximum(position - back, 0), axis=-1)[..., None]
        return same & (jnp.roll(ids, back, axis=-1) == newest)

    complete = (places >= size - 1) & (places < position)
    start = jnp.broadcast_to(complete, ids.shape)
    # Beyond the room no n-gram is complete, and nothing is left to compare.
    same = jax.lax.fori_loop(1, jnp.minimum(size, room), compare, start)
    return _ban(logits, jnp.where(same, ids, ANY_ID))


def ban_words(logits: Array, ids: Array, position: Array, words: Array) -> Array:
    """No word of a list comes: its last token is banned where the tokens before it stand.

    The definition of Hugging Face `bad_words_ids`.

    Args:
      logits: float32 [B, K, V].
      ids: int32 [B, K, T] tokens generated so far.
      position: int32 scalar, how many they are.
      words: int32 [W, L] ids of `id_table`: short words, and rows without one, begin with `ANY_ID`.
    """
    starts, ends = words[:, :-1], words[:, -1]
    before = starts.shape[1]
    padded = jnp.pad(ids, ((0, 0), (0, 0), (before, 0)), constant_values=ANY_ID - 1)
    newest = jax.lax.dynamic_slice_in_dim(padded, position, before, axis=2)
    begun = jnp.all((starts == ANY_ID) | (starts == newest[:, :, None]), axis=-1)
    return _ban(logits, jnp.where(begun, ends, ANY_ID))


def ban_tokens(logits: Array, ids: Array, banned: Array) -> Array:
    """-inf at some ids while a condition holds.

    Args:
      logits: float32 [B, K, V].
      ids: int32 [n].
      banned: bool scalar.
    """
    ids = jnp.where(banned, ids, ANY_ID)
    return _ban(logits, jnp.broadcast_to(ids, (*logits.shape[:2], *ids.shape)))


def force_prefix(logits: Array, free: Array, position: Array, room: Array, prefix: Array) -> Array:
    """`logits` of the prefix' token at this position alone; after the prefix, `free` ones.

    A prefix is cut where a sentence has no room for more of it.

    Args:
      logits: float32 [B, K, V] in which nothing is banned.
      free: float32 [B, K, V] with bans.
      position: int32 scalar, tokens generated so far.
      room: int32 [B], most tokens that a prefix may have.
      prefix: int32 [P], `ANY_ID` after its end.
    """
    length = prefix.shape[0]
    token = jnp.where(position < length, prefix[jnp.minimum(position, length - 1)], ANY_ID)
    forced = (token != ANY_ID) & (position < room)[:, None, None]
    alone = jnp.where(jnp.arange(logits.shape[-1]) == token, logits, -jnp.inf)
    return jnp.where(forced, alone, free)


def _ban(logits: Array, ids: Array) -> Array:
    """-inf at `ids` [B, K, n] of `logits` [B, K, V]; `ANY_ID` bans nothing."""
    batch, beams, vocab = logits.shape
    ids = jnp.where(ids == ANY_ID, vocab, ids)
    rows, columns = jnp.arange(batch)[:, None, None], jnp.arange(beams)[None, :, None]
    return logits.at[rows, columns, ids].set(-jnp.inf, mode="drop")
