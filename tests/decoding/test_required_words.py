"""Phrases that every answer must hold: the automaton, the shares of a beam, the guarantee."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoding.beam_reference import best_without_shares, share_out
from decoding.toy_model import (
    ToyModel,
    encode,
    every_target,
    random_lines,
    run,
    sources,
)

from seqgen.decoding import DecodeConfig, make_row_keys, search
from seqgen.decoding.required_beams import share_beams_out
from seqgen.decoding.required_words import required_table, tokens_needed
from seqgen.errors import ConfigError
from seqgen.types import EOS_ID

LINES = random_lines(np.random.default_rng(9), 4)
SOURCES = sources(LINES)
toy = functools.cache(ToyModel.random)


def holds(ids, phrase):
    return any(list(ids[i : i + len(phrase)]) == phrase for i in range(len(ids)))


def missing_by_search(ids, phrases, alphabet):
    """Fewest tokens behind `ids` after which all phrases have come, by trying all."""
    for more in range(9):
        for tail in itertools.product(alphabet, repeat=more):
            if all(holds([*ids, *tail], phrase) for phrase in phrases):
                return more
    raise AssertionError


@pytest.mark.parametrize(
    "words",
    [("5",), ("4 5", "5 6"), ("4 4", "4 5 4"), ("6 7", "7 6", "6"), ("4 5 6", "5", "4 5 6")],
)
def test_the_automaton_knows_what_is_missing(words):
    """After any text; overlaps are counted, and a phrase inside another one is met by it."""
    table = required_table(words, encode)
    phrases = [encode(word) for word in words]
    alphabet = sorted({token for phrase in phrases for token in phrase})
    rng = np.random.default_rng(0)
    for _ in range(30):
        ids = rng.choice([4, 5, 6, 7, 9], rng.integers(0, 6)).tolist()
        state = jnp.int32(0)
        for token in ids:
            state = table.follow(state, jnp.int32(token))
        assert int(table.missing[state]) == missing_by_search(ids, phrases, alphabet), ids
    assert tokens_needed(table, encode("4 5")) == 2 + missing_by_search([4, 5], phrases, alphabet)


def test_beams_are_shared_out_as_in_plain_python():
    rng = np.random.default_rng(1)
    log_probs = np.round(rng.normal(size=(20, 24)), 3).astype(np.float32)
    log_probs[rng.random(log_probs.shape) < 0.3] = -np.inf
    missing = rng.integers(0, 4, log_probs.shape)
    ends = (missing == 0) & (rng.random(log_probs.shape) < 0.5)
    places = np.asarray(share_beams_out(jnp.asarray(log_probs), missing, ends, 5))
    for row in range(20):
        taking, living = share_out(log_probs[row], missing[row], ends[row], 5)
        alive = [p for p in places[row, :5] if np.isfinite(log_probs[row, p])]
        assert alive == taking
        alive = places[row, 5:]
        alive = [p for p in alive if np.isfinite(log_probs[row, p]) and not ends[row, p]]
        assert alive == living


def test_full_width_is_brute_force():
    """The best of ALL sequences that hold the words, in order."""
    config = DecodeConfig(
        num_beams=120, num_return_sequences=4, max_length=5, required_words=("4 5", "5")
    )
    model = toy(3, vocab=6)
    found = run(model, SOURCES, config, max_len=5)
    targets = [ids for ids in every_target(6, 5) if holds(ids, [4, 5])]
    for row, line in enumerate(LINES):
        totals = np.asarray([model.reference_log_probs(line, ids).sum() for ids in targets])
        scores = totals / [len(ids) for ids in targets]
        best = np.argsort(-scores)[:4]
        np.testing.assert_allclose(found.scores[row], scores[best], rtol=1e-5)
        for n, place in enumerate(best):
            assert found.ids[row, n, : found.lengths[row, n]].tolist() == targets[place]


GUARANTEED = DecodeConfig(
    num_beams=3, num_return_sequences=2, max_length=9, required_words=("4 5 6", "7 7", "5 4")
)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"forced_prefix": "6 6", "no_repeat_ngram_size": 2, "bad_words": ("6 7", "7 4")},
        {"stop_token_ids": (1,), "repetition_penalty": 1.5},
        {"num_beams": 4, "num_beam_groups": 2},
    ],
    ids=["plain", "bans", "stops", "groups"],
)
def test_every_answer_holds_all_words_whatever_the_room(options):
    """Down to the least room there is: 5 4 5 6 7 7 and EOS are 7 tokens."""
    rng = np.random.default_rng(4)
    base = GUARANTEED.replace(**options)
    cases = [(base.required_words, 12), (base.required_words, 7)]
    for _ in range(6):
        count = rng.integers(1, 4)
        words = tuple(
            " ".join(map(str, rng.choice([4, 5, 6, 7], rng.integers(1, 4)))) for _ in range(count)
        )
        cases.append((words, 0))
    for words, room in cases:
        if any(holds(encode(w), encode(b)) for w in words for b in base.bad_words):
            continue
        table = required_table(words, encode)
        needed = tokens_needed(table, encode(base.forced_prefix)) + 1
        config = base.replace(required_words=words, max_length=max(room, needed))
        for seed in range(2):
            model = toy(seed)
            found = run(model, SOURCES, config)
            for row, line in enumerate(LINES):
                for n in range(2):
                    ids = found.ids[row, n, : found.lengths[row, n]].tolist()
                    if n and not ids:
                        continue  # too short for two answers
                    assert all(holds(ids, encode(word)) for word in words), (words, ids)
                    total = model.reference_log_probs(line, ids).sum()
                    np.testing.assert_allclose(found.log_probs[row, n], total, rtol=1e-4)


def test_shared_beams_find_better_answers_than_words_forced_at_the_end():
    options = {"max_length": 9, "required_words": ("6 4", "7 5"), "length_penalty": 0.0}
    config = DecodeConfig(num_beams=4, **options)
    table = required_table(config.required_words, encode)
    shared, forced = [], []
    for seed in range(8):
        shared += run(toy(seed), SOURCES, config).scores[:, 0].tolist()
        forced += [best_without_shares(toy(seed), line, table, beams=4, limit=9) for line in LINES]
    assert np.mean(shared) > np.mean(forced)
    assert np.mean(np.greater(shared, np.asarray(forced) - 1e-3)) > 0.5


def test_words_do_not_compile_again_and_lines_do_not_depend_on_their_batch():
    traces = []

    def call(model, source, keys, values, *, shape, max_len):
        traces.append(shape)
        return search(model, source, keys, shape=shape, values=values, max_len=max_len)

    jitted = jax.jit(call, static_argnames=("shape", "max_len"))
    keys = make_row_keys(0, np.arange(len(LINES)))
    outcomes = set()
    for words in (("4 5 6", "7 7", "5 4"), ("6",), ("5 5 5", "4", "6 4", "7 6 5")):
        config = GUARANTEED.replace(required_words=words, max_length=14)
        values = config.values(encode)
        found = jitted(toy(0), SOURCES, keys, values, shape=config.shape(), max_len=16)
        outcomes.add(np.asarray(found.ids).tobytes())
    assert len(traces) == 1 and len(outcomes) == 3
    order = [3, 1]
    again = sources([LINES[i] for i in order], 14)
    apart = run(toy(0), again, config, max_len=24, numbers=order)
    np.testing.assert_array_equal(apart.ids[:, :, :16], np.asarray(found.ids)[order])
    np.testing.assert_allclose(apart.scores, np.asarray(found.scores)[order], atol=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 1, "num_return_sequences": 1}, "only by beam search"),
        ({"stop": ("\n",)}, "required_words with stop"),
        ({"bad_words": ("5 6",)}, "what bad_words forbid"),
        ({"stop_token_ids": (7,)}, "one of stop_token_ids"),
        ({"required_words": ("4 1",)}, "required_words '4 1' cannot be written"),
        ({"required_words": (" ",)}, "it has no tokens"),
        ({"forced_prefix": "4 1"}, "forced_prefix '4 1' cannot be written"),
        ({"forced_prefix": " "}, "it has no tokens"),
        ({"required_words": tuple(f"{i} 4 {i} 5" for i in range(6, 22))}, "too many"),
    ],
)
def test_what_cannot_be_met_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        GUARANTEED.replace(**options).values(encode)
    assert EOS_ID not in encode("4 5")
