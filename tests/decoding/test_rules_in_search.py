"""Laws of the rules inside greedy search, beam search and sampling, on a model that can be
enumerated."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from decoding.rules_reference import ruled_log_probs, ruled_logits
from decoding.toy_model import (
    ToyModel,
    encode,
    every_target,
    random_lines,
    run,
    sources,
)

from seqgen.decoding import DecodeConfig, beam_search, make_row_keys, search
from seqgen.decoding.constraints import length_limits
from seqgen.types import BOS_ID, EOS_ID, PAD_ID

LINES = random_lines(np.random.default_rng(5), 5)
SOURCES = sources(LINES)
toy = functools.cache(ToyModel.random)

EVERY_RULE = DecodeConfig(
    repetition_penalty=1.4,
    frequency_penalty=0.3,
    presence_penalty=0.5,
    no_repeat_ngram_size=3,
    bad_words=("5", "6 7", "4 4 6"),
    forced_prefix="7 5",
    stop_token_ids=(6,),
    min_length=4,
    max_length=12,
)
# Without a prefix, so that what is likely is what is held back.
OTHERS = EVERY_RULE.replace(forced_prefix="", min_length=2, frequency_penalty=0.0)


def is_end(token, config):
    return token == EOS_ID or token in config.stop_token_ids


def rescored(seed, line, ids, config):
    """The model's own log-probability of an answer and the penalised one."""
    own = toy(seed).reference_log_probs(line, ids).sum()
    return own, ruled_log_probs(toy(seed), line, ids, config, config.max_length).sum()


def check_scores(found, config, seed):
    """Both figures are those of teacher forcing, and every answer ends as it must."""
    for row, line in enumerate(LINES):
        for n in range(found.ids.shape[1]):
            length = found.lengths[row, n]
            ids = found.ids[row, n, :length].tolist()
            assert is_end(ids[-1], config) and not any(is_end(i, config) for i in ids[2:-1])
            assert not np.any(found.ids[row, n, length:])
            own, ruled = rescored(seed, line, ids, config)
            np.testing.assert_allclose(found.log_probs[row, n], own, rtol=1e-5)
            np.testing.assert_allclose(found.scores[row, n], ruled / length, rtol=1e-5)


@pytest.mark.parametrize("config", [EVERY_RULE, OTHERS], ids=["every", "others"])
def test_greedy_takes_the_likeliest_token_the_rules_leave(config):
    for seed in range(4):
        found = run(toy(seed), SOURCES, config)
        for row, line in enumerate(LINES):
            ids = []
            while not ids or not is_end(ids[-1], config):
                raw = toy(seed).reference_logits(line, ids)
                logits = ruled_logits(raw, ids, config, config.max_length)
                logits[[PAD_ID, BOS_ID]] = -np.inf
                if len(ids) < config.min_length:
                    logits[EOS_ID] = -np.inf
                ids.append(EOS_ID if len(ids) + 1 == config.max_length else int(logits.argmax()))
            assert found.ids[row, 0, : len(ids)].tolist() == ids
        check_scores(found, config, seed)
    plain = run(toy(3), SOURCES, DecodeConfig(max_length=12))
    assert not np.array_equal(found.ids, plain.ids)


@functools.partial(jax.jit, static_argnames="shape")
def beam_of_one(model, source, values, shape):
    limits = length_limits(values, source.segments.sum(1), max_len=16)
    return beam_search.beam_search(
        model, model.encode(source), limits, shape=shape, values=values, max_len=16
    )


@pytest.mark.parametrize("config", [EVERY_RULE, OTHERS], ids=["every", "others"])
def test_beam_of_one_is_greedy(config):
    shape = dataclasses.replace(config.shape(), early_stopping="first")
    for seed in range(4):
        greedy = run(toy(seed), SOURCES, config)
        beam = beam_of_one(toy(seed), SOURCES, config.values(encode), shape)
        np.testing.assert_array_equal(beam.ids, greedy.ids)
        np.testing.assert_allclose(beam.scores, greedy.scores, rtol=1e-5)
        np.testing.assert_allclose(beam.log_probs, greedy.log_probs, rtol=1e-5)


