"""A scan over time whose weight gradients are formed once, after the backward pass.

Differentiating a scan as it stands forms every weight gradient anew at each step, as a product of
two thin matrices that is added to a large sum. Here a step asks for its products by name, through
`project`, so that the backward pass can be arranged otherwise:

* forward, the result of each product and the state before each step are kept;
* backward, each step is replayed from them without repeating a single product (elementwise work is
  done again, which costs less than keeping it), and only the gradients of products are kept;
* afterwards each weight gradient is ONE product over all steps.

The same holds for products with a matrix of each row's own, such as attention's context. Sequences
added to a product ("hoisted" parts of it, computed for all steps at once) receive the product's own
gradient, at no cost.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax import lax

from seqgen.nn.dense import dot, row_major, weight_gradient
from seqgen.types import Array, PyTree


class Project(Protocol):
    """What a step calls for its products, by name."""

    def __call__(self, name: str, x: Array) -> Array:
        """The product of x [R, I] with the kernel `name`, its bias and its hoisted part: [R, O]."""
        ...

    def keep(self, name: str, value: Array) -> Array:
        """`value`, kept for the backward pass: for small results of costly elementwise work."""
        ...


Step = Callable[[Project, PyTree, PyTree, PyTree], tuple[PyTree, PyTree]]


def time_scan(
    step: Step,
    carry: PyTree,
    inputs: PyTree = None,
    *,
    kernels: Mapping[str, Array],
    biases: Mapping[str, Array] | None = None,
    hoisted: Mapping[str, Array] | None = None,
    constants: PyTree = None,
    compute_dtype: str,
    reverse: bool = False,
) -> tuple[PyTree, PyTree]:
    """Run `step` over the leading axis of `inputs` and `hoisted`; differentiable in all arrays.

    Args:
      step: `(project, constants, carry, input) -> (carry, output)`, with products from `project`;
        each name is used at most once a step. The function may not close over traced arrays.
      carry: arrays [R, ...] before the first step.
      inputs: arrays [T, ...], or None.
      kernels: [I, O], shared by all rows, or [B, I, O] with R = B * K: row r uses kernel r // K.
      biases: [O] for some of the kernels.
      hoisted: [T, R, O] for some of the kernels.
      constants: arrays that every step reads; their gradients are summed step by step.
      compute_dtype: 'float32' or 'bfloat16', of the products.
      reverse: run from the last step to the first.

    Returns:
      The last carry and the outputs, stacked [T, ...].
    """
    arrays = (dict(kernels), dict(biases or {}), carry, dict(hoisted or {}), inputs, constants)
    return _scan(step, compute_dtype, reverse, *arrays)


def _operand(kernel: Array, compute_dtype: str) -> Array:
    return kernel.astype(jnp.bfloat16) if compute_dtype == "bfloat16" else kernel


def _product(x: Array, kernel: Array, compute_dtype: str) -> Array:
    """Product of x [R, I] with a kernel [I, O] or [B, I, O] -> float32 [R, O]."""
    if kernel.ndim == 2:
        return dot(x, kernel, ((1,), (0,)), compute_dtype=compute_dtype)
    rows = x.reshape(kernel.shape[0], -1, kernel.shape[1])
    out = dot(rows, kernel, ((2,), (1,)), ((0,), (0,)), compute_dtype=compute_dtype)
    return out.reshape(x.shape[0], kernel.shape[2])


def _input_gradient(dy: Array, kernel: Array, compute_dtype: str) -> Array:
    """Gradient of `_product` with respect to x."""
    if kernel.ndim == 2:
        return dot(dy, kernel, ((1,), (1,)), compute_dtype=compute_dtype)
    rows = dy.reshape(kernel.shape[0], -1, kernel.shape[2])
    dx = dot(rows, kernel, ((2,), (2,)), ((0,), (0,)), compute_dtype=compute_dtype)
    return dx.reshape(dy.shape[0], kernel.shape[1])


def _kernel_gradient(x: Array, dy: Array, kernel: Array, compute_dtype: str) -> Array:
    """Gradient of `_product` with respect to the kernel, summed over steps: x, dy [T, R, .]."""
    if kernel.ndim == 2:
        return weight_gradient(x, dy, compute_dtype=compute_dtype)

    def by_sentence(values: Array) -> Array:
        values = values.reshape(values.shape[0], kernel.shape[0], -1, values.shape[2])
        return values.swapaxes(0, 1).reshape(kernel.shape[0], -1, values.shape[3])

    rows = by_sentence(x), by_sentence(dy)
    return dot(*rows, ((1,), (1,)), ((0,), (0,)), compute_dtype=compute_dtype)


@jax.custom_vjp
def _known(value: Array, result: Array) -> Array:
    """`result`, in place of the equal `value`, to which the gradient flows."""
    del value
    return result


def _known_forward(value: Array, result: Array) -> Any:
    del value
    return result, None


def _known_backward(saved: None, dy: Array) -> Any:
    del saved
    return dy, jnp.zeros_like(dy)


_known.defvjp(_known_forward, _known_backward)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _replayed(x: Array, kernel: Array, result: Array, compute_dtype: str) -> Array:
    """The known result of a product, whose gradient flows to x and, untouched, to `result`."""
    del x, kernel
    return result


def _replayed_forward(x: Array, kernel: Array, result: Array, compute_dtype: str) -> Any:
    del x
    return result, kernel


def _replayed_backward(compute_dtype: str, kernel: Array, dy: Array) -> Any:
    return _input_gradient(dy, kernel, compute_dtype), None, dy


_replayed.defvjp(_replayed_forward, _replayed_backward)


def _fence(sliced: PyTree) -> PyTree:
    """The slices of this step, as arrays of their own.

    Fused into elementwise work, a slice taken at a varying index keeps XLA:CPU from vectorising it
    (a GRU's gates then take eight times as long); what a layout is asked of is not fused.
    """
    is_float = lambda leaf: jnp.issubdtype(leaf.dtype, jnp.floating)  # noqa: E731
    return jax.tree.map(lambda leaf: row_major(leaf) if is_float(leaf) else leaf, sliced)


class _Forward:
    """Computes products, and notes what the backward pass will want."""

    def __init__(self, kernels, biases, added, compute_dtype):
        self._kernels, self._biases, self._added = kernels, biases, added
        self._compute_dtype = compute_dtype
        self.results: dict[str, Array] = {}
        self.kept: dict[str, Array] = {}

    def __call__(self, name: str, x: Array) -> Array:
        assert name not in self.results, f"product {name!r} is used twice in a step"
        result = _product(x, self._kernels[name], self._compute_dtype)
        for terms in (self._biases, self._added):
            if name in terms:
                result = result + terms[name]
        self.results[name] = result
        return result

    def keep(self, name: str, value: Array) -> Array:
        self.kept[name] = value
        return value


class _Replay:
    """Gives back what `_Forward` noted, and notes the operands of products."""

    def __init__(self, kernels, results, kept, compute_dtype):
        self._kernels, self._results, self._kept = kernels, results, kept
        self._compute_dtype = compute_dtype
        self.used: dict[str, Array] = {}

    def __call__(self, name: str, x: Array) -> Array:
        self.used[name] = _operand(x, self._compute_dtype)
        return _replayed(x, self._kernels[name], self._results[name], self._compute_dtype)

    def keep(self, name: str, value: Array) -> Array:
        return _known(value, self._kept[name])


def _run(step, compute_dtype, reverse, kernels, biases, carry, hoisted, inputs, constants, save):
    kernels = {name: _operand(kernel, compute_dtype) for name, kernel in kernels.items()}

    def body(carry, sliced):
        added, x = _fence(sliced)
        project = _Forward(kernels, biases, added, compute_dtype)
        new_carry, output = step(project, constants, carry, x)
        kept = (carry, project.results, project.kept) if save else None
        return new_carry, (output, kept)

    carry, (outputs, saved) = lax.scan(body, carry, (hoisted, inputs), reverse=reverse)
    return carry, outputs, saved


@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _scan(step, compute_dtype, reverse, *arrays):
    carry, outputs, _ = _run(step, compute_dtype, reverse, *arrays, save=False)
    return carry, outputs


def _scan_forward(step, compute_dtype, reverse, *arrays):
    carry, outputs, saved = _run(step, compute_dtype, reverse, *arrays, save=True)
    kernels, biases, _, hoisted, inputs, constants = arrays
    names = dict.fromkeys(biases), dict.fromkeys(hoisted)
    return (carry, outputs), (saved, kernels, *names, inputs, constants)


class _FloatPart:
    """The floating-point leaves of a tree, and how to put them back among the others."""

    def __init__(self, tree: PyTree):
        self._leaves, self._structure = jax.tree.flatten(tree)
        self._is_float = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in self._leaves]
        self.leaves = [leaf for leaf, use in zip(self._leaves, self._is_float) if use]

    def merge(self, leaves: Sequence[Array], *, others: bool = True) -> PyTree:
        """The tree with its float leaves replaced, the others kept or (for gradients) None."""
        replaced = iter(leaves)
        merged = [
            next(replaced) if use else (leaf if others else None)
            for leaf, use in zip(self._leaves, self._is_float)
        ]
        return jax.tree.unflatten(self._structure, merged)


def _scan_backward(step, compute_dtype, reverse, residuals, cotangents):
    (carries, results, kept), kernels, biased, hoisted, inputs, constants = residuals
    operands = {name: _operand(kernel, compute_dtype) for name, kernel in kernels.items()}
    fixed = _FloatPart(constants)

    def body(sums, sliced):
        d_carry, d_constants = sums
        carry, result, kept, x, d_output = sliced
        varying = _FloatPart(x)

        def replay(carry, x_leaves, constant_leaves, result):
            project = _Replay(operands, result, kept, compute_dtype)
            after = step(project, fixed.merge(constant_leaves), carry, varying.merge(x_leaves))
            return after, project.used

        _, pull_back, used = jax.vjp(
            replay, carry, varying.leaves, fixed.leaves, result, has_aux=True
        )
        d_carry, d_x, d_step, d_result = pull_back((d_carry, d_output))
        d_constants = [total + part for total, part in zip(d_constants, d_step)]
        return (d_carry, d_constants), (d_x, d_result, used)

    d_carry, d_outputs = cotangents
    start = (d_carry, [jnp.zeros_like(leaf) for leaf in fixed.leaves])
    (d_carry, d_constants), (d_x, d_results, used) = lax.scan(
        body, start, (carries, results, kept, inputs, d_outputs), reverse=not reverse
    )
    d_kernels = {
        name: _kernel_gradient(used[name], d_results[name], kernel, compute_dtype)
        for name, kernel in kernels.items()
    }
    d_biases = {name: d_results[name].sum((0, 1)) for name in biased}
    d_hoisted = {name: d_results[name] for name in hoisted}
    d_inputs = _FloatPart(inputs).merge(d_x, others=False)
    return d_kernels, d_biases, d_carry, d_hoisted, d_inputs, fixed.merge(d_constants, others=False)


_scan.defvjp(_scan_forward, _scan_backward)
