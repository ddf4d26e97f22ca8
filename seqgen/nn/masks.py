"""Attention masks: True where a query may see a key. Built from segments, never from ids.

Segments number the examples packed in a row from 1; 0 is padding. A query and a key see each other
only inside one segment, which covers padding and packing alike. Queries on padding see nothing;
attention gives them finite numbers that nobody reads.
"""

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


def causal_segment_mask(segments: Array) -> Array:
    """Bool [B, 1, T, T]: the same segment, not later. Positions rise along a packed row."""
    return segment_mask(segments, segments) & causal_mask(segments.shape[1])


def cache_mask(positions: Array, max_len: int) -> Array:
    """Bool [R, 1, T, M]: a query at position p of its row sees cache slots 0..p.

    Args:
      positions: int32 [R, T], each row's own positions.
      max_len: number of cache slots M.
    """
    return (jnp.arange(max_len) <= positions[:, :, None])[:, None]


def padding_mask(segments: Array) -> Array:
    """Bool [B, 1, 1, S]: every real key, whatever the query."""
    return (segments != 0)[:, None, None, :]
