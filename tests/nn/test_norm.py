"""Norms against their formulas, hand-written gradients against autodiff."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqgen.nn.norm import LayerNorm, RMSNorm, build_norm


def layer_norm(x, scale, bias):
    mean = x.mean(-1, keepdims=True)
    return (x - mean) / jnp.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + 1e-5) * scale + bias


def rms_norm(x, scale, bias):
    return x / jnp.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale


@pytest.mark.parametrize(("kind", "formula"), [("layernorm", layer_norm), ("rmsnorm", rms_norm)])
def test_values_and_gradients(kind, formula):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.standard_normal((3, 4, 16)) * 3 + 1, jnp.float32)
    scale, bias = (jnp.asarray(rng.standard_normal(16), jnp.float32) for _ in range(2))

    def ours(x, scale, bias):
        norm = build_norm(kind, 16)
        norm.scale[...] = scale
        if kind == "layernorm":
            norm.bias[...] = bias
        return jnp.sin(norm(x))

    np.testing.assert_allclose(ours(x, scale, bias), jnp.sin(formula(x, scale, bias)), atol=1e-5)
    for argument in range(3):
        got = jax.grad(lambda *a: ours(*a).sum(), argnums=argument)(x, scale, bias)
        want = jax.grad(lambda *a: jnp.sin(formula(*a)).sum(), argnums=argument)(x, scale, bias)
        np.testing.assert_allclose(got, want, atol=2e-5)


def test_layer_norm_ignores_shift_and_scale_of_its_input_and_rms_norm_only_scale():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((5, 64)), jnp.float32)
    np.testing.assert_allclose(LayerNorm(64)(x), LayerNorm(64)(7 * x + 3), atol=1e-4)
    np.testing.assert_allclose(RMSNorm(64)(x), RMSNorm(64)(7 * x), atol=1e-4)
    assert jnp.abs(RMSNorm(64)(x) - RMSNorm(64)(x + 3)).max() > 0.5


def test_constant_vectors_stay_finite():
    x = jnp.full((2, 8), 4.0)
    for norm in (LayerNorm(8), RMSNorm(8), LayerNorm(8, use_bias=False)):
        assert jnp.isfinite(jax.grad(lambda x, norm=norm: norm(x).sum())(x)).all()


@pytest.mark.parametrize("kind", ["layernorm", "rmsnorm"])
def test_the_given_epsilon_counts_for_vectors_of_little_variance(kind):
    x = jnp.asarray([[1e-4, -1e-4, 1e-4, -1e-4]], jnp.float32)
    np.testing.assert_allclose(build_norm(kind, 4, epsilon=1e-12)(x), jnp.sign(x), atol=1e-3)
    assert jnp.abs(build_norm(kind, 4)(x)).max() < 0.2
    assert jnp.abs(build_norm(kind, 4, epsilon=0.01)(x)).max() < 0.01


def test_unknown_kind():
    with pytest.raises(ValueError, match="batchnorm"):
        build_norm("batchnorm", 4)
