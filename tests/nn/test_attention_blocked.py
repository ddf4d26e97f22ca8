"""Blocked attention against the plain kernel: values, gradients, dropout bits, skipping, memory."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqgen.nn import attention_blocked
from seqgen.nn.attention_blocked import attend_blocked
from seqgen.nn.attention_grid import BlockGrid, block_ranges
from seqgen.nn.attention_plain import KeyValues, attend
from seqgen.nn.dropout import make_key
from seqgen.nn.masks import AttentionMask
from seqgen.nn.position_bias import DistanceBias
from seqgen.training.compilation import program_memory

# What is compiled here runs once, so the compiler's own time is all that counts.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

WIDTH = 4


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def arrays(query_len=11, key_len=None, *, heads=2, kv_heads=2, batch=2):
    key_len = key_len or query_len
    return random(batch, heads, query_len, WIDTH), KeyValues(
        random(batch, kv_heads, key_len, WIDTH, seed=1),
        random(batch, kv_heads, key_len, WIDTH, seed=2),
    )


def padded(lengths, width):
    return jnp.asarray(np.arange(width) < np.array(lengths)[:, None], jnp.int32)


PADDED = padded((11, 4), 11)
PACKED = jnp.asarray([[1] * 3 + [2] * 5 + [3] * 2 + [0], [1] * 6 + [2] * 2 + [0] * 3])
SHORT = jnp.asarray([[1] * 2 + [2] + [3] * 3 + [0], [1] * 3 + [2] * 2 + [0] * 2])
SCATTERED = jnp.asarray(np.random.default_rng(4).random((2, 1, 11, 11)) < 0.5).at[..., 0].set(True)
CASES = {
    "all": (AttentionMask(), {}),
    "causal": (AttentionMask(causal=True), {}),
    "padding": (AttentionMask(PADDED, PADDED), {}),
    "packed": (AttentionMask(PACKED, PACKED), {}),
    "packed causal": (AttentionMask(PACKED, PACKED, causal=True), {}),
    "cross": (AttentionMask(PACKED, SHORT), {"key_len": 7}),
    "cross, longer memory": (AttentionMask(SHORT, PACKED), {"query_len": 7, "key_len": 11}),
    "causal, shorter memory": (AttentionMask(causal=True), {"key_len": 7}),
    "window": (AttentionMask(window=3), {}),
    "causal window": (AttentionMask(PACKED, PACKED, causal=True, window=2), {}),
    "array": (AttentionMask(allowed=SCATTERED), {}),
    "array of keys": (AttentionMask(allowed=SCATTERED[:, :, :1]), {}),
    "grouped": (AttentionMask(PACKED, PACKED, causal=True), {"heads": 4, "kv_heads": 2}),
    "one key head": (AttentionMask(causal=True, window=4), {"heads": 3, "kv_heads": 1}),
    "one query": (AttentionMask(SHORT[:, :1], SHORT), {"query_len": 1, "key_len": 7}),
}


def compare(mask, shapes, *, blocks=(4, 3), key=None, rate=0.0, atol=1e-5, biased=False):
    query, memory = arrays(**shapes)
    bias = None
    if biased:
        width = query.shape[2] + memory.keys.shape[2] - 1
        bias = DistanceBias(random(query.shape[1], width, seed=3), trained=True)
    whole = jnp.broadcast_to(
        mask.dense(query.shape[2], memory.keys.shape[2]),
        (query.shape[0], 1, query.shape[2], memory.keys.shape[2]),
    )
    read = whole.any(-1)[..., None]  # rows that see nothing differ by agreement

    def ours(query, memory, bias):
        mixed = attend_blocked(
            query,
            memory,
            mask,
            bias=bias,
            dropout_rate=rate,
            key=key,
            query_block=blocks[0],
            key_block=blocks[1],
        )
        return jnp.where(read, jnp.sin(mixed), 0).sum(), mixed

    def plain(query, memory, bias):
        added = None if bias is None else bias.dense(query.shape[2], memory.keys.shape[2])
        mixed = attend(query, memory, whole, bias=added, dropout_rate=rate, key=key)[0]
        return jnp.where(read, jnp.sin(mixed), 0).sum(), jnp.where(read, mixed, 0)

    got, want = (
        jit(jax.value_and_grad(f, argnums=(0, 1, 2), has_aux=True))(query, memory, bias)
        for f in (ours, plain)
    )
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=atol)


@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_equal_plain(name):
    compare(*CASES[name])


@pytest.mark.parametrize("name", ["packed causal", "cross", "causal, shorter memory", "grouped"])
def test_what_distances_add_and_its_gradient_equal_plain(name):
    compare(*CASES[name], biased=True)


@pytest.mark.parametrize("blocks", [(64, 64), (1, 11), (3, 1)])
def test_block_sizes_change_nothing(blocks):
    compare(AttentionMask(PACKED, PACKED, causal=True), {}, blocks=blocks)


@pytest.mark.parametrize("name", ["grouped", "cross"])
def test_dropout_has_the_bits_of_plain(name):
    compare(*CASES[name], key=make_key(0, step=3), rate=0.4)


def test_rows_that_see_nothing_are_zero_and_pass_no_gradient():
    query, memory = arrays()
    mask = AttentionMask(jnp.zeros_like(PACKED), PACKED)

    def total(query, memory):
        return attend_blocked(query, memory, mask, query_block=4, key_block=4).sum()

    value, gradients = jit(jax.value_and_grad(total, argnums=(0, 1)))(query, memory)
    assert value == 0 and not any(jnp.any(x) for x in jax.tree.leaves(gradients))


def test_huge_scores_are_finite():
    query, memory = arrays()

    def total(query):
        return attend_blocked(
            1e4 * query, memory, AttentionMask(), query_block=4, key_block=4
        ).sum()

    assert all(np.isfinite(x).all() for x in jit(jax.value_and_grad(total))(query))


GRID = BlockGrid(query_len=12, key_len=12, query_block=4, key_block=4)


@pytest.mark.parametrize(
    ("mask", "want"),
    [
        (AttentionMask(), [(0, 3)] * 3),
        (AttentionMask(causal=True), [(0, 1), (0, 2), (0, 3)]),
        (AttentionMask(causal=True, window=1), [(0, 1), (1, 2), (2, 3)]),
        (AttentionMask(causal=True, window=6), [(0, 1), (0, 2), (0, 3)]),
        (AttentionMask(window=2), [(0, 2), (0, 3), (1, 3)]),
        (AttentionMask(*[padded([6, 3], 12)] * 2), [(0, 2), (0, 2), (0, 0)]),
        (
            AttentionMask(*[jnp.asarray([[1] * 4 + [2] * 4 + [3] * 4])] * 2, causal=True),
            [(0, 1), (1, 2), (2, 3)],
        ),
    ],
)
def test_only_blocks_where_something_is_seen_are_visited(mask, want):
    first, last = jit(lambda mask: block_ranges(mask, GRID))(mask)
    visited = [(int(a), int(b)) if a < b else (0, 0) for a, b in zip(first, last, strict=True)]
    assert visited == want


@pytest.mark.parametrize("seed", range(2))
def test_no_seen_key_is_left_out(seed):
    rng = np.random.default_rng(seed)
    segments = [jnp.asarray(np.sort(rng.integers(1, 5, (2, 12)))) for _ in range(2)]
    for causal in (False, True):
        mask = AttentionMask(*segments, causal=causal, window=int(rng.integers(1, 9)))
        first, last = jit(lambda mask: block_ranges(mask, GRID))(mask)
        block = np.arange(12) // 4
        visited = (block >= np.repeat(first, 4)[:, None]) & (block < np.repeat(last, 4)[:, None])
        assert not (np.asarray(mask.dense(12, 12)) & ~visited).any()


def test_what_is_skipped_is_never_read():
    """Later keys hold NaN, which one multiplication by zero would let out, in both passes."""
    query, memory = arrays(12, batch=1)
    poisoned = jax.tree.map(lambda x: x.at[:, :, 8:].set(jnp.nan), memory)

    def total(query, memory, mask):
        mixed = attend_blocked(query, memory, mask, query_block=4, key_block=4)
        return jnp.where(jnp.arange(12)[:, None] < 8, mixed, 0).sum()

    half = padded([8], 12)
    for mask in (AttentionMask(half, half), AttentionMask(half, half, causal=True)):
        gradients = jit(jax.grad(total, argnums=(0, 1)))(query, poisoned, mask)
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradients))


def temporary_bytes(function, length):
    shape = jax.ShapeDtypeStruct((1, 2, length, WIDTH), jnp.float32)

    def total(query, keys, values):
        return function(query, KeyValues(keys, values)).sum()

    lowered = jax.jit(jax.grad(total, argnums=(0, 1, 2))).lower(shape, shape, shape)
    # As users compile, not as tests do: their generators keep other things.
    as_users = {"xla_cpu_use_fusion_emitters": True, "xla_backend_optimization_level": 3}
    return program_memory(lowered.compile(compiler_options=as_users))[1]


def test_memory_grows_with_the_length_and_not_with_its_square():
    mask = AttentionMask(causal=True)

    def blocked(query, memory):
        return attend_blocked(query, memory, mask, query_block=32, key_block=32)

    def plain(query, memory):
        return attend(query, memory, mask.dense(query.shape[2], query.shape[2]))[0]

    def biased(query, memory):
        values = jnp.zeros((query.shape[1], 2 * query.shape[2] - 1)) + query.mean()
        bias = DistanceBias(values, trained=True)
        return attend_blocked(query, memory, mask, bias=bias, query_block=32, key_block=32)

    assert temporary_bytes(biased, 1024) < 2 * temporary_bytes(blocked, 1024)
    short, middle, long = (temporary_bytes(blocked, length) for length in (512, 1024, 2048))
    assert long - middle < 2.2 * (middle - short)
    assert long < 24 * (2048 * 2 * WIDTH * 4)
    assert temporary_bytes(plain, 1024) > 2 * 1024**2 * 4 > 4 * middle


def test_bfloat16_operands_stay_close(monkeypatch):
    """As on machines whose kernels for small products take bfloat16."""
    query, memory = arrays()
    mask = AttentionMask(PACKED, PACKED, causal=True)

    monkeypatch.setattr(attention_blocked, "operand_dtype", lambda dtype: dtype)

    def run(dtype):
        def total(query, memory):
            mixed = attend_blocked(
                query, memory, mask, compute_dtype=dtype, query_block=4, key_block=4
            )
            return jnp.sin(mixed).mean(), mixed

        return jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))(query, memory)

    for low, high in zip(
        jax.tree.leaves(run("bfloat16")), jax.tree.leaves(run("float32")), strict=True
    ):
        assert low.dtype == jnp.float32
        assert 0 < jnp.abs(low - high).max() < 0.1


def test_masks_may_be_traced():
    query, memory = arrays()
    mask = AttentionMask(PACKED, PACKED, causal=True)
    other = dataclasses.replace(mask, query_segments=PADDED, key_segments=PADDED)

    @jit
    def run(mask):
        return attend_blocked(query, memory, mask, query_block=4, key_block=4)

    assert jnp.abs(run(mask) - run(other)).max() > 0.01
    got = run(dataclasses.replace(other, query_segments=PACKED, key_segments=PACKED))
    np.testing.assert_array_equal(got, run(mask))
