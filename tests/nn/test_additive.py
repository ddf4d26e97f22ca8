"""Attention of recurrent decoders against numpy, and the law of its mask."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqgen.nn.additive import (
    AdditiveAttention,
    LuongAttention,
    additive_scores,
    attention_weights,
)

SENTENCES, QUERIES, POSITIONS, QUERY_DIM, MEMORY_DIM = 3, 2, 4, 5, 6
MASK = np.arange(POSITIONS) < np.array([4, 2, 0])[:, None]


def random(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


QUERY, MEMORY = (
    random(0, SENTENCES, QUERIES, QUERY_DIM),
    random(1, SENTENCES, POSITIONS, MEMORY_DIM),
)


def softmax_over_real(scores):
    weights = np.zeros_like(scores)
    for b in range(SENTENCES):
        real = scores[b][:, MASK[b]]
        if real.shape[1]:
            powers = np.exp(real - real.max(-1, keepdims=True))
            weights[b][:, MASK[b]] = powers / powers.sum(-1, keepdims=True)
    return weights


def test_additive_attention_equals_the_papers_formula():
    attention = AdditiveAttention(QUERY_DIM, MEMORY_DIM, attention_dim=7, rngs=nnx.Rngs(0))
    attention.key.bias[...] = jnp.asarray(random(2, 7))
    weights = attention.weigh(jnp.asarray(QUERY), attention.keys(jnp.asarray(MEMORY)), MASK)
    w, u = np.asarray(attention.query.kernel[...]), np.asarray(attention.key.kernel[...])
    v, bias = np.asarray(attention.vector[...]), np.asarray(attention.key.bias[...])
    scores = np.zeros((SENTENCES, QUERIES, POSITIONS), np.float32)
    for b in range(SENTENCES):
        for q in range(QUERIES):
            for s in range(POSITIONS):
                scores[b, q, s] = v @ np.tanh(QUERY[b, q] @ w + MEMORY[b, s] @ u + bias)
    np.testing.assert_allclose(weights, softmax_over_real(scores), atol=1e-6)


def test_what_was_attended_to_before_enters_the_scores():
    """See et al. 2017, equation 11; from zeros it changes nothing."""
    past = random(3, SENTENCES, QUERIES, POSITIONS)
    query, keys, vector, cover = (
        random(4, SENTENCES, QUERIES, 7),
        random(5, 3, 4, 7),
        *random(6, 2, 7),
    )
    got = additive_scores(*map(jnp.asarray, (query, keys, vector)), past[..., None] * cover)
    for b in range(SENTENCES):
        for q in range(QUERIES):
            for s in range(POSITIONS):
                want = vector @ np.tanh(query[b, q] + keys[b, s] + past[b, q, s] * cover)
                np.testing.assert_allclose(got[b, q, s], want, rtol=1e-5, atol=1e-6)
    options = {"attention_dim": 7, "rngs": nnx.Rngs(0)}
    assert not AdditiveAttention(5, 6, coverage=True, **options).coverage[...].any()
    assert AdditiveAttention(5, 6, **options).coverage is None


@pytest.mark.parametrize("general", [False, True])
def test_luong_attention_equals_the_papers_formula(general):
    memory = MEMORY if general else MEMORY[..., :QUERY_DIM]
    attention = LuongAttention(QUERY_DIM, memory.shape[-1], general=general, rngs=nnx.Rngs(0))
    weights = attention.weigh(jnp.asarray(QUERY), attention.keys(jnp.asarray(memory)), MASK)
    matrix = np.asarray(attention.key.kernel[...]) if general else np.eye(QUERY_DIM)
    scores = np.einsum("BQH,BSH->BQS", QUERY, memory @ matrix).astype(np.float32)
    np.testing.assert_allclose(weights, softmax_over_real(scores), atol=1e-6)


def test_dot_attention_refuses_unequal_widths():
    with pytest.raises(ValueError, match="5-wide query, 6-wide memory"):
        LuongAttention(5, 6, general=False, rngs=nnx.Rngs(0))


def test_weights_sum_to_one_on_real_positions_only_and_survive_extremes():
    scores = random(3, SENTENCES, QUERIES, POSITIONS) * 1e4
    weights = attention_weights(jnp.asarray(scores), MASK[:, None])
    sums = np.asarray(weights.sum(-1))
    np.testing.assert_allclose(sums, [[1, 1], [1, 1], [0, 0]], atol=1e-6)
    assert not np.asarray(weights)[~np.broadcast_to(MASK[:, None], weights.shape)].any()


def test_gradients_are_finite_where_nothing_is_seen():
    def total(scores):
        return (attention_weights(scores, MASK[:, None]) * random(4, *scores.shape)).sum()

    gradient = jax.grad(total)(jnp.asarray(random(5, SENTENCES, QUERIES, POSITIONS)))
    assert np.isfinite(gradient).all()
    assert np.abs(gradient[0]).max() > 0 and np.abs(gradient[2]).max() == 0
