"""The one attention function: its rule, what it refuses, and programs for machines not at hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from seqgen.nn.attention_kernels import attention, choose_kernel
from seqgen.nn.attention_plain import KeyValues, attend
from seqgen.nn.dropout import make_key
from seqgen.nn.masks import AttentionMask
from seqgen.nn.position_bias import DistanceBias

BIAS = DistanceBias(jnp.zeros((2, 9)))
SEGMENTS = jnp.asarray([[1, 1, 2, 2, 0], [1, 1, 1, 0, 0]])


def arrays(length=5, width=4, heads=2):
    rng = np.random.default_rng(0)
    query, keys, values = (
        jnp.asarray(rng.standard_normal((2, heads, length, width)), jnp.float32) for _ in range(3)
    )
    return query, KeyValues(keys, values)


def test_short_rows_are_plain_and_long_ones_blocked():
    def chosen(query_len, key_len):
        query = jax.ShapeDtypeStruct((1, 2, query_len, 64), jnp.float32)
        return choose_kernel(query, key_len, AttentionMask(), dropping=False)

    assert chosen(64, 64) == chosen(1024, 1024) == "plain"
    assert chosen(8192, 8192) == chosen(1025, 1024) == "blocked"


def test_what_a_fused_kernel_cannot_add_is_never_given_to_it(monkeypatch):
    query = jax.ShapeDtypeStruct((1, 2, 8192, 64), jnp.float32)
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    chosen = {
        biased: choose_kernel(query, 8192, AttentionMask(), dropping=False, biased=biased)
        for biased in (False, True)
    }
    assert chosen == {False: "splash", True: "blocked"}


def test_plain_is_bit_for_bit_what_it_was():
    """The golden values: whole boolean masks, straight through `attend`."""
    query, memory = arrays()
    mask = AttentionMask(SEGMENTS, SEGMENTS, causal=True)
    same = (SEGMENTS[:, :, None] == SEGMENTS[:, None]) & (SEGMENTS != 0)[:, None]
    whole = (same & jnp.tril(jnp.ones((5, 5), bool)))[:, None]
    key = make_key(0, step=1)
    for implementation in ("plain", "auto"):
        got = attention(
            query, memory, mask, implementation=implementation, dropout_rate=0.3, key=key
        )
        want = attend(query, memory, whole, dropout_rate=0.3, key=key)[0]
        np.testing.assert_array_equal(got, want)


def test_blocked_agrees_through_the_same_door():
    query, memory = arrays()
    mask = AttentionMask(SEGMENTS, SEGMENTS)
    got, want = (
        attention(query, memory, mask, implementation=name) for name in ("blocked", "plain")
    )
    seen = np.asarray(SEGMENTS > 0)[:, None]
    for head in range(2):
        np.testing.assert_allclose(got[:, head][seen[:, 0]], want[:, head][seen[:, 0]], atol=1e-5)


@pytest.mark.parametrize(
    ("mask", "options", "cause"),
    [
        (AttentionMask(), {"implementation": "flash"}, "flash"),
        (AttentionMask(SEGMENTS), {}, "neither"),
        (AttentionMask(window=0), {}, "at least 1"),
        (AttentionMask(), {"implementation": "splash", "bias": BIAS}, "plain or blocked"),
        (AttentionMask(), {"implementation": "cudnn", "bias": BIAS}, "plain or blocked"),
        (AttentionMask(), {"implementation": "cudnn"}, "compute_dtype"),
        (
            AttentionMask(),
            {"implementation": "cudnn", "dropout_rate": 0.1, "key": 1},
            "attention_dropout_rate",
        ),
        (AttentionMask(), {"implementation": "cudnn", "compute_dtype": "bfloat16"}, "4 wide"),
    ],
)
def test_what_cannot_be_is_refused_with_its_cause(mask, options, cause):
    with pytest.raises(ValueError, match=cause):
        attention(*arrays(), mask, **options)


@pytest.mark.parametrize(
    ("implementation", "platforms"),
    [("blocked", ["cuda", "tpu"]), ("plain", ["cuda", "tpu"]), ("cudnn", ["cuda"])],
)
def test_lowers_for_machines_that_are_not_at_hand(implementation, platforms, monkeypatch):
    if implementation == "cudnn":
        fused = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
        monkeypatch.setattr(fused, "check_cudnn_version", lambda: 90800)
        monkeypatch.setattr(fused, "check_compute_capability", lambda *_: True)
        monkeypatch.setattr(fused, "is_cuda_compute_capability_equal", lambda *_: False)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")  # bfloat16 operands, no CPU layouts
    query, memory = arrays(16, 8)
    segments = jnp.ones((2, 16), jnp.int32)
    mask = AttentionMask(segments, segments, causal=True, window=4)

    def total(query, memory):
        return attention(
            query, memory, mask, implementation=implementation, compute_dtype="bfloat16"
        ).sum()

    # Nobody stores this program, so that cuDNN's calls need no promise to stay as they are.
    unstable = [
        export.DisabledSafetyCheck.custom_call(f"__cudnn$fmhaScaleBiasSoftmax{way}")
        for way in ("", "Backward")
    ]
    gradient = jax.jit(jax.grad(total, argnums=(0, 1)))
    lower = export.export(gradient, platforms=platforms, disabled_checks=unstable)
    program = lower(query, memory).mlir_module()
    assert ("fmha" in program) == (implementation == "cudnn")
    assert "bf16" in program
