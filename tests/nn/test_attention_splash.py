"""The fused TPU kernel, interpreted on CPU: equal to the plain path, alone and on a mesh."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export
from jax.experimental.topologies import get_topology_desc
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from seqgen.nn import attention_kernels
from seqgen.nn.attention_kernels import attention, choose_kernel
from seqgen.nn.attention_plain import KeyValues, attend
from seqgen.nn.attention_splash import attend_splash
from seqgen.nn.masks import AttentionMask
from seqgen.nn.partitioning import axis_rules
from seqgen.training.config import MeshConfig
from seqgen.training.sharding import build_mesh

# What is compiled here runs once, so the compiler's own time is all that counts.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

WIDTH = 8


def arrays(query_len, key_len=None, *, heads=2, kv_heads=2, batch=2):
    rng = np.random.default_rng(0)
    shapes = [(batch, heads, query_len, WIDTH)] + [
        (batch, kv_heads, key_len or query_len, WIDTH)
    ] * 2
    query, keys, values = (jnp.asarray(rng.standard_normal(s), jnp.float32) for s in shapes)
    return query, KeyValues(keys, values)


def packed(*rows):
    """Segments from the lengths of the examples of each row; the last is padding."""
    return jnp.asarray([np.repeat([*range(1, len(row)), 0], row) for row in rows], jnp.int32)


LONG = packed((100, 90, 60, 6), (200, 40, 16))  # 256, which needs no padding
SHORT = packed((40, 50, 60, 20), (10, 130, 30))  # 170, which does
CASES = {
    "all": (AttentionMask(), (256,), {}),
    "all, odd lengths": (AttentionMask(), (140, 170), {}),
    "causal": (AttentionMask(causal=True), (256,), {}),
    "causal, longer memory": (AttentionMask(causal=True), (128, 384), {}),
    "causal, shorter memory": (AttentionMask(causal=True), (384, 128), {}),
    "packed": (AttentionMask(LONG, LONG), (256,), {}),
    "packed causal grouped": (
        AttentionMask(SHORT, SHORT, causal=True), (170,), {"heads": 4, "kv_heads": 2},
    ),
    "cross": (AttentionMask(LONG, SHORT), (256, 170), {}),
    "cross, one key head": (AttentionMask(SHORT, LONG), (170, 256), {"kv_heads": 1}),
    "window": (AttentionMask(window=30), (300,), {}),
    "causal window": (AttentionMask(LONG, LONG, causal=True, window=20), (256,), {}),
    "window, shorter memory": (AttentionMask(window=20), (384, 100), {}),
}  # fmt: skip


def both(mask, query, memory, ours):
    """Values and gradients of the fused and the plain kernel where a query sees any key."""
    query_len, key_len = query.shape[2], memory.keys.shape[2]
    whole = mask.dense(query_len, key_len)
    read = whole.any(-1)[..., None]

    def plain(query, memory):
        return attend(query, memory, whole)[0]

    def total(function, query, memory):
        mixed = function(query, memory)
        return jnp.where(read, jnp.sin(mixed), 0).sum(), jnp.where(read, mixed, 0)

    return (
        jit(jax.value_and_grad(functools.partial(total, f), argnums=(0, 1), has_aux=True))(
            query, memory
        )
        for f in (ours, plain)
    )


def check(got, want, **tolerances):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, **(tolerances or {"rtol": 1e-5, "atol": 1e-5}))


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_equal_plain(name):
    mask, lengths, shapes = CASES[name]
    query, memory = arrays(*lengths, **shapes)
    check(*both(mask, query, memory, lambda q, m: attend_splash(q, m, mask)))


def test_padding_and_what_no_key_reaches_give_zeros_and_pass_no_gradient():
    query, memory = arrays(384, 100, batch=1)
    mask = AttentionMask(packed((100, 284)), jnp.ones((1, 100), jnp.int32), window=20)
    blind = ~mask.dense(384, 100).any(-1)[0, 0]
    assert blind.sum() == 284

    def total(query, memory):
        mixed = attend_splash(query, memory, mask)
        return jnp.where(blind[:, None], mixed + 1, 0).sum(), mixed

    (_, mixed), gradients = jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))(
        query, memory
    )
    assert not mixed[:, :, blind].any() and mixed[:, :, ~blind].all()
    assert not any(jnp.any(x) for x in jax.tree.leaves(gradients))


@pytest.mark.parametrize("heads", [{"heads": 4, "kv_heads": 2}, {"heads": 2, "kv_heads": 1}])
def test_a_mesh_gives_each_device_its_rows_and_heads(heads):
    """One key/value head cannot be cut over `tensor`: heads stay whole then."""
    mask = AttentionMask(SHORT, SHORT, causal=True)
    query, memory = arrays(170, **heads)
    mesh = build_mesh(MeshConfig(data=2, tensor=2))

    def ours(query, memory):
        with axis_rules(mesh):
            return attend_splash(query, memory, mask)

    check(*both(mask, query, memory, ours))


def test_bfloat16_operands_stay_close():
    mask, lengths, shapes = CASES["packed"]
    query, memory = arrays(*lengths, **shapes)
    ours = functools.partial(attend_splash, mask=mask, compute_dtype="bfloat16")
    low, high = both(mask, query, memory, ours)
    check(low, high, rtol=0.05, atol=0.05)
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(low))
    assert jnp.abs(low[1][0] - high[1][0]).max() > 1e-5


@pytest.mark.parametrize(
    ("mask", "options", "cause"),
    [
        (AttentionMask(), {"dropout_rate": 0.1, "key": 1}, "attention_dropout_rate"),
        (AttentionMask(allowed=jnp.ones((1, 1, 1, 128), bool)), {}, "not an array"),
    ],
)
def test_what_it_cannot_is_refused_with_its_cause(mask, options, cause):
    with pytest.raises(ValueError, match=cause):
        attention(*arrays(128), mask, implementation="splash", **options)


def test_other_accelerators_are_refused(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(ValueError, match="not for gpu"):
        attention(*arrays(128), AttentionMask(), implementation="splash")


def test_auto_takes_it_on_tpus_alone_and_where_it_suits(monkeypatch):
    def chosen(query_len=2048, key_len=2048, width=64, dropping=False, **mask):
        query = jax.ShapeDtypeStruct((1, 2, query_len, width), jnp.float32)
        return choose_kernel(query, key_len, AttentionMask(**mask), dropping=dropping)

    assert chosen() == "blocked"
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    assert chosen() == chosen(causal=True, window=9) == chosen(width=128) == "splash"
    assert chosen(1024, 1024) == "plain"
    assert chosen(dropping=True) == chosen(width=96) == chosen(64, 2**17) == "blocked"
    assert chosen(allowed=jnp.ones((1, 1, 1, 1), bool)) == "blocked"


@pytest.fixture
def as_on_tpu(monkeypatch):
    """Gradients by 'auto' of a masked, grouped attention, and the shapes that they take."""
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    monkeypatch.setattr(attention_kernels, "PLAIN_SCORES", 0)
    shapes = [(2, 4, 256, 64), (2, 2, 256, 64), (2, 2, 256, 64)]
    mask = AttentionMask(LONG, LONG, causal=True)

    def total(compute_dtype, query, keys, values):
        memory = KeyValues(keys, values)
        return jnp.sin(attention(query, memory, mask, compute_dtype=compute_dtype)).sum()

    def gradients(compute_dtype):
        return jax.grad(functools.partial(total, compute_dtype), argnums=(0, 1, 2))

    return gradients, [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]


KERNELS = [f"splash_mha_{part}_segmented" for part in ("fwd", "dq", "dkv")]


@pytest.mark.parametrize("compute_dtype", ["float32", "bfloat16"])
def test_lowers_for_a_tpu_forward_and_backward(compute_dtype, as_on_tpu):
    gradients, shapes = as_on_tpu
    unstable = [export.DisabledSafetyCheck.custom_call("tpu_custom_call")]
    program = export.export(
        jax.jit(gradients(compute_dtype)), platforms=["tpu"], disabled_checks=unstable
    )(*shapes).mlir_module()
    assert all(kernel in program for kernel in KERNELS)


def test_float32_products_are_exact_in_both_passes(as_on_tpu):
    gradients, shapes = as_on_tpu
    with jax.default_matmul_precision("default"):  # what a TPU does unless told otherwise
        for compute_dtype, exact in (("float32", True), ("bfloat16", False)):
            program = str(jax.make_jaxpr(gradients(compute_dtype))(*shapes))
            products = re.findall(r"dot_general\[.*?\n\s*\]", program, re.DOTALL)
            assert len(products) >= 9, "two forward, three for dq and four for dkv"
            assert all(("HIGHEST" in product) == exact for product in products)


@pytest.mark.parametrize("mesh_shape", [(1, 1), (2, 2)])
def test_compiles_for_a_tpu_that_is_not_at_hand(mesh_shape, as_on_tpu):
    """Needs the TPU compiler (pip install libtpu), but no TPU."""
    pytest.importorskip("libtpu", reason="libtpu, the TPU compiler, is not installed")
    chips = get_topology_desc("v5e:2x2", platform="tpu").devices
    num_chips = mesh_shape[0] * mesh_shape[1]
    mesh = Mesh(np.array(chips[:num_chips]).reshape(mesh_shape), ("data", "tensor"))
    gradients, shapes = as_on_tpu
    for compute_dtype in ("float32", "bfloat16"):
        with axis_rules(mesh if num_chips > 1 else None):
            place = NamedSharding(mesh, PartitionSpec("data", "tensor"))
            step = jax.jit(gradients(compute_dtype), in_shardings=place)
            program = step.lower(*shapes).compile().as_text()
        assert all(kernel in program for kernel in KERNELS)


def test_evaluation_with_a_dropout_rate_is_no_refusal():
    query, memory = arrays(128)
    got = attention(query, memory, AttentionMask(), implementation="splash", dropout_rate=0.1)
    want = attention(query, memory, AttentionMask(), implementation="plain", dropout_rate=0.1)
    np.testing.assert_allclose(got, want, atol=1e-5)
