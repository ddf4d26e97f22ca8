"""The matrix products that everything learnable goes through.

With `compute_dtype='bfloat16'` the OPERANDS of a product are rounded to bfloat16 while sums and
results are float32, forward and in both gradients; parameters, activations and bias gradients are
never rounded. With 'float32' products are exact float32. The gradients are written by hand for
speed: plain differentiation lets XLA:CPU fuse the whole residual-gradient chain into the transposed
copy made for each weight gradient.

Results are pinned to row-major memory: on CPU a transpose that follows a bfloat16 product would
otherwise be folded into the product, whose fast kernel has no such form and fails when it runs.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax
from jax.experimental.layout import Layout, with_layout_constraint

from seqgen.nn.parameters import param
from seqgen.nn.quantization import Int8Weights, quantize_rows
from seqgen.types import Array

Initializer = Callable[..., Array]
COMPUTE_DTYPES = ("float32", "bfloat16")

xavier_uniform = nnx.initializers.xavier_uniform()


# Inside a function of its own: where a layout constraint is itself a result of a jitted program,
# jax 0.10 leaves the layouts of ALL the program's results to XLA, and arrays that come out with
# another one are then misread by the next program.
@jax.jit
def _row_major(x: Array) -> Array:
    return with_layout_constraint(x, Layout(major_to_minor=tuple(range(x.ndim))))


def row_major(x: Array) -> Array:
    """`x`, laid out in memory with its last axis contiguous (does nothing off the CPU)."""
    return _row_major(x) if jax.default_backend() == "cpu" else x


def dot(
    left: Array,
    right: Any,
    contract: tuple[tuple[int, ...], tuple[int, ...]],
    batch: tuple[tuple[int, ...], tuple[int, ...]] = ((), ()),
    *,
    compute_dtype: str,
) -> Array:
    """`lax.dot_general` in the project's precision: a float32 result, no hand-written gradient.

    Args:
      left, right: operands; cast to `compute_dtype`, but for 8-bit weights [I, O] on the right:
        then the rows of `left` are rounded to 8 bits too.
      contract: the axes summed over, of left and of right.
      batch: the axes kept in step, of left and of right.
      compute_dtype: 'float32' or 'bfloat16'.
    """
    if isinstance(right, Int8Weights):
        return _dot_int8(left, right, contract)
    if compute_dtype == "bfloat16":
        left, right = left.astype(jnp.bfloat16), right.astype(jnp.bfloat16)
    elif compute_dtype != "float32":
        raise ValueError(f"compute_dtype {compute_dtype!r} is not one of {COMPUTE_DTYPES}")
    result = lax.dot_general(
        left,
        right,
        (contract, batch),
        precision=lax.Precision.HIGHEST if compute_dtype == "float32" else None,
        preferred_element_type=jnp.float32,
    )
    return row_major(result)


# Rows from which on the CPU multiplies 8-bit numbers faster as bfloat16, which holds them exactly.
_FEW_ROWS = 16


def _dot_int8(
    left: Array, right: Int8Weights, contract: tuple[tuple[int, ...], tuple[int, ...]]
) -> Array:
    """Rows of `left` in 8 bits times 8-bit weights, summed as integers (see `dot`)."""
    (left_axis,), (axis,) = contract
    if left_axis != left.ndim - 1 or right.scales.shape[axis] != 1:
        raise ValueError(f"8-bit weights {right.shape} cannot be summed over axis {axis}")
    lead, width = left.shape[:-1], right.shape[1 - axis]
    rows, row_scales = quantize_rows(left.reshape(-1, left.shape[-1]), -1)
    num_rows = rows.shape[0]
    values, total = right.values, jnp.int32
    if jax.default_backend() == "cpu":
        if num_rows >= _FEW_ROWS:
            # Sums of at most 1,024 products are exact in float32 too.
            rows, values, total = (
                rows.astype(jnp.bfloat16),
                values.astype(jnp.bfloat16),
                jnp.float32,
            )
        elif num_rows == 1:
            rows = jnp.pad(rows, ((0, 1), (0, 0)))  # two rows take a third of the time of one
    dims = (((1,), (axis,)), ((), ()))
    sums = row_major(lax.dot_general(rows, values, dims, preferred_element_type=total))
    y = sums[:num_rows].astype(jnp.float32) * row_scales * right.scales.reshape(1, width)
    return y.reshape(*lead, width)


def weight_gradient(x: Array, dy: Array, *, compute_dtype: str) -> Array:
    """`x^T dy` summed over all leading axes: x [..., I], dy [..., O] -> float32 [I, O]."""
    rows = x.reshape(-1, x.shape[-1])
    dy_rows = dy.reshape(-1, dy.shape[-1])
    if compute_dtype == "float32":
        return dot(rows, dy_rows, ((0,), (0,)), compute_dtype=compute_dtype)
    # The bfloat16 kernel wants contiguous rows in the transposed operand too.
    rows = row_major(rows.astype(jnp.bfloat16).T)
    return dot(rows, dy_rows, ((1,), (0,)), compute_dtype=compute_dtype)


def _operand(x: Array, compute_dtype: str) -> Array:
    """`x` as rows [tokens, width] in the operands' dtype, made once for all products with it."""
    return x.reshape(-1, x.shape[-1]).astype(compute_dtype)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _dense(x: Array, kernel: Array, bias: Array | None, compute_dtype: str) -> Array:
    return _dense_forward(x, kernel, bias, compute_dtype)[0]


