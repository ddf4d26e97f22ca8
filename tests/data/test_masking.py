"""Hidden tokens: exact counts, rates within binomial bounds, whole words, no control tokens."""

import math

import numpy as np
import pytest

from seqgen.data.masking import MaskRules, mask_tokens, span_lengths
from seqgen.types import NUM_CONTROL_IDS

VOCAB, MASK = 50, 4
RULES = MaskRules(VOCAB, MASK)


def text(seed, length=200):
    """Words of one to three tokens, control tokens here and there."""
    random = np.random.default_rng(seed)
    ids = random.integers(5, VOCAB, length).astype(np.int32)
    ids[random.random(length) < 0.05] = random.integers(0, NUM_CONTROL_IDS)
    return ids, random.random(length) < 0.5


def masked(unit, seed, key=None, **options):
    ids, starts = text(seed)
    rules = MaskRules(VOCAB, MASK, unit=unit, **options)
    given = None if unit == "token" else starts
    return ids, starts, mask_tokens(ids, rules, key=key or (7, 0, seed), word_starts=given)


def within(count, total, rate):
    """Whether a count of independent draws lies within five standard deviations."""
    return abs(count - total * rate) <= 5 * math.sqrt(total * rate * (1 - rate))


@pytest.mark.parametrize("unit", ["token", "word", "span"])
def test_labels_restore_the_text_and_control_tokens_are_left_alone(unit):
    for seed in range(20):
        ids, _, row = masked(unit, seed)
        restored = row.ids.copy()
        restored[row.positions] = row.labels
        np.testing.assert_array_equal(restored, ids)
        assert (np.diff(row.positions) > 0).all()
        assert row.labels.min() >= 5 and row.ids[row.positions].min() >= MASK
        may = (ids >= 5).sum()
        count = max(1, round(0.15 * may))
        assert count - 2 <= len(row.positions) <= count  # a word of three tokens may not fit
        if unit == "token":
            assert len(row.positions) == count


@pytest.mark.parametrize("unit", ["token", "word", "span"])
def test_what_is_drawn_depends_on_the_key_alone(unit):
    _, _, first = masked(unit, 0, key=(1, 2, 3))
    _, _, again = masked(unit, 0, key=(1, 2, 3))
    np.testing.assert_array_equal(first.ids, again.ids)
    for other in ((2, 2, 3), (1, 3, 3), (1, 2, 4)):
        _, _, changed = masked(unit, 0, key=other)
        assert changed.positions.tolist() != first.positions.tolist()


def test_eighty_ten_ten_and_every_place_and_token_is_as_likely_as_another():
    ids = np.arange(5, VOCAB, dtype=np.int32)
    places, others = np.zeros(len(ids), int), np.zeros(VOCAB, int)
    hidden = same = 0
    rounds = 3000
    for example in range(rounds):
        row = mask_tokens(ids, RULES, key=(0, 0, example))
        now = row.ids[row.positions]
        places[row.positions] += 1
        hidden += (now == MASK).sum()
        same += (now == row.labels).sum()
        np.add.at(others, now[(now != MASK) & (now != row.labels)], 1)
    total = 7 * rounds
    assert places.sum() == total and all(within(n, rounds, 7 / 45) for n in places)
    assert within(hidden, total, 0.8)
    assert within(same, total, 0.1 + 0.1 / 45)  # one draw in 45 is the token itself
    assert others[:5].sum() == 0
    assert all(within(n, total, 0.1 * 44 / 45 / 45) for n in others[5:])


def test_tokens_put_in_anothers_place_are_looked_up_once(monkeypatch):
    rules = MaskRules(VOCAB, MASK, control_ids=(0, 1, 2, 3, 9))
    assert rules.others.tolist() == [*range(5, 9), *range(10, VOCAB)]
    monkeypatch.setattr(np, "setdiff1d", None)
    ids, _ = text(0)
    assert mask_tokens(ids, rules, key=(0,)).positions.size


def words_of(ids, starts):
    """The word that each place belongs to, -1 for control tokens."""
    number, found = -1, []
    for at, token in enumerate(ids):
        if token >= 5 and (starts[at] or at == 0 or ids[at - 1] < 5):
            number += 1
        found.append(number if token >= 5 else -1)
    return np.array(found)


@pytest.mark.parametrize("unit", ["word", "span"])
def test_words_are_hidden_whole(unit):
    for seed in range(20):
        ids, starts, row = masked(unit, seed)
        words = words_of(ids, starts)
        chosen = np.zeros(len(ids), bool)
        chosen[row.positions] = True
        assert set(words[chosen]).isdisjoint(words[~chosen])


def test_spans_are_longer_than_words_and_share_one_fate():
    random = np.random.default_rng(0)
    ids = random.integers(5, VOCAB, 400).astype(np.int32)
    rules = MaskRules(VOCAB, MASK, unit="span", mask_rate=0.5, random_rate=0.0)
    runs, changes = [], 0
    for example in range(60):
        row = mask_tokens(ids, rules, key=(0, 0, example))
        assert len(row.positions) == 60
        cuts = np.flatnonzero(np.diff(row.positions) > 1) + 1
        runs += [len(run) for run in np.split(row.positions, cuts)]
        masks = (row.ids[row.positions] == MASK).astype(int)
        changes += sum(np.abs(np.diff(run)).sum() for run in np.split(masks, cuts))
    assert np.mean(runs) > 3
    # Where neighbours of one run differ, two spans met; drawn a token it were half of them.
    assert changes < 0.15 * sum(length - 1 for length in runs)


def test_span_lengths_are_geometric_up_to_ten():
    draws = (np.arange(200_000) + 0.5) / 200_000
    lengths = span_lengths(draws, MaskRules(VOCAB, MASK, unit="span"))
    counts = np.bincount(lengths, minlength=11)
    assert counts[0] == 0 and len(counts) == 11
    np.testing.assert_allclose(counts[2:] / counts[1:-1], 0.8, atol=1e-3)
    assert abs(lengths.mean() - 3.8) < 0.01  # SpanBERT, section 3.1


def test_rows_with_nothing_to_hide_and_rules_that_cannot_be():
    row = mask_tokens(np.array([2, 3, 0]), RULES, key=(0,))
    assert row.positions.size == 0 and row.ids.tolist() == [2, 3, 0]
    for unit in ("token", "word", "span"):
        rules = MaskRules(VOCAB, MASK, unit=unit)
        assert mask_tokens(np.array([2, 9, 3]), rules, key=(0,)).labels.tolist() == [9]
        assert mask_tokens(np.zeros(0, int), rules, key=(0,)).ids.size == 0
    with pytest.raises(ValueError, match="word_starts"):
        mask_tokens(np.array([5, 6]), RULES, key=(0,), word_starts=np.array([True]))
    for options in ({"unit": "line"}, {"rate": 0.0}, {"random_rate": 0.3}, {"max_span_words": 0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            MaskRules(VOCAB, MASK, **options)
