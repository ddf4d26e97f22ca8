"""Position signals: fixed sinusoids, a learned table, rotations of queries and keys."""

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


def rotate(x: Array, positions: Array, *, base: float = 10_000.0) -> Array:
    """Rotary positions (Su et al. 2021): scores then depend on position differences alone.

    Feature i is paired with feature i + H/2 and the pair is turned by `position * base^(-2i/H)`.

    Args:
      x: queries or keys float32 [B, N, T, H], H even.
      positions: int32 [B, T].
    """
    half = x.shape[-1] // 2
    frequencies = np.exp(np.arange(half) * (-math.log(base) / half)).astype(np.float32)
    angles = positions[:, None, :, None].astype(jnp.float32) * frequencies
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