@pytest.mark.parametrize(
    "rules",
    [
        {"repetition_penalty": 1.5, "presence_penalty": 0.7, "no_repeat_ngram_size": 2},
        {"frequency_penalty": 1.2, "bad_words": ("4 5", "5 5 4", "4 4")},
        {"stop_token_ids": (5,), "min_length": 1, "repetition_penalty": 2.0},
        {"forced_prefix": "4", "no_repeat_ngram_size": 1},
    ],
    ids=["penalties", "words", "stops", "prefix"],
)
def test_full_width_is_brute_force(rules):
    """With the safe stop: the proof holds for penalised scores too."""
    config = DecodeConfig(num_beams=120, num_return_sequences=5, max_length=4, **rules)
    found = run(toy(3, vocab=6), SOURCES, config, max_len=4)
    stops = config.stop_token_ids
    targets = list(every_target(6, 4, config.min_length))
    if stops:  # an answer goes on to its first stop token alone, which may stand for EOS
        whole = [t for t in targets if not set(t) & set(stops)]
        cut = [t[:-1] for t in targets if t[-2:-1] == list(stops) and t.count(stops[0]) == 1]
        targets = whole + [t for t in cut if len(t) > config.min_length]
    for row, line in enumerate(LINES):
        totals = [
            ruled_log_probs(toy(3, vocab=6), line, target, config, 4).sum() for target in targets
        ]
        scores = np.asarray(totals) / [len(target) for target in targets]
        best = np.argsort(-scores)[:5]
        assert np.isfinite(scores[best]).all()
        np.testing.assert_allclose(found.scores[row], scores[best], rtol=1e-5)
        for n, place in enumerate(best):
            assert found.ids[row, n, : found.lengths[row, n]].tolist() == targets[place]
            own = toy(3, vocab=6).reference_log_probs(line, targets[place]).sum()
            np.testing.assert_allclose(found.log_probs[row, n], own, rtol=1e-5)


@pytest.mark.parametrize(
    "search_by",
    [
        {"num_beams": 3, "num_return_sequences": 3},
        {"do_sample": True, "num_return_sequences": 3, "min_p": 0.05, "typical_p": 0.9},
    ],
    ids=["beam", "sampling"],
)
def test_answers_keep_the_rules_and_do_not_depend_on_their_batch(search_by):
    config = OTHERS.replace(**search_by)
    order = [3, 0]
    for seed in range(3):
        together = run(toy(seed), SOURCES, config)
        check_scores(together, config, seed)
        again = sources([LINES[i] for i in order], 14)
        apart = run(toy(seed), again, config, max_len=24, numbers=order)
        np.testing.assert_array_equal(apart.ids[:, :, :16], together.ids[order])
        np.testing.assert_allclose(apart.scores, together.scores[order], atol=1e-5)
        np.testing.assert_allclose(apart.log_probs, together.log_probs[order], atol=1e-5)


def test_cold_sampling_is_greedy_under_the_rules():
    greedy = run(toy(3), SOURCES, OTHERS)
    for options in ({"min_p": 1.0}, {"typical_p": 0.999, "temperature": 1e-3}):
        drawn = run(toy(3), SOURCES, OTHERS.replace(do_sample=True, **options))
        np.testing.assert_array_equal(drawn.ids, greedy.ids)
        np.testing.assert_array_equal(drawn.scores, greedy.scores)


def test_rules_of_no_effect_change_nothing():
    """A rule that is on, with a number that does nothing, is the program without it."""
    for search_by in ({}, {"num_beams": 3}):
        plain = run(toy(1), SOURCES, DecodeConfig(**search_by))
        idle = DecodeConfig(no_repeat_ngram_size=99, bad_words=("4 4 4 4 4 4 4 4 5",), **search_by)
        found = run(toy(1), SOURCES, idle)
        np.testing.assert_array_equal(found.ids, plain.ids)
        np.testing.assert_allclose(found.scores, plain.scores, rtol=1e-5)


def test_values_of_rules_do_not_compile_again():
    traces = []

    def call(model, source, keys, values, *, shape, max_len):
        traces.append(shape)
        return search(model, source, keys, shape=shape, values=values, max_len=max_len)

    jitted = jax.jit(call, static_argnames=("shape", "max_len"))
    keys = make_row_keys(0, np.arange(len(LINES)))
    outcomes = []
    base = EVERY_RULE.replace(do_sample=True, min_p=0.01, typical_p=0.95, max_length=14)
    for changed in (
        {},
        {"repetition_penalty": 2.0},
        {"frequency_penalty": 3.0},
        {"presence_penalty": 3.0},
        {"no_repeat_ngram_size": 1},
        {"bad_words": ("4", "6", "7 7 7")},
        {"forced_prefix": "6 4"},
        {"stop_token_ids": (4,)},
        {"min_p": 1.0, "do_sample": True},
        {"typical_p": 0.0, "do_sample": True},
    ):
        config = base.replace(**changed)
        found = jitted(
            toy(4), SOURCES, keys, config.values(encode), shape=config.shape(), max_len=24
        )
        outcomes.append(np.asarray(found.scores).tobytes())
    assert len(traces) == 1
    assert len(set(outcomes)) == len(outcomes)
