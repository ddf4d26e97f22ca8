"""Attention against a numpy loop; masks, groups, dropout, the cache."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqgen.nn.attention import Attention
from seqgen.nn.attention_plain import KeyValues, attend
from seqgen.nn.dropout import keep_mask, make_key
from seqgen.nn.masks import AttentionMask
from seqgen.nn.rotary import RotaryRule


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def reference(query, keys, values, mask):
    """One head of one row at a time, in float64."""
    batch, heads, length, width = query.shape
    out = np.zeros(query.shape)
    group = heads // keys.shape[1]
    for b in range(batch):
        for n in range(heads):
            for t in range(length):
                scores = np.array([query[b, n, t] @ k for k in keys[b, n // group]]) / width**0.5
                scores = np.where(mask[b, 0, t], scores, -np.inf)
                weights = np.exp(scores - scores.max())
                out[b, n, t] = (weights / weights.sum()) @ values[b, n // group]
    return out


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_attend_matches_numpy(kv_heads):
    query, keys = random(2, 4, 5, 8), random(2, kv_heads, 6, 8, seed=1)
    values = random(2, kv_heads, 6, 8, seed=2)
    mask = np.random.default_rng(3).random((2, 1, 5, 6)) < 0.6
    mask[..., 0] = True
    mixed, weights = jax.jit(attend)(query, KeyValues(keys, values), jnp.asarray(mask))
    want = reference(*(np.asarray(x, np.float64) for x in (query, keys, values)), mask)
    np.testing.assert_allclose(mixed, want, atol=1e-5)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-6)
    assert not np.asarray(weights)[np.broadcast_to(~mask, weights.shape)].any()


def plain(query, memory, mask, key=None, rate=0.0):
    """The same in plain operations, for autodiff."""
    group = query.shape[1] // memory.keys.shape[1]
    keys, values = (jnp.repeat(x, group, axis=1) for x in (memory.keys, memory.values))
    scores = jnp.einsum("BNTH,BNSH->BNTS", query, keys) / query.shape[-1] ** 0.5
    weights = jax.nn.softmax(jnp.where(mask, scores, -1e9), axis=-1)
    if key is not None:
        weights = jnp.where(keep_mask(weights.shape, rate, key), weights / (1 - rate), 0)
    return jnp.einsum("BNTS,BNSH->BNTH", weights, values)


@pytest.mark.parametrize("kv_heads", [2, 1])
def test_gradients_match_autodiff_with_dropout(kv_heads):
    query = random(2, 2, 3, 4)
    memory = KeyValues(random(2, kv_heads, 5, 4, seed=1), random(2, kv_heads, 5, 4, seed=2))
    mask = jnp.asarray(np.random.default_rng(3).random((2, 1, 3, 5)) < 0.6)
    key = make_key(0, step=1)

    def ours(query, memory):
        return jnp.sin(attend(query, memory, mask, dropout_rate=0.4, key=key)[0]).sum()

    def theirs(query, memory):
        return jnp.sin(plain(query, memory, mask, key, 0.4)).sum()

    for got, want in zip(
        jax.tree.leaves(jax.grad(ours, argnums=(0, 1))(query, memory)),
        jax.tree.leaves(jax.grad(theirs, argnums=(0, 1))(query, memory)),
        strict=True,
    ):
        np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("kv_heads", [2, 1])
def test_longer_padding_moves_no_dropout_bit(kv_heads):
    query, keys = random(2, 2, 7, 4), random(2, kv_heads, 7, 4, seed=1)
    mask = jnp.broadcast_to(jnp.arange(7) < 4, (2, 1, 7, 7))

    def run(length):
        memory = KeyValues(keys[:, :, :length], keys[:, :, :length])
        cut = mask[:, :, :length, :length]
        return attend(query[:, :, :length], memory, cut, dropout_rate=0.5, key=jnp.uint32(7))[0]

    np.testing.assert_allclose(run(7)[:, :, :5], run(5), atol=1e-6)


def test_rows_that_see_nothing_are_finite_and_give_the_mean():
    query, memory = random(1, 2, 3, 4), KeyValues(random(1, 2, 5, 4), random(1, 2, 5, 4, seed=1))
    mask = jnp.zeros((1, 1, 3, 5), bool)
    mixed, _ = attend(query, memory, mask)
    np.testing.assert_allclose(mixed[0, :, 0], memory.values.mean(2)[0], atol=1e-6)
    gradient = jax.grad(lambda q: attend(q, memory, mask)[0].sum())(query)
    assert jnp.isfinite(gradient).all()


def test_huge_scores_are_finite():
    memory = KeyValues(1e4 * random(1, 1, 5, 4), random(1, 1, 5, 4, seed=1))
    mixed, _ = attend(1e4 * random(1, 1, 3, 4, seed=2), memory, jnp.ones((1, 1, 1, 5), bool))
    assert jnp.isfinite(mixed).all()


@pytest.mark.parametrize("kv_heads", [4, 1])
def test_layer_with_joint_and_separate_projections_agree(kv_heads):
    layer = Attention(
        8, 8, num_heads=4, num_kv_heads=kv_heads, rotary=RotaryRule(), rngs=nnx.Rngs(0)
    )
    x, at = random(2, 5, 8), jnp.tile(jnp.arange(5), (2, 1))
    mask = AttentionMask()
    joint = layer(x, None, mask, positions=at)
    separate = layer(x, x, mask, positions=at, memory_positions=at)
    np.testing.assert_allclose(joint, separate, atol=1e-6)


def test_bad_head_counts():
    for heads, groups in ((3, None), (4, 3)):
        with pytest.raises(ValueError, match="heads"):
            Attention(8, 8, num_heads=heads, num_kv_heads=groups, rngs=nnx.Rngs(0))


def test_telling_the_weights_leaves_the_output_and_costs_one_product():
    layer = Attention(8, 6, num_heads=4, num_kv_heads=2, rngs=nnx.Rngs(0))
    x, memory = random(2, 3, 8), random(2, 5, 6, seed=1)
    segments = jnp.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]])
    places = jnp.broadcast_to(jnp.arange(5), (2, 5))
    mask = AttentionMask(segments[:, :3], segments)
    options = {"positions": places[:, :3], "memory_positions": places}

    def run(weigh):
        return layer(x, memory, mask, **options, weigh=weigh)

    out, weights = run(True)
    np.testing.assert_array_equal(out, run(False))
    products = [str(jax.make_jaxpr(run, 0)(w)).count("dot_general[") for w in (False, True)]
    assert products[1] == products[0] + 1
    query, keys = (
        np.asarray(a, np.float64).reshape(2, -1, heads, 2)
        for a, heads in ((layer.query(x), 4), (layer.key(memory), 2))
    )
    powers = np.exp(np.einsum("btnh,bsnh->bnts", query, keys.repeat(2, axis=2)) / 2**0.5)
    powers = np.where(mask.dense(3, 5), powers, 0)
    want = powers / np.maximum(powers.sum(-1, keepdims=True), 1e-30)
    np.testing.assert_allclose(weights, want.mean(1), atol=1e-6)
    assert not weights[1, 2].any()