def _dense_forward(x: Array, kernel: Array, bias: Array | None, compute_dtype: str) -> Any:
    rows = _operand(x, compute_dtype)
    y = dot(rows, kernel, ((1,), (0,)), compute_dtype=compute_dtype)
    y = y.reshape(*x.shape[:-1], kernel.shape[1])
    return (y if bias is None else y + bias), (rows, kernel, bias is not None)


def _dense_backward(compute_dtype: str, saved: Any, dy: Array) -> Any:
    rows, kernel, has_bias = saved
    dy_rows = _operand(dy, compute_dtype)
    dx = dot(dy_rows, kernel, ((1,), (1,)), compute_dtype=compute_dtype)
    d_kernel = weight_gradient(rows, dy_rows, compute_dtype=compute_dtype)
    d_bias = dy.sum(tuple(range(dy.ndim - 1)), dtype=jnp.float32) if has_bias else None
    return dx.reshape(*dy.shape[:-1], kernel.shape[0]), d_kernel, d_bias


_dense.defvjp(_dense_forward, _dense_backward)


def dense(
    x: Array, kernel: Array | Int8Weights, bias: Array | None = None, *, compute_dtype: str
) -> Array:
    """`x kernel + bias`: [..., I] x [I, O] -> float32 [..., O], with hand-written gradients.

    Args:
      x: float32 [..., I].
      kernel: float32 [I, O], or 8-bit weights (without gradients).
      bias: float32 [O] or None.
      compute_dtype: 'float32' (exact) or 'bfloat16' (rounded operands, float32 sums).
    """
    if isinstance(kernel, Int8Weights):
        y = dot(x, kernel, ((x.ndim - 1,), (0,)), compute_dtype=compute_dtype)
        return y if bias is None else y + bias
    return _dense(x, kernel, bias, compute_dtype)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def batched_matmul(left: Array, right: Array, compute_dtype: str) -> Array:
    """[..., M, C] x [..., C, P] -> float32 [..., M, P]; leading axes are equal in both."""
    batch = tuple(range(left.ndim - 2))
    contract = ((left.ndim - 1,), (right.ndim - 2,))
    return dot(left, right, contract, (batch, batch), compute_dtype=compute_dtype)


def _batched_forward(left: Array, right: Array, compute_dtype: str) -> Any:
    if compute_dtype == "bfloat16":
        left, right = left.astype(jnp.bfloat16), right.astype(jnp.bfloat16)
    return batched_matmul(left, right, compute_dtype), (left, right)


def _batched_backward(compute_dtype: str, saved: Any, dy: Array) -> Any:
    left, right = saved
    batch = tuple(range(left.ndim - 2))
    last, before = left.ndim - 1, left.ndim - 2
    d_left = dot(dy, right, ((last,), (last,)), (batch, batch), compute_dtype=compute_dtype)
    d_right = dot(left, dy, ((before,), (before,)), (batch, batch), compute_dtype=compute_dtype)
    return d_left, d_right


batched_matmul.defvjp(_batched_forward, _batched_backward)


class Dense(nnx.Module):
    """An affine map of the last axis, [..., in_dim] -> [..., out_dim]."""

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        *,
        axes: tuple[str | None, str | None] = ("embed", "mlp"),
        use_bias: bool = True,
        kernel_init: Initializer = xavier_uniform,
        compute_dtype: str = "float32",
        rngs: nnx.Rngs,
    ):
        """Args: axes: logical axis names of the kernel; the bias (zeros) takes the second."""
        kernel = kernel_init(rngs.params(), (in_dim, out_dim), jnp.float32)
        self.kernel = param(kernel, axes, summed_axis=-2)
        self.bias = param(jnp.zeros(out_dim, jnp.float32), axes[1:]) if use_bias else None
        self.compute_dtype = compute_dtype

    def __call__(self, x: Array) -> Array:
        bias = None if self.bias is None else self.bias[...]
        return dense(x, self.kernel[...], bias, compute_dtype=self.compute_dtype)
