"""Rotary positions know differences only; their stretching is that of transformers."""

import types

import jax.numpy as jnp
import numpy as np
import pytest

from seqgen.nn.rotary import SCALINGS, RotaryRule, rotate

LONG = {"factor": 4.0, "original_len": 256}


@pytest.mark.parametrize("scaling", ["none", "yarn"])
def test_scores_depend_on_differences(scaling):
    rule = RotaryRule(scaling=scaling, **LONG)
    rng = np.random.default_rng(0)
    query, keys = (jnp.asarray(rng.standard_normal((1, 2, 5, 8)), jnp.float32) for _ in range(2))

    def scores(shift):
        at = jnp.arange(5)[None] + shift
        return jnp.einsum("BNTH,BNSH->BNTS", rotate(query, at, rule), rotate(keys, at, rule))

    np.testing.assert_allclose(scores(0), scores(17), atol=2e-5)
    plain = jnp.einsum("BNTH,BNSH->BNTS", query, keys)
    assert jnp.abs(scores(0) - plain).max() > 0.1
    np.testing.assert_allclose(
        jnp.linalg.norm(rotate(query, jnp.arange(5)[None], rule), axis=-1),
        rule.length_scale * jnp.linalg.norm(query, axis=-1),
        rtol=1e-5,
    )


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("head_dim", [16, 64])
@pytest.mark.parametrize("base", [100.0, 500_000.0])
def test_frequencies_are_those_of_transformers(scaling, head_dim, base):
    pytest.importorskip("torch")
    rope = pytest.importorskip("transformers.modeling_rope_utils", reason="parity")
    names = {"none": "default", "ntk": "dynamic"}
    given = {"rope_type": names.get(scaling, scaling), "rope_theta": base, "factor": 4.0}
    given |= {"original_max_position_embeddings": 256}
    given |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0} if scaling == "llama3" else {}
    # Their rule for a text's own length, at a text that is `factor` times too long.
    given["factor"] = 1.0 if scaling == "ntk" else 4.0
    config = types.SimpleNamespace(
        hidden_size=2 * head_dim,
        num_attention_heads=2,
        head_dim=head_dim,
        max_position_embeddings=256,
        rope_parameters=given,
        standardize_rope_params=lambda: None,
    )
    rule = RotaryRule(base, scaling, **LONG)
    if scaling == "none":
        want, scale = base ** -(np.arange(0, head_dim, 2) / head_dim), 1.0
    else:
        rules = rope.ROPE_INIT_FUNCTIONS
        want, scale = rules[given["rope_type"]](config, device=None, seq_len=1024)
        want = want.numpy()
    np.testing.assert_allclose(rule.frequencies(head_dim // 2), want, rtol=2e-5)
    assert rule.length_scale == pytest.approx(scale)


def test_linear_scaling_is_a_position_of_its_own():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 2, 3, 8)), jnp.float32)
    at = jnp.asarray([[0, 4, 12]])
    slowed = rotate(x, at, RotaryRule(scaling="linear", factor=4.0))
    np.testing.assert_allclose(slowed, rotate(x, at // 4), atol=1e-6)


def test_what_a_rule_lacks_is_named():
    with pytest.raises(ValueError, match="length of training"):
        RotaryRule(scaling="yarn", factor=2.0).frequencies(4)
    with pytest.raises(ValueError, match="'yarm'"):
        RotaryRule(scaling="yarm", factor=2.0).frequencies(4)
