"""Attention in memory proportional to the length: scores exist one block at a time.

A softmax is merged block by block with a running maximum and sum (Rabe & Staats 2021,
"Self-attention does not need O(n^2) memory"); the backward pass keeps only each query's log-sum-exp
and forms the scores of a block again (Dao 2023, "FlashAttention-2"). Blocks in which nobody sees
anything are not visited: those above the causal diagonal, outside a window, on padding, between
packed examples.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from seqgen.nn.attention_grid import BlockGrid, block_ranges, cut, pad, pad_mask, seen_in_block
from seqgen.nn.attention_plain import KeyValues, operand_dtype, turned
from seqgen.nn.dense import dot
from seqgen.nn.dropout import coordinate_words, kept
from seqgen.nn.masks import AttentionMask
from seqgen.nn.position_bias import (
    DistanceBias,
    add_diagonals,
    bias_in_block,
    first_column,
    pad_bias,
)
from seqgen.types import Array

# 256 KiB of scores a head stay in a core's cache.
QUERY_BLOCK, KEY_BLOCK = 256, 256
_LOWEST = float(np.finfo(np.float32).min) / 2


@dataclasses.dataclass(frozen=True)
class _Options:
    grid: BlockGrid
    dropout_rate: float
    compute_dtype: str


@dataclasses.dataclass(frozen=True)
class _Blocks:
    """Blocks of scores [B, G, group, query_block, key_block], for both passes."""

    query: Array  # [B, G, group, T, H]; scaled
    keys: Array  # [B, G, S, H]
    values: Array
    mask: AttentionMask
    bias: DistanceBias | None
    key: Any
    options: _Options

    @property
    def grid(self) -> BlockGrid:
        return self.options.grid

    def product(self, left: Array, right: Array, left_axis: int, right_axis: int) -> Array:
        """Products of [B, G, group, T, .] or [B, G, S, .] over the two leading axes.

        Queries of one group go side by side through one product.
        """

        def flat(x: Array) -> Array:
            return x.reshape(*x.shape[:2], -1, x.shape[-1])

        dtype = operand_dtype(self.options.compute_dtype)
        over_queries = left_axis == 2
        rows = turned(flat(left)) if over_queries else flat(left)
        contract = ((3,), (right_axis,))
        result = dot(rows, flat(right), contract, ((0, 1), (0, 1)), compute_dtype=dtype)
        return result if over_queries else result.reshape(*left.shape[:4], result.shape[-1])

    def query_part(self, x: Array, i: Any) -> Array:
        """Block i of [B, G, group, T, ...]."""
        return lax.dynamic_slice_in_dim(x, i * self.grid.query_block, self.grid.query_block, 3)

    def key_part(self, x: Array, j: Any) -> Array:
        """Block j of [B, G, S, H]."""
        return lax.dynamic_slice_in_dim(x, j * self.grid.key_block, self.grid.key_block, 2)

    def scores(self, query: Array, i: Any, j: Any) -> tuple[Array, Array]:
        """Scores of a block, and which of them count."""
        seen = seen_in_block(self.mask, i, j, self.grid)
        scores = self.product(query, self.key_part(self.keys, j), 3, 3)
        if self.bias is not None:
            added = bias_in_block(self.bias, i, j, self.grid)
            scores = scores + added.reshape(scores.shape[1:])
        return scores, seen

    def drop(self, x: Array, i: Any, j: Any) -> Array:
        """Dropout with the bits that the whole [B, N, T, S] array would have here."""
        rate = self.options.dropout_rate
        if self.key is None or rate == 0:
            return x
        batch, kv_heads, group = x.shape[:3]
        heads = coordinate_words(1, kv_heads * group).reshape(kv_heads, group)
        words = self.key + coordinate_words(0, batch)[:, None, None] + heads
        queries = jnp.asarray(coordinate_words(2, self.query.shape[3]))
        keys = jnp.asarray(coordinate_words(3, self.keys.shape[2]))
        queries = cut(queries, i, self.grid.query_block, 0)
        keys = cut(keys, j, self.grid.key_block, 0)
        words = words[..., None, None] + queries[:, None] + keys
        return jnp.where(kept(words, rate), x * np.float32(1 / (1 - rate)), 0)


def _restore(blocks: Array) -> Array:
    """[query blocks, B, G, group, query_block, ...] -> [B, G, group, T, ...]."""
    moved = jnp.moveaxis(blocks, 0, 3)
    return moved.reshape(*moved.shape[:3], -1, *moved.shape[5:])


@partial(jax.custom_vjp, nondiff_argnums=(6,))
def _blocked(
    query: Array,
    keys: Array,
    values: Array,
    mask: AttentionMask,
    bias: DistanceBias | None,
    key: Any,
    options: _Options,
) -> Array:
    return _blocked_forward(query, keys, values, mask, bias, key, options)[0]


def _blocked_forward(
    query: Array,
    keys: Array,
    values: Array,
    mask: AttentionMask,
    bias: DistanceBias | None,
    key: Any,
    options: _Options,
) -> Any:
    blocks = _Blocks(query * query.shape[-1] ** -0.5, keys, values, mask, bias, key, options)

    def attend_block(step: Any) -> tuple[Array, Array]:
        i, first, last = step
        part = blocks.query_part(blocks.query, i)

        def merge(j: Any, carry: Any) -> Any:
            peak, total, mixed = carry
            scores, seen = blocks.scores(part, i, j)
            scores = jnp.where(seen, scores, _LOWEST)
            higher = jnp.maximum(peak, scores.max(-1, keepdims=True))
            # A row that has seen nothing yet has its peak at _LOWEST, where exp would give 1.
            exponents = jnp.where(seen, jnp.exp(scores - higher), 0)
            shrink = jnp.exp(peak - higher)
            dropped = blocks.drop(exponents, i, j)
            fresh = blocks.product(dropped, blocks.key_part(values, j), 3, 2)
            total = total * shrink + exponents.sum(-1, keepdims=True)
            return higher, total, mixed * shrink + fresh

        column = (*part.shape[:-1], 1)
        start = (jnp.full(column, _LOWEST, jnp.float32), jnp.zeros(column), jnp.zeros(part.shape))
        peak, total, mixed = lax.fori_loop(first, last, merge, start)
        total = jnp.where(total > 0, total, 1)
        return mixed / total, peak + jnp.log(total)

    steps = (jnp.arange(options.grid.shape[0]), *block_ranges(mask, options.grid))
    mixed, log_sum = map(_restore, lax.map(attend_block, steps))
    return mixed, (query, keys, values, mask, bias, key, mixed, log_sum)


def _blocked_backward(options: _Options, saved: Any, d_mixed: Array) -> Any:
    query, keys, values, mask, bias, key, mixed, log_sum = saved
    scale = query.shape[-1] ** -0.5
    blocks = _Blocks(query * scale, keys, values, mask, bias, key, options)
    trained = bias if bias is not None and bias.trained else None
    # What the softmax's gradient subtracts in a row; dropout is in `mixed` already.
    inner = (d_mixed * mixed).sum(-1, keepdims=True)

    def add(total: Array, fresh: Array, j: Any) -> Array:
        fresh = blocks.key_part(total, j) + fresh
        return lax.dynamic_update_slice_in_dim(total, fresh, j * options.grid.key_block, 2)

    def differentiate_block(carry: Any, step: Any) -> Any:
        i, first, last = step
        part, d_part, log_part, inner_part = (
            blocks.query_part(x, i) for x in (blocks.query, d_mixed, log_sum, inner)
        )

        def differentiate(j: Any, carry: Any) -> Any:
            d_query, d_keys, d_values, d_bias = carry
            scores, seen = blocks.scores(part, i, j)
            weights = jnp.where(seen, jnp.exp(scores - log_part), 0)
            dropped = blocks.drop(weights, i, j)
            d_values = add(d_values, blocks.product(dropped, d_part, 2, 2), j)
            d_weights = blocks.product(d_part, blocks.key_part(values, j), 3, 3)
            d_scores = weights * (blocks.drop(d_weights, i, j) - inner_part)
            if trained is not None:
                by_head = d_scores.sum(0).reshape(-1, *d_scores.shape[3:])
                d_bias = add_diagonals(d_bias, by_head, first_column(i, j, options.grid))
            d_keys = add(d_keys, blocks.product(d_scores, part, 2, 2), j)
            d_query += blocks.product(d_scores, blocks.key_part(keys, j), 3, 2)
            return d_query, d_keys, d_values, d_bias

        d_query, *carry = lax.fori_loop(first, last, differentiate, (jnp.zeros(part.shape), *carry))
        return tuple(carry), d_query * scale

    steps = (jnp.arange(options.grid.shape[0]), *block_ranges(mask, options.grid))
    d_bias: Any = None if trained is None else jnp.zeros(trained.values.shape)
    start = (jnp.zeros(keys.shape), jnp.zeros(values.shape), d_bias)
    (d_keys, d_values, d_bias), d_query = lax.scan(differentiate_block, start, steps)
    d_bias = None if trained is None else dataclasses.replace(trained, values=d_bias)
    return _restore(d_query), d_keys, d_values, None, d_bias, None


_blocked.defvjp(_blocked_forward, _blocked_backward)


def attend_blocked(
    query: Array,
    memory: KeyValues,
    mask: AttentionMask,
    *,
    bias: DistanceBias | None = None,
    dropout_rate: float = 0.0,
    key: Any = None,
    compute_dtype: str = "float32",
    query_block: int = QUERY_BLOCK,
    key_block: int = KEY_BLOCK,
) -> Array:
    """Softmax-weighted values in O(T + S) memory beyond an `allowed` array.

    Args:
      query: [B, N, T, H].
      memory: keys and values [B, G, S, H] where G divides N.
      mask: what each query may see.
      bias: added to the scores, or None; spread out one block at a time.
      dropout_rate, key: dropout on the weights, with the bits of the plain kernel.
      compute_dtype: operands of the products (on CPU they are float32 in any case).
      query_block, key_block: most places of a block of scores.

    Returns:
      float32 [B, N, T, H]. A row that may see nothing gives zeros (the plain kernel: a mean of
      values) and passes no gradient.
    """
    batch, _, query_len, head_dim = query.shape
    num_kv_heads, key_len = memory.keys.shape[1], memory.keys.shape[2]
    grid = BlockGrid(query_len, key_len, min(query_block, query_len), min(key_block, key_len))
    grouped = query.reshape(batch, num_kv_heads, -1, query_len, head_dim)
    mixed: Any = _blocked(
        pad(grouped, 3, grid.query_block),
        pad(memory.keys, 2, grid.key_block),
        pad(memory.values, 2, grid.key_block),
        pad_mask(mask, grid),
        None if bias is None else pad_bias(bias, grid),
        key,
        _Options(grid, dropout_rate, compute_dtype),
    )
    return mixed[:, :, :, :query_len].reshape(query.shape)
