"""Scores that fall where attention leaves source tokens out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoding.test_search_on_models import LINES, PAIRS, built, run
from decoding.toy_model import ToyModel, sources
from decoding.toy_model import run as run_toy

from seqgen.decoding import DecodeConfig
from seqgen.decoding.coverage import coverage_penalty
from seqgen.errors import ConfigError
from seqgen.types import BOS_ID

STRENGTH = 0.4
CONFIG = DecodeConfig(
    num_beams=3,
    num_return_sequences=3,
    max_length=9,
    coverage_penalty=STRENGTH,
    length_penalty=0.6,
    length_penalty_kind="wu",
)


def by_numpy(coverage, mask):
    """Of one hypothesis: coverage [S] and mask [S]."""
    return STRENGTH * sum(np.log(min(c, 1.0)) for c, real in zip(coverage, mask) if real)


def test_penalty_equals_numpy():
    coverage = np.random.default_rng(0).uniform(0.05, 2.0, (2, 3, 5))
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]], bool)
    found = coverage_penalty(jnp.float32(coverage), mask, jnp.float32(STRENGTH))
    wanted = [[by_numpy(row, mask[b]) for row in coverage[b]] for b in range(2)]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert np.isfinite(coverage_penalty(jnp.zeros((2, 3, 5)), mask, jnp.float32(1.0))).all()


@pytest.mark.parametrize("pair", PAIRS[:2], ids="-".join)
def test_scores_are_those_of_the_attention_of_the_whole_answer(pair):
    """Attention is read again in one pass over each answer."""
    found = run(pair, LINES, CONFIG)
    definition, params = built(*pair)
    source = sources([line for line in LINES for _ in range(3)], 12)
    ids, lengths = found.ids.reshape(-1, 16), found.lengths.reshape(-1)
    inputs = np.concatenate([np.full_like(ids[:, :1], BOS_ID), ids[:, :-1]], axis=1)

    @jax.jit
    def attention(params, source, inputs, lengths):
        model = definition.bind(params)
        state = model.init_decode(model.encode(source), max_len=16)
        return model.extend(state, inputs, lengths)[0].attention

    weights = np.asarray(attention(params, source, inputs, lengths))
    for row, length in enumerate(lengths):
        term = by_numpy(weights[row, :length].sum(0), source.segments[row] > 0)
        score = found.log_probs.reshape(-1)[row] / ((5 + length) / 6) ** 0.6 + term
        np.testing.assert_allclose(found.scores.reshape(-1)[row], score, rtol=1e-4, atol=1e-4)
    assert (np.diff(found.scores, axis=1) <= 0).all()
    order = [5, 1]
    apart = run(pair, [LINES[i] for i in order], CONFIG, width=20, numbers=order, max_len=24)
    np.testing.assert_array_equal(apart.ids[:, :, :16], found.ids[order])
    np.testing.assert_allclose(apart.scores, found.scores[order], atol=1e-4)


def test_a_model_without_attention_is_refused():
    with pytest.raises(ConfigError, match="this model has none"):
        run_toy(ToyModel.random(0), sources(LINES), CONFIG)
    with pytest.raises(ConfigError, match="only by beam search"):
        DecodeConfig(coverage_penalty=0.1)
    off = jax.tree.structure(DecodeConfig().values())
    assert jax.tree.structure(DecodeConfig(coverage_penalty=0.0).values()) == off
