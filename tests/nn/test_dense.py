"""Products: exact in float32, rounded operands and nothing else in bfloat16."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqgen.nn.dense import Dense, batched_matmul, dense, dot, weight_gradient


def arrays(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.standard_normal(shape), jnp.float32) for shape in shapes]


def rounded(x):
    return np.asarray(jnp.asarray(x).astype(jnp.bfloat16).astype(jnp.float32), np.float64)


def operands(x, compute_dtype):
    return rounded(x) if compute_dtype == "bfloat16" else np.asarray(x, np.float64)


@pytest.mark.parametrize("compute_dtype", ["float32", "bfloat16"])
def test_dense_and_its_gradients_match_numpy_on_the_rounded_operands(compute_dtype):
    x, kernel, bias, dy = arrays((3, 5, 16), (16, 7), (7,), (3, 5, 7))

    @jax.jit
    def run(x, kernel, bias, dy):
        y, pull = jax.vjp(lambda *a: dense(*a, compute_dtype=compute_dtype), x, kernel, bias)
        return y, *pull(dy)

    y, dx, d_kernel, d_bias = run(x, kernel, bias, dy)
    x_, kernel_, dy_ = (operands(a, compute_dtype) for a in (x, kernel, dy))
    np.testing.assert_allclose(y, x_ @ kernel_ + np.asarray(bias), atol=2e-6)
    np.testing.assert_allclose(dx, dy_ @ kernel_.T, atol=2e-6)
    np.testing.assert_allclose(d_kernel, np.einsum("bti,bto->io", x_, dy_), atol=4e-6)
    # The bias gradient is a float32 sum of the unrounded gradient in either mode.
    np.testing.assert_allclose(d_bias, np.asarray(dy, np.float64).sum((0, 1)), atol=2e-6)
    assert all(a.dtype == jnp.float32 for a in (y, dx, d_kernel, d_bias))


def test_bfloat16_differs_from_float32():
    x, kernel = arrays((4, 32), (32, 8))
    exact = dense(x, kernel, compute_dtype="float32")
    assert jnp.abs(exact - dense(x, kernel, compute_dtype="bfloat16")).max() > 1e-4


@pytest.mark.parametrize("compute_dtype", ["float32", "bfloat16"])
def test_transposes_after_a_product_run(compute_dtype):
    # On CPU a transpose folded into a bfloat16 product would fail when the program runs.
    x, kernel, left, right = arrays((32, 24), (24, 40), (2, 3, 16, 8), (2, 3, 8, 16))

    @jax.jit
    def run(x, kernel, left, right):
        flat = dense(x, kernel, compute_dtype=compute_dtype).T
        heads = batched_matmul(left, right, compute_dtype)
        heads = heads.swapaxes(2, 3) + heads.transpose(0, 1, 3, 2)
        tied = dot(x, kernel.T, ((1,), (1,)), compute_dtype=compute_dtype).T
        return flat.sum() + heads.sum() + tied.sum()

    value, gradients = jax.value_and_grad(run, argnums=(0, 1, 2, 3))(x, kernel, left, right)
    assert jnp.isfinite(value) and all(bool(jnp.isfinite(g).all()) for g in gradients)


def test_batched_matmul_gradients_match_autodiff():
    left, right = arrays((2, 3, 5, 4), (2, 3, 4, 6))

    def ours(left, right):
        return jnp.sin(batched_matmul(left, right, "float32")).sum()

    expected = jax.grad(lambda a, b: jnp.sin(a @ b).sum(), argnums=(0, 1))(left, right)
    for ours_, theirs in zip(jax.grad(ours, argnums=(0, 1))(left, right), expected, strict=True):
        np.testing.assert_allclose(ours_, theirs, atol=1e-5)


def test_no_bias_and_one_row():
    x, kernel = arrays((1, 6), (6, 3))
    layer = Dense(6, 3, use_bias=False, rngs=nnx.Rngs(0))
    assert layer.bias is None
    np.testing.assert_allclose(layer(x), x @ layer.kernel[...], atol=1e-6)
    np.testing.assert_allclose(
        weight_gradient(x, x, compute_dtype="float32"), np.outer(x, x), atol=1e-6
    )
    assert dense(x, kernel, compute_dtype="bfloat16").shape == (1, 3)


def test_results_of_a_program_keep_the_default_layout():
    # One result that is a product must not leave the layout of others to the compiler.
    x, kernel = arrays((4, 8), (8, 8))

    @jax.jit
    def run(x, kernel):
        y = dense(x, kernel, compute_dtype="float32")
        stacked = jax.lax.scan(lambda c, _: (jnp.tanh(c), c), y, length=3)[1]
        return stacked.swapaxes(0, 1), weight_gradient(x, y, compute_dtype="bfloat16"), y

    text = run.lower(x, kernel).as_text()
    assert "LayoutConstraint" in text and "layout_mode" not in text
    for result in run(x, kernel):
        np.testing.assert_array_equal(np.asarray(result), np.asarray(result + 0))


def test_unknown_dtype_is_refused():
    x, kernel = arrays((2, 3), (3, 4))
    with pytest.raises(ValueError, match="float16"):
        dot(x, kernel, ((1,), (0,)), compute_dtype="float16")


@pytest.mark.parametrize("compute_dtype", ["float32", "bfloat16"])
def test_rows_cut_over_devices_give_the_same_gradients(compute_dtype):
    mesh = jax.make_mesh((4,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jax.NamedSharding(mesh, jax.P("data"))
    x, kernel = arrays((8, 3, 16), (16, 4))

    @jax.jit
    def run(x, kernel):
        def loss(k):
            return jnp.square(dense(x, k, compute_dtype=compute_dtype)).sum()

        return jax.grad(loss)(kernel)

    np.testing.assert_allclose(run(jax.device_put(x, rows), kernel), run(x, kernel), rtol=2e-5)
