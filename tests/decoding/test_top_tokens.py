"""The blockwise search for the likeliest tokens against a stable sort."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqgen.decoding.top_tokens import top_tokens

VOCABS = [5, 1021, 1023, 1700]  # one block, a prime number, and numbers with divisors


def sorted_reference(logits, k, allowed=True):
    log_probs = np.asarray(jax.nn.log_softmax(logits, axis=-1))
    order = np.argsort(-np.where(allowed, logits, -np.inf), axis=-1, kind="stable")[..., :k]
    chosen = np.take_along_axis(np.where(allowed, log_probs, -np.inf), order, -1)
    return chosen, order


@pytest.mark.parametrize("vocab", VOCABS)
@pytest.mark.parametrize("k", [1, 5])
def test_equals_a_stable_sort(vocab, k):
    """Also with many ties, with -inf, and with all the largest side by side."""
    rng = np.random.default_rng(vocab)
    logits = rng.normal(size=(5, 4, vocab)).astype(np.float32)
    logits[1] = np.round(logits[1]) + 0.0  # no -0.0, which sorts below 0.0
    logits[2] = 0.0
    logits[3, :, 1:] = -np.inf
    logits[4] = -abs(np.arange(vocab) - vocab // 2)
    log_probs, ids = jax.jit(functools.partial(top_tokens, k=k))(logits)
    want, order = sorted_reference(logits, k)
    np.testing.assert_array_equal(ids, order)
    np.testing.assert_allclose(log_probs, want, atol=1e-5)


@pytest.mark.parametrize("vocab", VOCABS)
@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("only_eos", [False, True])
def test_tokens_that_may_not_come_are_passed_over_and_keep_their_probability(vocab, k, only_eos):
    logits = np.random.default_rng(vocab).normal(size=(3, 2, vocab)).astype(np.float32)
    logits[:, :, :3] += 9  # the control ids would win

    def constrain(values, ids):
        return jnp.where((ids == 3) | (only_eos != (ids > 2)), values, -jnp.inf)

    log_probs, ids = jax.jit(functools.partial(top_tokens, k=k, constrain=constrain))(logits)
    number = np.arange(vocab)
    want, order = sorted_reference(logits, k, (number == 3) | (only_eos != (number > 2)))
    np.testing.assert_allclose(log_probs, want, atol=1e-5)
    seen = np.isfinite(want)
    assert seen.any() and (only_eos or seen[..., 0].all())
    np.testing.assert_array_equal(np.asarray(ids)[seen], order[seen])


def test_a_row_that_holds_nan_gives_nan():
    logits = np.zeros((2, 1, 700), np.float32)
    logits[0, 0, 600] = np.nan
    log_probs, _ = top_tokens(jnp.asarray(logits), 3)
    assert np.isnan(log_probs[0]).all() and np.isfinite(log_probs[1]).all()
