"""Biases by distance against the papers' definitions and transformers' T5."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqgen.nn.attention_grid import BlockGrid
from seqgen.nn.position_bias import (
    Alibi,
    DistanceBias,
    RelativeBias,
    add_diagonals,
    alibi_slopes,
    bias_in_block,
    first_column,
    pad_bias,
    relative_buckets,
    spread,
)

T5 = [(32, 128, True), (32, 128, False), (8, 20, True), (7, 9, False)]


def columns(query_len, key_len, heads=3):
    rng = np.random.default_rng(0)
    return rng.standard_normal((heads, query_len + key_len - 1)).astype(np.float32)


@pytest.mark.parametrize(("query_len", "key_len"), [(1, 1), (4, 4), (3, 6), (6, 2)])
def test_columns_spread_along_diagonals_and_their_gradients_sum_them(query_len, key_len):
    values = columns(query_len, key_len)
    got, pull_back = jax.vjp(lambda v: spread(v, query_len, key_len), jnp.asarray(values))
    back = np.random.default_rng(1).standard_normal(got.shape).astype(np.float32)
    want, sums = np.zeros(got.shape), np.zeros(values.shape)
    for t in range(query_len):
        for s in range(key_len):
            want[:, t, s] = values[:, s - t + query_len - 1]
            sums[:, s - t + query_len - 1] += back[:, t, s]
    np.testing.assert_array_equal(got, want)
    np.testing.assert_allclose(pull_back(jnp.asarray(back))[0], sums, atol=1e-5)


def test_blocks_are_the_parts_of_the_square_and_give_back_its_gradient():
    grid = BlockGrid(query_len=7, key_len=8, query_block=3, key_block=5)
    bias = DistanceBias(jnp.asarray(columns(7, 8)))
    whole, padded = bias.dense(7, 8), pad_bias(bias, grid)
    back = np.random.default_rng(1).standard_normal((3, 9, 10)).astype(np.float32)
    back[:, 7:], back[:, :, 8:] = 0, 0
    total = jnp.zeros(padded.values.shape)
    for i in range(3):
        for j in range(2):
            block = (slice(None), slice(3 * i, 3 * i + 3), slice(5 * j, 5 * j + 5))
            want = whole[block]
            got = bias_in_block(padded, i, j, grid)[:, : want.shape[1], : want.shape[2]]
            np.testing.assert_array_equal(got, want)
            total = add_diagonals(total, jnp.asarray(back[block]), first_column(i, j, grid))
    (want,) = jax.vjp(lambda v: spread(v, 7, 8), bias.values)[1](jnp.asarray(back[:, :7, :8]))
    np.testing.assert_allclose(total[:, 2:-2], want, atol=1e-5)


def published_slopes(heads):
    """As the authors of ALiBi write them."""

    def of_power(n):
        start = 2 ** (-(2 ** -(np.log2(n) - 3)))
        return [start * start**i for i in range(n)]

    if np.log2(heads).is_integer():
        return of_power(heads)
    closest = 2 ** int(np.floor(np.log2(heads)))
    return of_power(closest) + published_slopes(2 * closest)[0::2][: heads - closest]


@pytest.mark.parametrize("heads", [1, 2, 3, 6, 8, 12, 13, 16])
def test_slopes_of_any_number_of_heads(heads):
    np.testing.assert_allclose(alibi_slopes(heads), published_slopes(heads), rtol=1e-6)


def test_alibi_falls_on_both_sides():
    np.testing.assert_allclose(alibi_slopes(8), [2.0**-i for i in range(1, 9)])
    got = Alibi(2).of_lengths(3, 3).dense(3, 3)
    distance = np.abs(np.arange(3)[:, None] - np.arange(3))
    np.testing.assert_allclose(got, -distance * np.array([2**-4, 2**-8])[:, None, None])


@pytest.mark.parametrize(("num_buckets", "max_distance", "bidirectional"), T5)
def test_buckets_and_biases_are_those_of_transformers(num_buckets, max_distance, bidirectional):
    torch = pytest.importorskip("torch")
    t5 = pytest.importorskip("transformers.models.t5.modeling_t5", reason="parity")
    options = {"num_buckets": num_buckets, "max_distance": max_distance}
    distances = np.arange(-300, 301)
    want = t5.T5Attention._relative_position_bucket(
        torch.from_numpy(distances), bidirectional=bidirectional, **options
    )
    got = relative_buckets(jnp.asarray(distances), bidirectional=bidirectional, **options)
    np.testing.assert_array_equal(got, want.numpy())

    config = t5.T5Config(
        d_model=8,
        d_kv=4,
        num_heads=2,
        is_decoder=not bidirectional,
        relative_attention_num_buckets=num_buckets,
        relative_attention_max_distance=max_distance,
    )
    theirs = t5.T5Attention(config, has_relative_attention_bias=True)
    ours = RelativeBias(2, bidirectional=bidirectional, scale=1.0, rngs=nnx.Rngs(0), **options)
    with torch.no_grad():
        table = torch.from_numpy(np.array(ours.table[...]))
        theirs.relative_attention_bias.weight.copy_(table)
        expected = theirs.compute_bias(40, 40)
    np.testing.assert_allclose(ours.of_lengths(40, 40).dense(40, 40), expected.numpy()[0])


def test_the_table_gets_the_gradient_of_its_distances():
    bias = RelativeBias(
        2, num_buckets=4, max_distance=5, bidirectional=False, scale=1.0, rngs=nnx.Rngs(0)
    )
    graph, state = nnx.split(bias)
    gradient = jax.grad(lambda s: nnx.merge(graph, s).of_lengths(3, 3).dense(3, 3).sum())(state)
    # Later keys and the query's own place share bucket 0; two places back is bucket 2 or more.
    np.testing.assert_array_equal(gradient["table"][...], [[6, 6], [2, 2], [1, 1], [0, 0]])
