"""Normalisation over the last axis, in float32 with a scale that starts at one."""

import jax.numpy as jnp
from flax import nnx
from jax import lax

from seqgen.nn.parameters import param
from seqgen.types import Array


class LayerNorm(nnx.Module):
    """Zero mean and unit variance per vector, then scale and bias (Ba et al. 2016)."""

    def __init__(self, dim: int, *, use_bias: bool = True, epsilon: float = 1e-5):
        self.scale = param(jnp.ones(dim, jnp.float32), ("embed",))
        self.bias = param(jnp.zeros(dim, jnp.float32), ("embed",)) if use_bias else None
        self.epsilon = epsilon

    def __call__(self, x: Array) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        variance = jnp.square(centred).mean(-1, keepdims=True)
        y = centred * lax.rsqrt(variance + self.epsilon) * self.scale[...]
        return y if self.bias is None else y + self.bias[...]


class RMSNorm(nnx.Module):
    """Unit mean square per vector, then scale (Zhang and Sennrich 2019)."""

    def __init__(self, dim: int, *, epsilon: float = 1e-6):
        self.scale = param(jnp.ones(dim, jnp.float32), ("embed",))
        self.epsilon = epsilon

    def __call__(self, x: Array) -> Array:
        mean_square = jnp.square(x).mean(-1, keepdims=True)
        return x * lax.rsqrt(mean_square + self.epsilon) * self.scale[...]


def build_norm(kind: str, dim: int, *, use_bias: bool = True) -> LayerNorm | RMSNorm:
    """The norm that a config names: 'layernorm' or 'rmsnorm'."""
    if kind == "rmsnorm":
        return RMSNorm(dim)
    if kind == "layernorm":
        return LayerNorm(dim, use_bias=use_bias)
    raise ValueError(f"unknown norm {kind!r}: layernorm or rmsnorm")
