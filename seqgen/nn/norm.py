"""Normalisation over the last axis, in float32 with a scale that starts at one.

The gradients are written by hand: plain differentiation keeps several arrays of the input's size
for each norm, this keeps the input and two numbers a vector. The sums are fenced off from what
follows (`row_major`), and those of the gradient are products with a vector: XLA:CPU otherwise joins
sums and elementwise work into one kernel that takes five times as long.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from seqgen.nn.dense import dot, row_major
from seqgen.nn.parameters import param
from seqgen.types import Array


def _weighted_mean(x: Array, weights: Array) -> Array:
    """Mean of `x * weights` over the last axis, which stays with size 1."""
    total = dot(x, weights / x.shape[-1], ((x.ndim - 1,), (0,)), compute_dtype="float32")
    return total[..., None]


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _layer_norm(x: Array, scale: Array, bias: Array | None, epsilon: float) -> Array:
    return _layer_norm_forward(x, scale, bias, epsilon)[0]


def _layer_norm_forward(x: Array, scale: Array, bias: Array | None, epsilon: float) -> Any:
    mean = row_major(x.mean(-1, keepdims=True))
    inverse = row_major(lax.rsqrt(jnp.square(x - mean).mean(-1, keepdims=True) + epsilon))
    y = (x - mean) * inverse * scale
    return (y if bias is None else y + bias), (x, mean, inverse, scale, bias is not None)


def _layer_norm_backward(epsilon: float, saved: Any, dy: Array) -> Any:
    x, mean, inverse, scale, has_bias = saved
    leading = tuple(range(x.ndim - 1))
    unit = (x - mean) * inverse
    dy_unit = row_major(dy * unit)
    along = _weighted_mean(dy_unit, scale)
    dx = (dy * scale - _weighted_mean(dy, scale) - unit * along) * inverse
    return dx, dy_unit.sum(leading), dy.sum(leading) if has_bias else None


_layer_norm.defvjp(_layer_norm_forward, _layer_norm_backward)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def _rms_norm(x: Array, scale: Array, epsilon: float) -> Array:
    return _rms_norm_forward(x, scale, epsilon)[0]


def _rms_norm_forward(x: Array, scale: Array, epsilon: float) -> Any:
    inverse = row_major(lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + epsilon))
    return x * inverse * scale, (x, inverse, scale)


def _rms_norm_backward(epsilon: float, saved: Any, dy: Array) -> Any:
    x, inverse, scale = saved
    unit = x * inverse
    dy_unit = row_major(dy * unit)
    dx = (dy * scale - unit * _weighted_mean(dy_unit, scale)) * inverse
    return dx, dy_unit.sum(tuple(range(x.ndim - 1)))


_rms_norm.defvjp(_rms_norm_forward, _rms_norm_backward)


class LayerNorm(nnx.Module):
    """Zero mean and unit variance per vector, then scale and bias (Ba et al. 2016)."""

    def __init__(self, dim: int, *, use_bias: bool = True, epsilon: float = 1e-5):
        self.scale = param(jnp.ones(dim, jnp.float32), ("embed",))
        self.bias = param(jnp.zeros(dim, jnp.float32), ("embed",)) if use_bias else None
        self.epsilon = epsilon

    def __call__(self, x: Array) -> Array:
        bias = None if self.bias is None else self.bias[...]
        return _layer_norm(x, self.scale[...], bias, self.epsilon)


class RMSNorm(nnx.Module):
    """Unit mean square per vector, then scale (Zhang and Sennrich 2019)."""

    def __init__(self, dim: int, *, epsilon: float = 1e-6, axis: str = "embed"):
        """Args: axis: logical name of the vectors' axis."""
        self.scale = param(jnp.ones(dim, jnp.float32), (axis,))
        self.epsilon = epsilon

    def __call__(self, x: Array) -> Array:
        return _rms_norm(x, self.scale[...], self.epsilon)


def build_norm(
    kind: str, dim: int, *, use_bias: bool = True, epsilon: float | None = None
) -> LayerNorm | RMSNorm:
    """The norm that a config names: 'layernorm' or 'rmsnorm'; None is its own usual epsilon."""
    options: dict[str, Any] = {} if epsilon is None else {"epsilon": epsilon}
    if kind == "rmsnorm":
        return RMSNorm(dim, **options)
    if kind == "layernorm":
        return LayerNorm(dim, use_bias=use_bias, **options)
    raise ValueError(f"unknown norm {kind!r}: layernorm or rmsnorm")
