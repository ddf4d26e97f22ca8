"""Multi-head and grouped-query attention, with a key/value cache for decoding.

Scaled dot-product attention and heads: Vaswani et al. 2017, section 3.2; grouped queries: Ainslie
et al. 2023. Arrays stand as [B, N, T, H]: both products are then plain batched matrix products.
"""

import dataclasses
import itertools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from seqgen.nn.dense import Dense, dense, dot, row_major
from seqgen.nn.dropout import dropout
from seqgen.nn.partitioning import constrain, num_shards
from seqgen.nn.positions import rotate
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


def _product(left: Array, right: Array, axes: tuple[int, int], options: _Options) -> Array:
    """Matrix products over the two leading axes of [B, G, ...], summed over `axes`."""
    contract = ((axes[0],), (axes[1],))
    # The CPU has no fast bfloat16 form of small batched products, and converting costs more.
    on_cpu = jax.default_backend() == "cpu"
    dtype = "float32" if on_cpu else options.compute_dtype
    return dot(left, right, contract, ((0, 1), (0, 1)), compute_dtype=dtype)


def _drop(weights: Array, key: Any, options: _Options) -> Array:
    """Dropout of [B, G, group * T, S] by head and query place, so that padding moves no bit."""
    batch, _, _, key_len = weights.shape
    heads = weights.shape[1] * options.group
    apart = weights.reshape(batch, heads, -1, key_len)
    return dropout(apart, options.dropout_rate, key).reshape(weights.shape)


def _turned(weights: Array) -> Array:
    """[B, G, T, S] -> [B, G, S, T] in memory too: products summed over T read it a third faster."""
    return row_major(weights.swapaxes(2, 3))


@partial(jax.custom_vjp, nondiff_argnums=(5,))
def _attend(
    query: Array, keys: Array, values: Array, mask: Array, key: Any, options: _Options
) -> tuple[Array, Array]:
    return _attend_forward(query, keys, values, mask, key, options)[0]


def _attend_forward(
    query: Array, keys: Array, values: Array, mask: Array, key: Any, options: _Options
) -> Any:
    scores = _product(query * query.shape[-1] ** -0.5, keys, (3, 3), options)
    scores = jnp.where(mask, scores, MASKED_SCORE)
    exponents = jnp.exp(scores - scores.max(-1, keepdims=True))
    weights = exponents * (1 / exponents.sum(-1, keepdims=True))
    mixed = _product(_drop(weights, key, options), values, (3, 2), options)
    return (mixed, weights), (query, keys, values, weights, key)


def _attend_backward(options: _Options, saved: Any, cotangents: tuple[Array, Array]) -> Any:
    # The weights are handed out for display; no gradient flows through them.
    query, keys, values, weights, key = saved
    d_mixed = cotangents[0]
    dropped = _drop(weights, key, options)
    d_values = _product(_turned(dropped), d_mixed, (3, 2), options)
    d_weights = _drop(_product(d_mixed, values, (3, 3), options), key, options)
    d_scores = weights * (d_weights - (weights * d_weights).sum(-1, keepdims=True))
    scale = query.shape[-1] ** -0.5
    d_query = _product(d_scores, keys, (3, 2), options) * scale
    d_keys = _product(_turned(d_scores), query, (3, 2), options) * scale
    return d_query, d_keys, d_values, None, None


_attend.defvjp(_attend_forward, _attend_backward)


