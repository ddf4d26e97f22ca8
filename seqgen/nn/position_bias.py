"""Positions as numbers added to attention's scores, one for each head and distance.

A bias depends on the distance of query and key alone, and in self-attention distances along a row
are those of positions: packed examples do not see each other, and inside one positions run on. So a
bias is a vector a head, as long as there are distances; its square exists where scores do.
"""

import dataclasses
import math
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from seqgen.nn.attention_grid import BlockGrid
from seqgen.nn.parameters import param
from seqgen.types import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DistanceBias:
    """What is added to the scores of T queries and S keys.

    Attributes:
      values: float32 [N, T + S - 1]; column c is added where the key stands `c - (T - 1)` places
        after the query.
      trained: whether anybody wants the gradient.
    """

    values: Array
    trained: bool = dataclasses.field(default=False, metadata={"static": True})

    def dense(self, query_len: int, key_len: int) -> Array:
        """[N, T, S], one for all rows of a batch."""
        return spread(self.values, query_len, key_len)


def spread(values: Array, query_len: int, key_len: int) -> Array:
    """[N, T + S - 1] -> [N, T, S]: element (t, s) is column `s - t + T - 1`.

    Linear, so that its transpose, sums along diagonals, is what differentiation makes of it.
    """
    heads, width = values.shape
    rows = jnp.broadcast_to(values[:, None], (heads, query_len, width)).reshape(heads, -1)
    # Read again with rows one longer, every row begins one column further left than that before.
    rows = jnp.pad(rows, ((0, 0), (0, query_len))).reshape(heads, query_len, width + 1)
    return rows[:, ::-1, :key_len]


def pad_bias(bias: DistanceBias, grid: BlockGrid) -> DistanceBias:
    """With columns for the places that fill the last block of queries and of keys."""
    num_queries, num_keys = grid.shape
    more_queries = num_queries * grid.query_block - grid.query_len
    more_keys = num_keys * grid.key_block - grid.key_len
    values = jnp.pad(bias.values, ((0, 0), (more_queries, more_keys)))
    return dataclasses.replace(bias, values=values)


def first_column(query_block: Any, key_block: Any, grid: BlockGrid) -> Any:
    """Where in padded columns those of one block of scores begin."""
    behind = (grid.shape[0] - 1 - query_block) * grid.query_block
    return behind + key_block * grid.key_block


def bias_in_block(bias: DistanceBias, query_block: Any, key_block: Any, grid: BlockGrid) -> Array:
    """[N, query_block, key_block] of one block of scores; of a bias that is padded."""
    width = grid.query_block + grid.key_block - 1
    first = first_column(query_block, key_block, grid)
    columns = lax.dynamic_slice_in_dim(bias.values, first, width, 1)
    return spread(columns, grid.query_block, grid.key_block)


def add_diagonals(total: Array, d_block: Array, first: Any) -> Array:
    """Gradient of padded columns [N, .] with that of one block [N, query_block, key_block]."""
    heads, query_len, key_len = d_block.shape
    width = query_len + key_len - 1
    like = jax.ShapeDtypeStruct((heads, width), jnp.float32)
    (fresh,) = jax.linear_transpose(lambda v: spread(v, query_len, key_len), like)(d_block)
    fresh += lax.dynamic_slice_in_dim(total, first, width, 1)
    return lax.dynamic_update_slice_in_dim(total, fresh, first, 1)


class PositionBias(Protocol):
    """A bias by distance."""

    def __call__(self, distances: Array) -> Array:
        """[N, ...] of int32 distances [...]: how far the key stands after the query."""
        ...

    def of_lengths(self, query_len: int, key_len: int) -> DistanceBias:
        """For T queries and S keys whose first ones stand at the same place."""
        ...


def alibi_slopes(num_heads: int) -> np.ndarray:
    """float32 [N]: 2^(-8 i / N) for i = 1 ... N where N is a power of two.

    Otherwise those of the next lower power P, then every other one of 2 P, as in the authors' code
    (Press et al. 2022).
    """
    power = 2 ** int(math.log2(num_heads))
    slopes = 2.0 ** (-8 / power * np.arange(1, power + 1))
    between = 2.0 ** (-4 / power * np.arange(1, 2 * power + 1, 2))
    return np.concatenate([slopes, between])[:num_heads].astype(np.float32)


class Alibi(nnx.Module):
    """Attention with linear biases: the farther, the less, at a slope of each head's own.

    Press et al. 2022, "Train short, test long", section 3. Encoders count both ways alike.
    """

    def __init__(self, num_heads: int):
        self.num_heads = num_heads

    def __call__(self, distances: Array) -> Array:
        slopes = alibi_slopes(self.num_heads).reshape(-1, *[1] * distances.ndim)
        return -slopes * jnp.abs(distances)

    def of_lengths(self, query_len: int, key_len: int) -> DistanceBias:
        return DistanceBias(self(jnp.arange(1 - query_len, key_len)))


def relative_buckets(
    distances: Array, *, num_buckets: int, max_distance: int, bidirectional: bool
) -> Array:
    """Which bucket a distance falls into, int32 (Raffel et al. 2020, section 2.1, and their code).

    Half of the buckets stand for one distance each, the others for distances that grow by a factor;
    all from `max_distance` on share the last one.

    Args:
      distances: int32, how far the key stands after the query.
      num_buckets: of both directions together.
      max_distance: from where on nothing is told apart.
      bidirectional: later keys have half of the buckets to themselves; otherwise they share the
        first with the query's own place.
    """
    before = -distances
    offset = jnp.zeros_like(distances)
    if bidirectional:
        num_buckets //= 2
        offset = jnp.where(before < 0, num_buckets, 0)
        before = jnp.abs(before)
    before = jnp.maximum(before, 0)
    exact = num_buckets // 2
    ratio = jnp.log(jnp.maximum(before, exact).astype(jnp.float32) / exact)
    scale = np.float32((num_buckets - exact) / math.log(max_distance / exact))
    far = exact + (ratio * scale).astype(jnp.int32)
    return offset + jnp.where(before < exact, before, jnp.minimum(far, num_buckets - 1))


class RelativeBias(nnx.Module):
    """T5's trained bias of each head and bucket of distances (Raffel et al. 2020, section 2.1)."""

    def __init__(
        self,
        num_heads: int,
        *,
        num_buckets: int,
        max_distance: int,
        bidirectional: bool,
        scale: float,
        rngs: nnx.Rngs,
    ):
        """Args: scale: standard deviation of the table's start; the others: `relative_buckets`."""
        start = jax.random.normal(rngs.params(), (num_buckets, num_heads), jnp.float32) * scale
        self.table = param(start, (None, "heads"))
        self.num_buckets, self.max_distance = num_buckets, max_distance
        self.bidirectional = bidirectional

    def __call__(self, distances: Array) -> Array:
        buckets = relative_buckets(
            distances,
            num_buckets=self.num_buckets,
            max_distance=self.max_distance,
            bidirectional=self.bidirectional,
        )
        return jnp.moveaxis(self.table[...][buckets], -1, 0)

    def of_lengths(self, query_len: int, key_len: int) -> DistanceBias:
        return DistanceBias(self(jnp.arange(1 - query_len, key_len)), trained=True)
