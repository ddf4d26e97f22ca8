"""Masks against loops."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from seqgen.nn import masks

QUERY = np.array([[1, 1, 2, 2, 0], [1, 1, 1, 1, 1], [0, 0, 0, 0, 0]])
KEYS = np.array([[1, 2, 2, 0], [1, 1, 1, 0], [1, 1, 0, 0]])


def test_segment_mask():
    mask = np.asarray(masks.segment_mask(jnp.asarray(QUERY), jnp.asarray(KEYS)))
    assert mask.shape == (3, 1, 5, 4)
    for b, t, s in itertools.product(range(3), range(5), range(4)):
        assert mask[b, 0, t, s] == (KEYS[b, s] != 0 and KEYS[b, s] == QUERY[b, t])


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("window", [None, 1, 2])
def test_rules_together(causal, window):
    segments, allowed = jnp.asarray(QUERY), np.arange(5) != 1
    rules = masks.AttentionMask(segments, segments, allowed[None, None, None], causal, window)
    mask = np.asarray(rules.dense(5, 5))
    for b, t, s in itertools.product(range(3), range(5), range(5)):
        same = QUERY[b, t] == QUERY[b, s] != 0 and s != 1
        near = window is None or abs(t - s) < window
        assert mask[b, 0, t, s] == (same and near and (s <= t or not causal))


def test_a_prefix_is_seen_by_all():
    segments, prefixes = jnp.asarray(QUERY[:2]), (3, 1)
    rules = masks.AttentionMask(
        segments, segments, causal=True, window=3, prefix_lens=jnp.array(prefixes)
    )
    mask = np.asarray(rules.dense(5, 5))
    for b, t, s in itertools.product(range(2), range(5), range(5)):
        before = QUERY[b, t] == QUERY[b, s] != 0 and (s <= t or s < prefixes[b])
        assert mask[b, 0, t, s] == (before and abs(t - s) < 3)


def test_no_rule_sees_everything():
    assert np.broadcast_to(masks.AttentionMask().dense(3, 4), (2, 1, 3, 4)).all()


def test_padding_mask():
    np.testing.assert_array_equal(
        np.asarray(masks.padding_mask(jnp.asarray(KEYS)))[:, 0, 0], KEYS != 0
    )
