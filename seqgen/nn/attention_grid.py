"""Which blocks of the square of queries by keys are worth visiting, and what is seen in each."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from seqgen.nn.masks import AttentionMask
from seqgen.types import Array


@dataclasses.dataclass(frozen=True)
class BlockGrid:
    """How T queries by S keys are cut; the last block of either may reach beyond the end."""

    query_len: int
    key_len: int
    query_block: int
    key_block: int

    @property
    def shape(self) -> tuple[int, int]:
        """Number of query blocks and of key blocks."""
        return -(-self.query_len // self.query_block), -(-self.key_len // self.key_block)


def _spans(segments: Array, block: int) -> tuple[Array, Array]:
    """Least and greatest segment other than padding in each block: int32 [B, blocks] each."""
    parts = segments.reshape(segments.shape[0], -1, block)
    far = np.iinfo(np.int32).max
    return jnp.where(parts > 0, parts, far).min(-1), parts.max(-1)


def block_ranges(mask: AttentionMask, grid: BlockGrid) -> tuple[Array, Array]:
    """First and one past the last key block to visit, int32 [query blocks] each.

    The range holds every block in which some query sees some key. It may hold others, if what is
    seen is not one stretch; an `allowed` array is not looked into.
    """
    num_queries, num_keys = grid.shape
    queries, keys = np.arange(num_queries)[:, None], np.arange(num_keys)[None, :]
    first_query, first_key = queries * grid.query_block, keys * grid.key_block
    last_query = np.minimum(first_query + grid.query_block, grid.query_len) - 1
    last_key = np.minimum(first_key + grid.key_block, grid.key_len) - 1
    near: Any = np.ones((num_queries, num_keys), bool)
    if mask.causal:
        near &= first_key <= last_query
    if mask.causal and mask.prefix_lens is not None:
        near = near | (first_key < mask.prefix_lens.max())
    if mask.window is not None:
        near &= (first_query - last_key < mask.window) & (first_key - last_query < mask.window)
    if mask.query_segments is not None:
        q_low, q_high = _spans(mask.query_segments, grid.query_block)
        k_low, k_high = _spans(mask.key_segments, grid.key_block)
        meet = (q_low[:, :, None] <= k_high[:, None]) & (k_low[:, None] <= q_high[:, :, None])
        near = near & meet.any(0)
    near = jnp.asarray(near)
    count = num_keys - jnp.argmax(near[:, ::-1], axis=1)
    return jnp.argmax(near, axis=1), jnp.where(near.any(1), count, 0)


def cut(x: Array, block: Any, size: int, axis: int) -> Array:
    """Block number `block` along one axis; an axis of length 1 stands for all blocks."""
    if x.shape[axis] == 1:
        return x
    return lax.dynamic_slice_in_dim(x, block * size, size, axis)


def seen_in_block(mask: AttentionMask, query_block: Any, key_block: Any, grid: BlockGrid) -> Array:
    """Bool, broadcastable to [B, G, group, query_block, key_block], of one block of scores."""
    at_query = query_block * grid.query_block + jnp.arange(grid.query_block)[:, None]
    at_key = key_block * grid.key_block + jnp.arange(grid.key_block)[None, :]
    seen = jnp.broadcast_to(at_key < grid.key_len, (1, grid.query_block, grid.key_block))
    if mask.causal:
        before = (at_key <= at_query)[None]
        if mask.prefix_lens is not None:
            before |= at_key < mask.prefix_lens[:, None, None]
        seen &= before
    if mask.window is not None:
        seen &= jnp.abs(at_query - at_key) < mask.window
    if mask.query_segments is not None:
        queries = cut(mask.query_segments, query_block, grid.query_block, 1)[:, :, None]
        keys = cut(mask.key_segments, key_block, grid.key_block, 1)[:, None]
        seen = seen & (queries == keys) & (keys != 0)
    seen = seen[:, None]
    if mask.allowed is not None:
        allowed = cut(mask.allowed, query_block, grid.query_block, 2)
        seen = seen & cut(allowed, key_block, grid.key_block, 3)
    return seen[:, :, None]


def pad(x: Array, axis: int, block: int) -> Array:
    """Zeros up to a multiple of `block`; an axis of length 1 that stands for all stays."""
    missing = -x.shape[axis] % block
    return jnp.pad(x, [(0, missing if at == axis else 0) for at in range(x.ndim)])


def pad_mask(mask: AttentionMask, grid: BlockGrid) -> AttentionMask:
    queries, keys, allowed = mask.query_segments, mask.key_segments, mask.allowed
    if queries is not None:
        queries, keys = pad(queries, 1, grid.query_block), pad(keys, 1, grid.key_block)
    if allowed is not None:
        allowed = allowed if allowed.shape[2] == 1 else pad(allowed, 2, grid.query_block)
        allowed = allowed if allowed.shape[3] == 1 else pad(allowed, 3, grid.key_block)
    return dataclasses.replace(mask, query_segments=queries, key_segments=keys, allowed=allowed)
