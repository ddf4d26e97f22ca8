"""Metrics as sums with weights, so that means over unequal batches are exact."""

import dataclasses

import jax
import jax.numpy as jnp

from seqgen.types import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class WeightedMean:
    """A mean kept as `total` and `weight` (both float32 scalars) until it is read.

    Adding two of them merges them: sums of micro-batches, shards and steps are exact means.
    """

    total: Array
    weight: Array

    def __add__(self, other: "WeightedMean") -> "WeightedMean":
        return WeightedMean(self.total + other.total, self.weight + other.weight)

    def mean(self) -> Array:
        """`total / weight`; 0 where the weight is 0."""
        return jnp.where(self.weight > 0, self.total / jnp.maximum(self.weight, 1e-30), 0.0)
