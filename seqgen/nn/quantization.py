"""Parameters in less precision, for inference.

8 bits: a scale for each channel, symmetric around zero.

A channel is an output of a kernel [I, O] or a row of a table [V, D]; its largest weight becomes
127. What is multiplied with such weights is rounded to 8 bits row by row when it is known (dynamic
quantisation: Jacob et al. 2018; Bhandare et al. 2019 for Transformers).
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from seqgen.types import Array, Params

LARGEST = 127


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Int8Weights:
    """A matrix (or a stack of matrices) of 8-bit weights.

    Attributes:
      values: int8 [..., I, O] or [..., V, D].
      scales: float32 of the same rank, with 1 in place of the axis that a channel runs along.
    """

    values: Array
    scales: Array

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the matrix."""
        return self.values.shape

    @property
    def ndim(self) -> int:
        """Axes of the matrix."""
        return self.values.ndim

    def __getitem__(self, index: Any) -> "Int8Weights":
        """Part of the leading axis, channels whole."""
        return Int8Weights(self.values[index], self.scales[index])


def quantize_rows(x: Array, axis: int) -> tuple[Array, Array]:
    """Float32 x -> int8 of its shape and the scales, 1 long on `axis`: x ~ values * scales."""
    largest = jnp.max(jnp.abs(x), axis=axis, keepdims=True)
    scales = jnp.where(largest > 0, largest / LARGEST, 1.0)
    return jnp.round(x / scales).astype(jnp.int8), scales


def as_float(weights: Array | Int8Weights) -> Array:
    """The matrix in float32, where a product needs it so."""
    if not isinstance(weights, Int8Weights):
        return weights
    return weights.values.astype(jnp.float32) * weights.scales


def join_outputs(kernels: Sequence[Any]) -> Any:
    """Kernels [I, O1], [I, O2], ... as one [I, O1 + O2 + ...]."""
    return jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=-1), *kernels)


def inference_params(
    params: Params, summed_axes: Params, *, compute_dtype: str, int8: bool
) -> Params:
    """Parameters in the form in which a model that computes in `compute_dtype` reads them fastest.

    Args:
      params: nested dict of float32 arrays.
      summed_axes: `Definition.summed_axes` of the model.
      compute_dtype: 'float32' or 'bfloat16'.
      int8: hold the matrices of products in 8 bits.
    """
    if int8:
        return jax.jit(lambda given: quantize_params(given, summed_axes))(params)
    return round_kernels(params, summed_axes) if compute_dtype == "bfloat16" else params


def round_kernels(params: Params, summed_axes: Params) -> Params:
    """The same parameters with the kernels of products in bfloat16.

    A model that computes in bfloat16 would round them at every call; its results are the same.
    Tables stay, for they are looked up in float32 too.
    """

    def convert(leaf: Array, axis: int) -> Array:
        return leaf.astype(jnp.bfloat16) if axis == -2 else leaf

    return jax.tree.map(convert, params, summed_axes)


def quantize_params(params: Params, summed_axes: Params) -> Params:
    """The same parameters with the matrices of products in 8 bits.

    Args:
      params: nested dict of float32 arrays.
      summed_axes: `Definition.summed_axes` of the model.
    """

    def convert(leaf: Array, axis: int) -> Any:
        return Int8Weights(*quantize_rows(leaf, axis)) if axis else leaf

    return jax.tree.map(convert, params, summed_axes)
