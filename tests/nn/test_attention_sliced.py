"""Sliced attention against the plain kernel: values, gradients, dropout bits, memory, its rule."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqgen.nn.attention_kernels import attention, choose_kernel
from seqgen.nn.attention_plain import KeyValues
from seqgen.nn.attention_sliced import SLICE_SCORES, attend_sliced, rows_in_slice
from seqgen.nn.dropout import make_key
from seqgen.nn.masks import AttentionMask
from seqgen.nn.partitioning import axis_rules
from seqgen.nn.position_bias import DistanceBias
from seqgen.training.compilation import program_memory

# What is compiled here runs once, so the compiler's own time is all that counts.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

BATCH, LENGTH, WIDTH = 6, 5, 4
SEGMENTS = jnp.asarray(np.random.default_rng(3).integers(1, 3, (BATCH, LENGTH))).at[:, 4].set(0)
ALLOWED = jnp.asarray(np.random.default_rng(4).random((BATCH, 1, LENGTH, LENGTH)) < 0.5)
CASES = {
    "all": (AttentionMask(), 2),
    "packed, causal": (AttentionMask(SEGMENTS, SEGMENTS, causal=True), 2),
    "an array of each row": (AttentionMask(allowed=ALLOWED, window=3), 2),
    "an array of all rows": (AttentionMask(SEGMENTS, SEGMENTS, allowed=ALLOWED[:1]), 2),
    "grouped heads": (AttentionMask(SEGMENTS, SEGMENTS), 4),
}

BIASED = ("packed, causal", "grouped heads")


def arrays(heads, batch=BATCH, length=LENGTH):
    rng = np.random.default_rng(0)
    query, keys, values = (
        jnp.asarray(rng.standard_normal((batch, n, length, WIDTH)), jnp.float32)
        for n in (heads, 2, 2)
    )
    return query, KeyValues(keys, values)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_values_gradients_and_dropout_bits_are_those_of_plain(name, rows):
    mask, heads = CASES[name]
    query, memory = arrays(heads)
    dropout = {"dropout_rate": 0.4, "key": make_key(0, step=3)}
    scores = rows * heads * LENGTH * LENGTH
    columns = np.random.default_rng(5).standard_normal((heads, 2 * LENGTH - 1))
    bias = DistanceBias(jnp.asarray(columns, jnp.float32)) if name in BIASED else None

    def sliced(query, memory, bias):
        mixed = attend_sliced(query, memory, mask, bias=bias, slice_scores=scores, **dropout)
        return jnp.sin(mixed).sum(), mixed

    def plain(query, memory, bias):
        mixed = attention(query, memory, mask, bias=bias, implementation="plain", **dropout)
        return jnp.sin(mixed).sum(), mixed

    got, want = (
        jit(jax.value_and_grad(f, argnums=(0, 1, 2), has_aux=True))(query, memory, bias)
        for f in (sliced, plain)
    )
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_a_slice_is_a_divisor_of_the_batch_that_fits():
    assert [rows_in_slice(12, 10, most) for most in (5, 10, 39, 40, 59, 60, 1000)] == [
        *(1, 1, 3, 4, 4, 6, 12)
    ]
    assert rows_in_slice(13, 10, 100) == 1


def test_no_scores_are_kept_for_the_gradient():
    shape = jax.ShapeDtypeStruct((16, 2, 64, WIDTH), jnp.float32)
    whole_scores = 16 * 2 * 64 * 64 * 4

    def temporary(run):
        def total(query, keys, values):
            return jnp.sin(run(query, KeyValues(keys, values), AttentionMask(causal=True))).sum()

        gradient = jax.jit(jax.grad(total, argnums=(0, 1, 2)))
        return program_memory(gradient.lower(shape, shape, shape).compile())[1]

    assert temporary(functools.partial(attention, implementation="plain")) > whole_scores
    assert temporary(functools.partial(attend_sliced, slice_scores=2 * 64 * 64)) < whole_scores


def test_auto_takes_slices_for_many_rows_that_fit_a_cache(monkeypatch):
    def chosen(batch, heads, length):
        query = jax.ShapeDtypeStruct((batch, heads, length, 32), jnp.float32)
        return choose_kernel(query, length, AttentionMask(), dropping=True)

    many = SLICE_SCORES // (4 * 64 * 64) * 4
    assert chosen(many, 4, 64) == "sliced"
    assert chosen(many // 2, 4, 64) == "plain"  # two slices
    assert chosen(64, 16, 512) == "plain"  # one row is more than a slice
    assert chosen(31, 3, 128) == "plain"  # 31 slices of one row, each nearly empty
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:2]), ("data",))
    with axis_rules(mesh):
        assert chosen(many, 4, 64) == "plain"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert chosen(many, 4, 64) == "plain"


def test_auto_runs_slices_in_a_loop():
    shape = jax.ShapeDtypeStruct((SLICE_SCORES // (2 * 64 * 64) * 4, 2, 64, WIDTH), jnp.float32)

    def program(implementation):
        def run(query, keys, values):
            memory = KeyValues(keys, values)
            return attention(query, memory, AttentionMask(), implementation=implementation)

        return str(jax.make_jaxpr(run)(shape, shape, shape))

    assert program("auto") == program("sliced") != program("plain")