def attend(
    query: Array,
    memory: KeyValues,
    mask: Array,
    *,
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
      dropout_rate, key: dropout on the weights.
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
    options = _Options(dropout_rate, compute_dtype, group)
    attended: Any = _attend(query, memory.keys, memory.values, mask, key, options)
    mixed, weights = attended
    shape = (batch, num_heads, query_len)
    return mixed.reshape(*shape, head_dim), weights.reshape(*shape, key_len)


class Attention(nnx.Module):
    """Projections around `attend`: queries from one sequence, keys and values from a memory."""

    def __init__(
        self,
        query_dim: int,
        memory_dim: int,
        *,
        num_heads: int,
        num_kv_heads: int | None = None,
        use_bias: bool = True,
        dropout_rate: float = 0.0,
        rotary: bool = False,
        compute_dtype: str = "float32",
        rngs: nnx.Rngs,
    ):
        """Args: rotary: turn queries and keys by their positions.

        Raises:
          ValueError: if heads do not divide the width, or key/value heads the heads.
        """
        num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        if query_dim % num_heads or num_heads % num_kv_heads:
            raise ValueError(
                f"{num_heads} heads must divide width {query_dim}, and {num_kv_heads} key/value "
                f"heads the {num_heads} heads"
            )
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads
        self.head_dim = query_dim // num_heads
        self.dropout_rate, self.rotary, self.compute_dtype = dropout_rate, rotary, compute_dtype
        kv_dim = num_kv_heads * self.head_dim

        def project(in_dim: int, out_dim: int, axes: tuple[str, str]) -> Dense:
            return Dense(
                in_dim,
                out_dim,
                axes=axes,
                use_bias=use_bias,
                compute_dtype=compute_dtype,
                rngs=rngs,
            )

        self.query = project(query_dim, query_dim, ("embed", "heads"))
        self.key = project(memory_dim, kv_dim, ("embed", "heads"))
        self.value = project(memory_dim, kv_dim, ("embed", "heads"))
        self.out = project(query_dim, query_dim, ("heads", "embed"))

    def _project(self, x: Array, layers: tuple[Dense, ...]) -> list[Array]:
        """Several projections of `x` as one product, unless heads are cut over devices."""
        if len(layers) == 1 or num_shards("heads") > 1:
            return [layer(x) for layer in layers]
        kernel = jnp.concatenate([layer.kernel[...] for layer in layers], axis=1)
        biases = [layer.bias[...] for layer in layers if layer.bias is not None]
        bias = jnp.concatenate(biases) if biases else None
        joint = dense(x, kernel, bias, compute_dtype=self.compute_dtype)
        cuts = list(itertools.accumulate(layer.kernel.shape[1] for layer in layers))
        return jnp.split(joint, cuts[:-1], axis=-1)

    def _heads(self, x: Array, num_heads: int) -> Array:
        """[B, T, num_heads * H] -> [B, num_heads, T, H]."""
        x = x.reshape(*x.shape[:2], num_heads, self.head_dim).swapaxes(1, 2)
        return constrain(x, ("batch", "heads", "length", "head_dim"))

    def project_query(self, x: Array, positions: Array) -> Array:
        """[B, T, D] -> [B, N, T, H]; `positions` int32 [B, T] matter to rotary attention only."""
        return self._place_query(self.query(x), positions)

    def _place_query(self, projected: Array, positions: Array) -> Array:
        query = self._heads(projected, self.num_heads)
        return rotate(query, positions) if self.rotary else query

    def _place_memory(self, keys: Array, values: Array, positions: Array) -> KeyValues:
        keys = self._heads(keys, self.num_kv_heads)
        values = self._heads(values, self.num_kv_heads)
        return KeyValues(rotate(keys, positions) if self.rotary else keys, values)

    def project_memory(self, memory: Array, positions: Array) -> KeyValues:
        """[B, S, E] -> keys and values [B, num_kv_heads, S, H]."""
        keys, values = self._project(memory, (self.key, self.value))
        return self._place_memory(keys, values, positions)

    def project_self(self, x: Array, positions: Array) -> tuple[Array, KeyValues]:
        """Query, and keys and values, of one sequence [B, T, D] by one product."""
        query, keys, values = self._project(x, (self.query, self.key, self.value))
        return self._place_query(query, positions), self._place_memory(keys, values, positions)

    def mix(
        self, query: Array, memory: KeyValues, mask: Array, *, key: Any = None
    ) -> tuple[Array, Array]:
        """Output [B, T, D] and weights [B, N, T, S] for projected queries and memory."""
        mixed, weights = attend(
            query,
            memory,
            mask,
            dropout_rate=self.dropout_rate,
            key=key,
            compute_dtype=self.compute_dtype,
        )
        merged = mixed.swapaxes(1, 2).reshape(mixed.shape[0], mixed.shape[2], -1)
        return self.out(merged), weights

    def __call__(
        self,
        x: Array,
        memory: Array | None,
        mask: Array,
        *,
        positions: Array,
        memory_positions: Array | None = None,
        key: Any = None,
    ) -> Array:
        """[B, T, D] attending over memory [B, S, E], or over itself (None), -> [B, T, D]."""
        if memory is None:
            query, key_values = self.project_self(x, positions)
        else:
            assert memory_positions is not None
            query = self.project_query(x, positions)
            key_values = self.project_memory(memory, memory_positions)
        return self.mix(query, key_values, mask, key=key)[0]


def init_cache(rows: int, num_kv_heads: int, max_len: int, head_dim: int) -> KeyValues:
    """An empty cache for `max_len` tokens a row."""
    shape = (rows, num_kv_heads, max_len, head_dim)
    return KeyValues(jnp.zeros(shape, jnp.float32), jnp.zeros(shape, jnp.float32))


def write_cache(cache: KeyValues, new: KeyValues, positions: Array, real: Array) -> KeyValues:
    """Put keys and values [R, G, T, H] at each row's own `positions` [R, T].

    Tokens that are not `real` (bool [R, T]) and positions beyond the cache are left out.
    """
    slots = jnp.where(real, positions, cache.keys.shape[2])
    rows = jnp.arange(slots.shape[0])[:, None]

    def put(old: Array, fresh: Array) -> Array:
        return old.at[rows, :, slots].set(fresh.swapaxes(1, 2), mode="drop")

    return KeyValues(put(cache.keys, new.keys), put(cache.values, new.values))


def share_beams(query: Array, num_beams: int) -> Array:
    """Queries [B * K, N, T, H] of beams -> [B, N, K * T, H], to attend over one shared memory."""
    rows, num_heads, query_len, head_dim = query.shape
    split = query.reshape(rows // num_beams, num_beams, num_heads, query_len, head_dim)
    return split.swapaxes(1, 2).reshape(-1, num_heads, num_beams * query_len, head_dim)
