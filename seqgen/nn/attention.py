"""Multi-head and grouped-query attention, with a key/value cache for decoding.

Scaled dot-product attention and heads: Vaswani et al. 2017, section 3.2; grouped queries: Ainslie
et al. 2023. Arrays stand as [B, N, T, H]: both products are then plain batched matrix products.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from seqgen.nn.dense import Dense, batched_matmul
from seqgen.nn.dropout import dropout
from seqgen.nn.partitioning import constrain
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


def attend(
    query: Array,
    memory: KeyValues,
    mask: Array,
    *,
    dropout_rate: float = 0.0,
    key: Any = None,
    compute_dtype: str = "float32",
) -> tuple[Array, Array]:
    """Softmax-weighted values, and the weights before dropout.

    Args:
      query: [B, N, T, H].
      memory: keys and values [B, G, S, H] where G divides N; query heads n * (N / G) ... share
        key/value head n.
      mask: bool, broadcastable to [B, 1, T, S]; True = may be seen.
      dropout_rate, key: dropout on the weights.

    Returns:
      mixed [B, N, T, H] and weights [B, N, T, S], both float32. A row that may see nothing gives
      the mean of the values.
    """
    batch, num_heads, query_len, head_dim = query.shape
    num_kv_heads, key_len = memory.keys.shape[1], memory.keys.shape[2]
    grouped = query.reshape(batch, num_kv_heads, -1, head_dim) * head_dim**-0.5
    scores = batched_matmul(grouped, memory.keys.swapaxes(2, 3), compute_dtype)
    scores = scores.reshape(batch, num_heads, query_len, key_len)
    weights = jax.nn.softmax(jnp.where(mask, scores, MASKED_SCORE), axis=-1)
    dropped = dropout(weights, dropout_rate, key)
    dropped = dropped.reshape(batch, num_kv_heads, -1, key_len)
    mixed = batched_matmul(dropped, memory.values, compute_dtype)
    return mixed.reshape(query.shape), weights


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

    def _heads(self, x: Array, num_heads: int) -> Array:
        """[B, T, num_heads * H] -> [B, num_heads, T, H]."""
        x = x.reshape(*x.shape[:2], num_heads, self.head_dim).swapaxes(1, 2)
        return constrain(x, ("batch", "heads", "length", "head_dim"))

    def project_query(self, x: Array, positions: Array) -> Array:
        """[B, T, D] -> [B, N, T, H]; `positions` int32 [B, T] matter to rotary attention only."""
        query = self._heads(self.query(x), self.num_heads)
        return rotate(query, positions) if self.rotary else query

    def project_memory(self, memory: Array, positions: Array) -> KeyValues:
        """[B, S, E] -> keys and values [B, num_kv_heads, S, H]."""
        keys = self._heads(self.key(memory), self.num_kv_heads)
        values = self._heads(self.value(memory), self.num_kv_heads)
        return KeyValues(rotate(keys, positions) if self.rotary else keys, values)

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
        memory: Array,
        mask: Array,
        *,
        positions: Array,
        memory_positions: Array,
        key: Any = None,
    ) -> Array:
        """[B, T, D] attending over memory [B, S, E] -> [B, T, D]."""
        query = self.project_query(x, positions)
        return self.mix(query, self.project_memory(memory, memory_positions), mask, key=key)[0]


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
