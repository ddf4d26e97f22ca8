"""8-bit weights: rounding, products, and whole models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqgen.models import build_model
from seqgen.models.config import (
    ModelConfig,
    RecurrentDecoderConfig,
    RecurrentEncoderConfig,
    TransformerDecoderConfig,
    TransformerEncoderConfig,
)
from seqgen.nn.dense import dense, dot
from seqgen.nn.quantization import (
    Int8Weights,
    as_float,
    join_outputs,
    quantize_params,
    quantize_rows,
    round_kernels,
)
from seqgen.types import Batch, Sequences


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def quantized(weights, axis):
    return Int8Weights(*quantize_rows(weights, axis))


@pytest.mark.parametrize("axis", [-1, -2])
def test_rounding_is_at_most_half_a_step_and_keeps_the_largest(axis):
    weights = random(7, 5).at[2].set(0.0).at[:, 3].set(0.0)
    parts = quantized(weights, axis)
    assert parts.values.dtype == jnp.int8 and parts.scales.shape[axis] == 1
    assert (jnp.abs(as_float(parts) - weights) <= parts.scales * 0.5001).all()
    largest = jnp.abs(parts.values).max(axis)
    assert set(np.unique(largest)) == {0, 127}


@pytest.mark.parametrize("rows", [1, 5, 40])  # each takes another way on a CPU
@pytest.mark.parametrize("table", [False, True])
def test_products_equal_integer_arithmetic(rows, table):
    x, weights = random(rows, 24), random(24, 9, seed=1)
    weights = weights.T if table else weights
    axis = 1 if table else 0
    parts = quantized(weights, axis)
    got = jax.jit(lambda x: dot(x, parts, ((1,), (axis,)), compute_dtype="float32"))(x)
    scale = np.abs(np.asarray(x)).max(1, keepdims=True) / 127
    integers = np.asarray(parts.values, np.int64)
    sums = np.round(np.asarray(x) / scale).astype(np.int64) @ (integers.T if table else integers)
    want = sums * scale * np.asarray(parts.scales).reshape(1, -1)
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_dense_adds_its_bias_and_joined_kernels_equal_single_ones():
    x, bias = random(2, 3, 8), random(6, seed=2)
    first, second = (quantized(random(8, 6, seed=seed), -2) for seed in (3, 4))
    alone = [dense(x, kernel, bias, compute_dtype="float32") for kernel in (first, second)]
    joint = dense(x, join_outputs([first, second]), compute_dtype="float32")
    np.testing.assert_allclose(joint, jnp.concatenate(alone, -1) - jnp.tile(bias, 2), atol=1e-6)
    want = dense(x, as_float(first), bias, compute_dtype="float32")
    np.testing.assert_allclose(alone[0], want, atol=0.15)


def test_rounded_kernels_change_nothing_in_a_model_that_rounds_them_anyway():
    definition = build_model(
        ModelConfig(
            embed_dim=16,
            encoder=TransformerEncoderConfig(**TRANSFORMER),
            decoder=TransformerDecoderConfig(**TRANSFORMER),
        ),
        source_vocab_size=19,
        target_vocab_size=19,
        compute_dtype="bfloat16",
    )
    params = definition.init(jax.random.key(0))
    rounded = round_kernels(params, definition.summed_axes)
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(rounded)}
    assert dtypes == {jnp.dtype("bfloat16"), jnp.dtype("float32")}
    ids = jnp.arange(4, 10)[None]
    rows = Sequences(ids, jnp.ones_like(ids), jnp.arange(6)[None])
    run = jax.jit(lambda params: definition.bind(params)(Batch(rows, rows, ids, jnp.ones((1, 6)))))
    np.testing.assert_array_equal(run(rounded), run(params))


def test_weights_cannot_be_summed_along_their_channels():
    with pytest.raises(ValueError, match="summed"):
        dot(random(2, 4), quantized(random(4, 4), -2), ((1,), (1,)), compute_dtype="float32")


def small(encoder, decoder):
    return build_model(
        ModelConfig(embed_dim=16, tie_embeddings="all", encoder=encoder, decoder=decoder),
        source_vocab_size=19,
        target_vocab_size=19,
    )


TRANSFORMER = {"num_layers": 2, "num_heads": 2, "ff_dim": 32}
RECURRENT = {"kind": "lstm", "num_layers": 2, "hidden_dim": 16}
FAMILIES = {
    "transformer": lambda: small(
        TransformerEncoderConfig(**TRANSFORMER), TransformerDecoderConfig(**TRANSFORMER)
    ),
    "scanned": lambda: small(
        TransformerEncoderConfig(**TRANSFORMER, scan_layers=True),
        TransformerDecoderConfig(**TRANSFORMER, scan_layers=True),
    ),
    "bahdanau": lambda: small(
        RecurrentEncoderConfig(**RECURRENT),
        RecurrentDecoderConfig(**RECURRENT, attention="bahdanau", attention_dim=16),
    ),
    "luong": lambda: small(
        RecurrentEncoderConfig(**RECURRENT),
        RecurrentDecoderConfig(**RECURRENT, attention="luong_general"),
    ),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_models_of_every_family_run_with_quantized_parameters(family):
    definition = FAMILIES[family]()
    params = definition.init(jax.random.key(0))
    compact = quantize_params(params, definition.summed_axes)
    kinds = [isinstance(leaf, Int8Weights) for leaf in jax.tree.leaves(
        compact, is_leaf=lambda leaf: isinstance(leaf, Int8Weights))]  # fmt: skip
    assert any(kinds) and not all(kinds)
    ids = jnp.asarray(np.random.default_rng(0).integers(4, 19, (3, 6)), jnp.int32)
    rows = Sequences(ids, jnp.ones_like(ids), jnp.broadcast_to(jnp.arange(6), ids.shape))

    @jax.jit
    def logits(params):
        model = definition.bind(params)
        encoded = model.encode(rows)
        hidden = model(Batch(rows, rows, ids, jnp.ones(ids.shape)))
        state = model.init_decode(encoded, max_len=6)
        stepped = []
        for t in range(3):
            out, state = model.extend(state, ids[:, t : t + 1], jnp.ones(3, jnp.int32))
            stepped.append(out.hidden)
        return model.output_logits(hidden), model.output_logits(jnp.concatenate(stepped, 1))

    exact, _ = logits(params)
    rounded, stepped = logits(compact)
    difference = jnp.abs(rounded - exact).max() / jnp.abs(exact).max()
    assert 0 < difference < 0.1
    np.testing.assert_allclose(stepped, rounded[:, :3], atol=0.05 * float(jnp.abs(exact).max()))
