"""Position signals that are added to embeddings: fixed sinusoids, a learned table."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seqgen.nn.parameters import param
from seqgen.types import Array


def sinusoid_table(length: int, dim: int) -> np.ndarray:
    """float32 [length, dim]: sin in even columns, cos in odd ones (Vaswani et al. 2017, 3.5).

    Column pair 2i, 2i + 1 turns with angle `position / 10000^(2i / dim)`; an odd `dim` ends with a
    sine.
    """
    frequencies = np.exp(np.arange(0, dim, 2) * (-math.log(10_000.0) / dim))
    angles = np.arange(length)[:, None] * frequencies
    table = np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(length, -1)
    return table[:, :dim].astype(np.float32)


class LearnedPositions(nnx.Module):
    """One trained vector a position, started from normal(0, dim^-0.5)."""

    def __init__(self, max_positions: int, dim: int, *, rngs: nnx.Rngs):
        table = jax.random.normal(rngs.params(), (max_positions, dim), jnp.float32) * dim**-0.5
        self.table = param(table, (None, "embed"))
        self.max_positions = max_positions

    def __call__(self, positions: Array) -> Array:
        """Vectors [..., dim]; positions beyond the table take its last row."""
        return jnp.take(self.table[...], positions, axis=0, mode="clip")
