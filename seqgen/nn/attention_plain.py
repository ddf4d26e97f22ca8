"""Attention with all scores of a head in memory: the fast way for short sequences.

Scaled dot-product attention and heads: Vaswani et al. 2017, section 3.2; grouped queries: Ainslie
et al. 2023. Arrays stand as [B, N, T, H]: both products are then plain batched matrix products.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqgen.nn.dense import dot, row_major
from seqgen.nn.dropout import coordinate_words, kept
from seqgen.types import Array

# Finite, so that a row that may see nothing gives a plain mean instead of NaN.
MASKED_SCORE = -1e9


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KeyValues:
    """Projected keys and values, float32 [rows, num_kv_heads, slots, H]."""

    keys: Array
    values: Array


@dataclasses.dataclass(frozen=True)
class _Options:
    dropout_rate: float
    compute_dtype: str
    group: int


def operand_dtype(compute_dtype: str) -> str:
    """The dtype in which attention's two products take their operands on this machine."""
    # The CPU has no fast bfloat16 form of small batched products, and converting costs more.
    return "float32" if jax.default_backend() == "cpu" else compute_dtype


def _product(left: Array, right: Array, axes: tuple[int, int], options: _Options) -> Array:
    """Matrix products over the two leading axes of [B, G, ...], summed over `axes`."""
    contract = ((axes[0],), (axes[1],))
    dtype = operand_dtype(options.compute_dtype)
    return dot(left, right, contract, ((0, 1), (0, 1)), compute_dtype=dtype)


def row_words(key: Any, batch: int) -> Any:
    """Dropout's words of the rows of a batch, uint32 [B], from its key; None from None."""
    return None if key is None else key + coordinate_words(0, batch)


def _drop(weights: Array, words: Any, options: _Options) -> Array:
    """Dropout of [B, G, group * T, S] by row, head and place, so that padding moves no bit."""
    rate = options.dropout_rate
    if words is None or rate == 0:
        return weights
    heads = weights.shape[1] * options.group
    apart = weights.reshape(weights.shape[0], heads, -1, weights.shape[3])
    for axis in (1, 2, 3):
        words = words[..., None] + coordinate_words(axis, apart.shape[axis])
    return jnp.where(kept(words, rate), apart * np.float32(1 / (1 - rate)), 0).reshape(
        weights.shape
    )


def turned(weights: Array) -> Array:
    """[B, G, T, S] -> [B, G, S, T] in memory too: products summed over T read it a third faster."""
    return row_major(weights.swapaxes(2, 3))


@partial(jax.custom_vjp, nondiff_argnums=(6,))
def _attend(
    query: Array,
    keys: Array,
    values: Array,
    mask: Array,
    bias: Array | None,
    words: Any,
    options: _Options,
) -> tuple[Array, Array]:
    return _attend_forward(query, keys, values, mask, bias, words, options)[0]


def _attend_forward(
    query: Array,
    keys: Array,
    values: Array,
    mask: Array,
    bias: Array | None,
    words: Any,
    options: _Options,
) -> Any:
    scores = _product(query * query.shape[-1] ** -0.5, keys, (3, 3), options)
    if bias is not None:
        scores = scores + bias
    scores = jnp.where(mask, scores, MASKED_SCORE)
    exponents = jnp.exp(scores - scores.max(-1, keepdims=True))
    weights = exponents * (1 / exponents.sum(-1, keepdims=True))
    mixed = _product(_drop(weights, words, options), values, (3, 2), options)
    return (mixed, weights), (query, keys, values, weights, bias is not None, words)


def _attend_backward(options: _Options, saved: Any, cotangents: tuple[Array, Array]) -> Any:
    # The weights are handed out for display; no gradient flows through them.
    query, keys, values, weights, biased, words = saved
    d_mixed = cotangents[0]
    dropped = _drop(weights, words, options)
    d_values = _product(turned(dropped), d_mixed, (3, 2), options)
    d_weights = _drop(_product(d_mixed, values, (3, 3), options), words, options)
    d_scores = weights * (d_weights - (weights * d_weights).sum(-1, keepdims=True))
    scale = query.shape[-1] ** -0.5
    d_query = _product(d_scores, keys, (3, 2), options) * scale
    d_keys = _product(turned(d_scores), query, (3, 2), options) * scale
    return d_query, d_keys, d_values, None, d_scores.sum(0) if biased else None, None


_attend.defvjp(_attend_forward, _attend_backward)


def attend(
    query: Array,
    memory: KeyValues,
    mask: Array,
    *,
    bias: Array | None = None,
    dropout_rate: float = 0.0,
    key: Any = None,
    compute_dtype: str = "float32",
) -> tuple[Array, Array]:
    """Softmax-weighted values, and the weights before dropout (these carry no gradient).

    Args:
      query: [B, N, T, H].
      memory: keys and values [B, G, S, H] where G divides N; query heads n * (N / G) ... share
        key/value head n.
      mask: bool, broadcastable to [B, 1, T, S]; True = may be seen.
      bias: float32 [N, T, S], added to the scores, or None.
      dropout_rate: of the weights.
      key: dropout's key, or `row_words` of these rows where they are part of a batch;
        None = evaluation.
      compute_dtype: operands of the two products (on CPU they are float32 in any case).

    Returns:
      mixed [B, N, T, H] and weights [B, N, T, S], both float32. A row that may see nothing gives
      the mean of the values.
    """
    batch, num_heads, query_len, head_dim = query.shape
    num_kv_heads, key_len = memory.keys.shape[1], memory.keys.shape[2]
    group = num_heads // num_kv_heads
    query = query.reshape(batch, num_kv_heads, group * query_len, head_dim)
    if group > 1 and mask.shape[2] > 1:
        mask = jnp.tile(mask, (1, 1, group, 1))
    if bias is not None:
        bias = bias.reshape(num_kv_heads, group * query_len, key_len)
    options = _Options(dropout_rate, compute_dtype, group)
    words = key if key is not None and jnp.ndim(key) else row_words(key, batch)
    attended: Any = _attend(query, memory.keys, memory.values, mask, bias, words, options)
    mixed, weights = attended
    shape = (batch, num_heads, query_len)
    return mixed.reshape(*shape, head_dim), weights.reshape(*shape, key_len)
