"""Pairs: neighbours or not in equal parts, every place once, budgets kept, keyed draws."""

import math

import numpy as np
import pytest

from seqgen.data.sentence_pairs import SentencePairs
from seqgen.types import BOS_ID, EOS_ID


def documents():
    """Tokens number the text: document d begins at 1000 d + 10, sentence after sentence."""
    random, found = np.random.default_rng(0), []
    for number, sentences in enumerate((5, 0, 1, 4, 7)):
        lengths = random.integers(1, 6, sentences)
        ids = np.arange(lengths.sum()) + 1000 * number + 10
        found.append(np.split(ids, np.cumsum(lengths)[:-1]) if sentences else [])
    return found


DOCUMENTS = documents()
PAIRS = SentencePairs(DOCUMENTS, max_tokens=12)


def half(count, total):
    return abs(count - total / 2) <= 2.5 * math.sqrt(total)


def test_every_place_between_two_sentences_is_there_once():
    assert len(PAIRS) == 4 + 0 + 0 + 3 + 6
    begins = {int(s[0]) for document in DOCUMENTS for s in document[1:]}
    found = []
    for index in range(len(PAIRS)):
        pair = next(
            pair
            for epoch in range(99)
            if not (pair := PAIRS.sentence_order(index, seed=0, epoch=epoch)).label
        )
        assert pair.second[0] == pair.first[-1] + 1
        found.append(int(pair.second[0]))
    assert len(found) == len(set(found)) and set(found) == begins


def test_next_sentences_follow_or_are_of_another_document():
    apart, total, others = 0, 0, set()
    for epoch in range(200):
        for index in range(len(PAIRS)):
            pair = PAIRS.next_sentence(index, seed=3, epoch=epoch)
            for part in (pair.first, pair.second):
                assert 1 <= len(part) <= 6 and (np.diff(part) == 1).all()
            same = pair.first[0] // 1000 == pair.second[0] // 1000
            assert same == (pair.label == 0)
            if same:
                assert pair.second[0] == pair.first[-1] + 1
            else:
                others.add(int(pair.second[0]))
            apart, total = apart + pair.label, total + 1
    assert half(apart, total)
    assert others == {int(s[0]) for document in DOCUMENTS for s in document}  # any sentence


def test_sentence_order_exchanges_half_of_the_pairs():
    exchanged, total = 0, 0
    for epoch in range(100):
        for index in range(len(PAIRS)):
            pair = PAIRS.sentence_order(index, seed=3, epoch=epoch)
            one, two = (pair.second, pair.first) if pair.label else (pair.first, pair.second)
            assert two[0] == one[-1] + 1
            exchanged, total = exchanged + pair.label, total + 1
    assert half(exchanged, total)


def test_the_same_key_draws_the_same_and_long_sentences_are_cut_at_the_far_end():
    draw = [PAIRS.next_sentence(4, seed=1, epoch=e).label for e in range(40)]
    assert draw == [PAIRS.next_sentence(4, seed=1, epoch=e).label for e in range(40)]
    assert draw != [PAIRS.next_sentence(4, seed=2, epoch=e).label for e in range(40)]
    long = SentencePairs([[np.arange(10, 20), np.arange(20, 30)]], max_tokens=7)
    pair = next(p for e in range(99) if not (p := long.sentence_order(0, seed=0, epoch=e)).label)
    assert pair.first.tolist() == [17, 18, 19] and pair.second.tolist() == [20, 21, 22, 23]


def test_a_row_has_control_tokens_and_types():
    pair = PAIRS.sentence_order(0, seed=0, epoch=0)
    ids, types = pair.row()
    assert ids.tolist() == [BOS_ID, *pair.first, EOS_ID, *pair.second, EOS_ID]
    assert types.tolist() == [0] * (len(pair.first) + 2) + [1] * (len(pair.second) + 1)


def test_what_has_no_pairs_is_refused():
    alone = SentencePairs([[np.arange(3), np.arange(3)]], max_tokens=8)
    with pytest.raises(ValueError, match="two at least"):
        alone.next_sentence(0, seed=0, epoch=0)
    with pytest.raises(ValueError, match="two sentences"):
        SentencePairs([[np.arange(3)], []], max_tokens=8)
    with pytest.raises(ValueError, match="max_tokens"):
        SentencePairs(DOCUMENTS, max_tokens=1)
    with pytest.raises(IndexError):
        alone.sentence_order(1, seed=0, epoch=0)
