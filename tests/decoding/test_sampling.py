"""Greedy search and sampling against numpy, and what draws may depend on."""

import functools

import jax
import numpy as np
import pytest
from decoding.toy_model import ToyModel, random_lines, run, sources

from seqgen.decoding import DecodeConfig, make_row_keys
from seqgen.decoding.filters import keep_top_k, keep_top_p
from seqgen.decoding.sampling import draw_tokens
from seqgen.types import BOS_ID, EOS_ID, PAD_ID

LINES = random_lines(np.random.default_rng(5), 6)
SOURCES = sources(LINES)
toy = functools.cache(ToyModel.random)


def test_greedy_takes_the_likeliest_token():
    found = run(toy(1), SOURCES, DecodeConfig(min_length=2))
    for row, line in enumerate(LINES):
        ids, limit = [], 2 * len(line) + 10
        while not ids or ids[-1] != EOS_ID:
            options = {
                token: toy(1).reference_log_probs(line, [*ids, token])[-1]
                for token in range(toy(1).vocab)
                if token not in (PAD_ID, BOS_ID) and (token != EOS_ID or len(ids) >= 2)
            }
            ids.append(EOS_ID if len(ids) + 1 == min(limit, 16) else max(options, key=options.get))
        assert found.ids[row, 0, : len(ids)].tolist() == ids
        assert found.lengths[row, 0] == len(ids)
        total = toy(1).reference_log_probs(line, ids).sum()
        np.testing.assert_allclose(found.log_probs[row, 0], total, rtol=1e-5)
        np.testing.assert_allclose(found.scores[row, 0], total / len(ids), rtol=1e-5)


def reference_probs(logits, *, temperature, top_k, top_p):
    """Temperature, then top-k, then top-p, the slow way round: by sorting."""
    logits = np.asarray(logits, np.float64) / temperature
    if top_k:
        logits = np.where(logits >= np.sort(logits)[::-1][:top_k][-1], logits, -np.inf)
    probs = np.exp(logits - logits.max())
    probs /= probs.sum()
    if top_p < 1:
        order = np.argsort(-probs)
        before = np.cumsum(probs[order]) - probs[order]
        kept = max(1, int(np.sum(before < top_p)))
        probs[order[kept:]] = 0.0
    return probs / probs.sum()


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p"),
    [(1.0, 0, 1.0), (0.7, 5, 1.0), (1.6, 0, 0.8), (1.2, 6, 0.6), (1.0, 0, 0.0)],
)
def test_draws_follow_the_filtered_softmax(temperature, top_k, top_p):
    """20,000 draws against the exact distribution, within five standard errors each."""
    logits = np.random.default_rng(0).normal(size=12).astype(np.float32) * 2
    logits[4] = -np.inf
    config = DecodeConfig(do_sample=True, temperature=temperature, top_k=top_k, top_p=top_p)
    count = 20_000
    keys = make_row_keys(3, np.arange(count))[:, None]
    drawn = jax.jit(draw_tokens)(np.tile(logits, (count, 1, 1)), keys, config.values())
    expected = reference_probs(logits, temperature=temperature, top_k=top_k, top_p=top_p)
    found = np.bincount(np.asarray(drawn).ravel(), minlength=12) / count
    assert np.all(found[expected == 0] == 0)
    assert np.all(abs(found - expected) <= 5 * np.sqrt(expected * (1 - expected) / count) + 1e-9)


def test_filters_equal_a_sort():
    rng = np.random.default_rng(2)
    logits = (rng.normal(size=(40, 50)) * rng.choice([0.1, 1, 30], (40, 1))).astype(np.float32)
    logits[:, 7] = -np.inf
    logits[0] = 1.5
    top_k, top_p = jax.jit(keep_top_k), jax.jit(keep_top_p)
    for k in (1, 2, 13, 50, 99):
        kept = np.asarray(top_k(logits, k))
        for row, line in enumerate(logits):
            threshold = np.sort(line)[::-1][min(k, 50) - 1]
            np.testing.assert_array_equal(kept[row], np.where(line >= threshold, line, -np.inf))
    for p in (0.0, 0.05, 0.5, 0.9, 0.999):
        kept = np.isfinite(np.asarray(top_p(logits, np.float32(p))))
        for row, line in enumerate(logits):
            expected = reference_probs(line, temperature=1, top_k=0, top_p=p) > 0
            if row == 0:  # all equal: none can be told from another, so all stay
                expected[np.isfinite(line)] = True
            np.testing.assert_array_equal(kept[row], expected)


def test_draws_depend_on_seed_line_and_sample_alone():
    config = DecodeConfig(do_sample=True, num_return_sequences=3, temperature=1.5)
    together = run(toy(2), SOURCES, config)
    order = [4, 0, 2]
    apart = run(toy(2), sources([LINES[i] for i in order], 14), config, numbers=order)
    np.testing.assert_array_equal(apart.ids, together.ids[order])
    np.testing.assert_allclose(apart.log_probs, together.log_probs[order], atol=1e-5)
    fewer = run(toy(2), SOURCES, config.replace(num_return_sequences=1))
    np.testing.assert_array_equal(fewer.ids[:, 0], together.ids[:, 0])
    same_line = run(toy(2), sources([LINES[0]] * 6, SOURCES.ids.shape[1]), config)
    answers = {tuple(ids) for row in same_line.ids.tolist() for ids in row}
    assert len(answers) > 12  # 18 draws of one sentence differ by line number and sample
    assert not np.array_equal(run(toy(2), SOURCES, config.replace(seed=1)).ids, together.ids)


def test_sampled_scores_are_the_models_own():
    """Temperature and filters choose the tokens; the score stays the model's log-probability."""
    config = DecodeConfig(do_sample=True, num_return_sequences=3, temperature=0.5, top_k=3)
    found = run(toy(2), SOURCES, config)
    for row, line in enumerate(LINES):
        for n in range(3):
            ids = found.ids[row, n, : found.lengths[row, n]]
            total = toy(2).reference_log_probs(line, ids).sum()
            np.testing.assert_allclose(found.log_probs[row, n], total, rtol=1e-5)


def test_cold_and_narrow_sampling_is_greedy():
    greedy = run(toy(3), SOURCES, DecodeConfig())
    for options in ({"top_k": 1}, {"top_p": 0.0}, {"temperature": 1e-3}):
        drawn = run(toy(3), SOURCES, DecodeConfig(do_sample=True, **options))
        np.testing.assert_array_equal(drawn.ids, greedy.ids)
        np.testing.assert_array_equal(drawn.scores, greedy.scores)
