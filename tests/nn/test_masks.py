"""Masks against loops."""

import itertools

import jax.numpy as jnp
import numpy as np

from seqgen.nn import masks

QUERY = np.array([[1, 1, 2, 2, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]])
KEYS = np.array([[1, 2, 2, 0], [1, 1, 1, 0], [1, 1, 0, 0]])


def test_segment_mask():
    mask = np.asarray(masks.segment_mask(jnp.asarray(QUERY), jnp.asarray(KEYS)))
    assert mask.shape == (3, 1, 5, 4)
    for b, t, s in itertools.product(range(3), range(5), range(4)):
        assert mask[b, 0, t, s] == (KEYS[b, s] != 0 and KEYS[b, s] == QUERY[b, t])


def test_causal_segment_mask():
    mask = np.asarray(masks.causal_segment_mask(jnp.asarray(QUERY)))
    for b, t, s in itertools.product(range(3), range(5), range(5)):
        same = QUERY[b, t] == QUERY[b, s] != 0
        assert mask[b, 0, t, s] == (same and s <= t)


def test_cache_and_padding_masks():
    mask = np.asarray(masks.cache_mask(jnp.array([[0, 1], [3, 4]]), 6))
    assert mask.shape == (2, 1, 2, 6)
    np.testing.assert_array_equal(mask.sum(-1)[:, 0], [[1, 2], [4, 5]])
    assert mask[1, 0, 0, 3] and not mask[1, 0, 0, 4]
    np.testing.assert_array_equal(
        np.asarray(masks.padding_mask(jnp.asarray(KEYS)))[:, 0, 0], KEYS != 0
    )
