"""The time scan against plain differentiation of `lax.scan`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqgen.nn.scan import time_scan

STEPS, SENTENCES, BEAMS, WIDTH = 5, 2, 2, 3
ROWS = SENTENCES * BEAMS


def random(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def step(project, constants, carry, x):
    value, seen = x
    inner = jnp.tanh(project("shared", carry["h"]) + constants["shift"])
    own = project("own", project.keep("inner", inner * value))
    new = {"h": jnp.where(seen[:, None], jnp.sin(own), carry["h"]), "sum": carry["sum"] + own}
    return new, {"out": new["h"] * inner}


def arguments():
    return {
        "carry": {"h": random(0, ROWS, WIDTH), "sum": random(1, ROWS, WIDTH)},
        "kernels": {"shared": random(2, WIDTH, WIDTH), "own": random(3, SENTENCES, WIDTH, WIDTH)},
        "biases": {"shared": random(4, WIDTH)},
        "hoisted": {"shared": random(5, STEPS, ROWS, WIDTH)},
        "constants": {"shift": random(6, WIDTH)},
        "value": random(7, STEPS, ROWS, WIDTH),
    }


SEEN = jnp.arange(STEPS)[:, None] < jnp.array([5, 3, 0, 4])


def ours(arrays, reverse):
    arrays = dict(arrays)
    inputs = (arrays.pop("value"), SEEN)
    carry = arrays.pop("carry")
    return time_scan(step, carry, inputs, **arrays, compute_dtype="float32", reverse=reverse)


class Products:
    """The plain form of a step's products, for one step's hoisted part."""

    def __init__(self, arrays, hoisted):
        self.arrays, self.hoisted = arrays, hoisted

    def __call__(self, name, x):
        kernel = self.arrays["kernels"][name]
        if name == "own":
            return jnp.einsum("RI,RIO->RO", x, jnp.repeat(kernel, BEAMS, axis=0))
        return x @ kernel + self.arrays["biases"][name] + self.hoisted

    def keep(self, name, value):
        return value


def plain(arrays, reverse):
    def body(carry, sliced):
        value, seen, hoisted = sliced
        project = Products(arrays, hoisted)
        return step(project, arrays["constants"], carry, (value, seen))

    inputs = (arrays["value"], SEEN, arrays["hoisted"]["shared"])
    return jax.lax.scan(body, arrays["carry"], inputs, reverse=reverse)


@pytest.mark.parametrize("reverse", [False, True])
def test_values_and_every_gradient_equal_those_of_a_plain_scan(reverse):
    def objective(run):
        def total(arrays):
            leaves = jax.tree.leaves(run(arrays, reverse))
            # Unequal weights, so that a gradient sent to the wrong place shows.
            return sum((leaf * random(9, *leaf.shape)).sum() for leaf in leaves)

        return jax.jit(jax.value_and_grad(total))

    value, gradients = objective(ours)(arguments())
    expected_value, expected = objective(plain)(arguments())
    np.testing.assert_allclose(value, expected_value, rtol=1e-5)
    assert jax.tree.structure(gradients) == jax.tree.structure(expected)
    for path, gradient in jax.tree.leaves_with_path(gradients):
        wanted = dict(jax.tree.leaves_with_path(expected))[path]
        assert np.abs(wanted).max() > 0.01, path
        np.testing.assert_allclose(gradient, wanted, rtol=2e-4, atol=2e-5, err_msg=str(path))


def test_bfloat16_products_stay_close_and_gradients_are_float32():
    def total(arrays, compute_dtype):
        arrays = dict(arrays)
        inputs, carry = (arrays.pop("value"), SEEN), arrays.pop("carry")
        _, outputs = time_scan(step, carry, inputs, **arrays, compute_dtype=compute_dtype)
        return (outputs["out"] ** 2).sum()

    exact = jax.grad(total)(arguments(), "float32")
    rounded = jax.jit(jax.grad(total), static_argnums=1)(arguments(), "bfloat16")
    for wanted, gradient in zip(jax.tree.leaves(exact), jax.tree.leaves(rounded), strict=True):
        assert gradient.dtype == jnp.float32
        scale = np.abs(wanted).max()
        np.testing.assert_allclose(gradient, wanted, atol=0.06 * scale + 1e-6)


def test_a_product_used_twice_is_refused():
    def twice(project, constants, carry, x):
        return project("k", project("k", carry)), None

    with pytest.raises(AssertionError, match="used twice"):
        time_scan(
            twice,
            jnp.ones((2, 3)),
            jnp.ones(4),
            kernels={"k": jnp.eye(3)},
            compute_dtype="float32",
        )
