"""Attention masks: True where a query may see a key. Built from segments, never from ids.

Segments number the examples packed in a row from 1; 0 is padding. A query and a key see each other
only inside one segment, which covers padding and packing alike. Queries on padding see nothing;
attention gives them finite numbers that nobody reads.
"""

import dataclasses

import jax
import jax.numpy as jnp

from seqgen.types import Array


def segment_mask(query_segments: Array, key_segments: Array) -> Array:
    """Bool [B, 1, T, S] from int32 [B, T] and [B, S]."""
    same = query_segments[:, :, None] == key_segments[:, None, :]
    return (same & (key_segments != 0)[:, None, :])[:, None]


def causal_mask(query_len: int, key_len: int | None = None) -> Array:
    """Bool [1, 1, T, S]: query t sees keys 0..t."""
    key_len = query_len if key_len is None else key_len
    return (jnp.arange(query_len)[:, None] >= jnp.arange(key_len)[None, :])[None, None]


def padding_mask(segments: Array) -> Array:
    """Bool [B, 1, 1, S]: every real key, whatever the query."""
    return (segments != 0)[:, None, None, :]


def window_mask(query_len: int, key_len: int, window: int) -> Array:
    """Bool [1, 1, T, S]: keys less than `window` places away (Beltagy et al. 2020)."""
    distance = jnp.arange(query_len)[:, None] - jnp.arange(key_len)[None, :]
    return (jnp.abs(distance) < window)[None, None]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AttentionMask:
    """Which keys a query may see, told by rules: a whole [B, 1, T, S] array need never exist.

    A key is seen if everything that is given allows it; nothing given allows all.

    Attributes:
      query_segments, key_segments: int32 [B, T] and [B, S], both or neither: a query sees its own
        segment only, and nothing sees segment 0.
      allowed: bool, broadcastable to [B, 1, T, S]: any other rule, as an array.
      causal: query t sees keys 0..t; indices count along the row, packed or not.
      window: keys less than so many places away; 1 = the key at the query's own place.
      prefix_lens: int32 [B], with `causal`: every query sees the first so many keys, too, as in
        the prefix language model of Raffel et al. 2020, section 3.2.1.
    """

    query_segments: Array | None = None
    key_segments: Array | None = None
    allowed: Array | None = None
    causal: bool = dataclasses.field(default=False, metadata={"static": True})
    window: int | None = dataclasses.field(default=None, metadata={"static": True})
    prefix_lens: Array | None = None

    def dense(self, query_len: int, key_len: int) -> Array:
        """The same rules as one bool array, broadcastable to [B, 1, T, S]."""
        seen = jnp.ones((1, 1, 1, 1), bool)
        if self.query_segments is not None:
            seen = segment_mask(self.query_segments, self.key_segments)
        if self.causal:
            before = causal_mask(query_len, key_len)
            if self.prefix_lens is not None:
                before |= (jnp.arange(key_len) < self.prefix_lens[:, None])[:, None, None]
            seen &= before
        if self.window is not None:
            seen &= window_mask(query_len, key_len, self.window)
        return seen if self.allowed is None else seen & self.allowed
