"""The blockwise search for the largest logits against a stable sort."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqgen.decoding.top_tokens import top_tokens


@pytest.mark.parametrize("vocab", [5, 1023, 1700])
@pytest.mark.parametrize("k", [1, 5])
def test_constrains_before_it_chooses(vocab, k):
    logits = np.random.default_rng(vocab).normal(size=(3, 2, vocab)).astype(np.float32)

    def constrain(values, ids):
        return jnp.where(ids % 5 == 3, -jnp.inf, values)

    values, ids = jax.jit(functools.partial(top_tokens, k=k, constrain=constrain))(logits)
    want = jax.lax.top_k(constrain(logits, np.arange(vocab)), k)
    np.testing.assert_array_equal(values, want[0])
    finite = np.isfinite(want[0])
    np.testing.assert_array_equal(np.asarray(ids)[finite], np.asarray(want[1])[finite])


@pytest.mark.parametrize("vocab", [5, 1023, 1700])
@pytest.mark.parametrize("k", [1, 5])
def test_equals_a_stable_sort(vocab, k):
    """Also with many ties, with -inf, and with all the largest side by side."""
    rng = np.random.default_rng(vocab)
    logits = rng.normal(size=(5, 4, vocab)).astype(np.float32)
    logits[1] = np.round(logits[1]) + 0.0  # no -0.0, which sorts below 0.0
    logits[2] = 0.0
    logits[3, :, 1:] = -np.inf
    logits[4] = -abs(np.arange(vocab) - vocab // 2)
    values, ids = jax.jit(functools.partial(top_tokens, k=k))(logits)
    order = np.argsort(-logits, axis=-1, kind="stable")[..., :k]
    np.testing.assert_array_equal(ids, order)
    np.testing.assert_array_equal(values, np.take_along_axis(logits, order, -1))
