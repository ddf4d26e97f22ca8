"""What n-grams tell of answers, worked out by hand."""

import pytest

from seqgen.evaluation import ngrams
from seqgen.evaluation.config import NGRAM_METRICS, EvaluationConfig
from seqgen.evaluation.scores import corpus_scores

SOURCES = ["The cat sat on the mat.", "a b c d e"]
ANSWERS = ["the cat sat on a cat", "a b a b a b"]
REFERENCES = [["x x x x"], ["y y", "y y y y y", "y y y y y y y"]]


@pytest.fixture(scope="module")
def found():
    return corpus_scores(ANSWERS, REFERENCES, sources=SOURCES, metrics=NGRAM_METRICS)


def test_novel_and_copied_shares(found):
    # Line 1: of 'the cat sat on a cat', 'a' is new; of its 5 pairs 'on a' and 'a cat'.
    # Line 2: all words are there; of its 5 pairs the two 'b a' are new.
    assert found["novel1"] == pytest.approx(1 / 12)
    assert found["novel2"] == pytest.approx(4 / 10)
    # Triples: 'sat on a', 'on a cat' of 4; 'a b a', 'b a b', 'a b a', 'b a b' of 4.
    assert found["novel3"] == pytest.approx(6 / 8)
    # Fours: 'the cat sat on' is the only one copied, of 3 + 3.
    assert found["novel4"] == pytest.approx(5 / 6)
    for n in (1, 2, 3, 4):
        assert found[f"copied{n}"] == pytest.approx(1 - found[f"novel{n}"])


def test_repetition_within_an_answer(found):
    # 'cat' once again; four more of 'a' and 'b'. 'a b' twice again, 'b a' once.
    assert found["repetition1"] == pytest.approx(5 / 12)
    assert found["repetition2"] == pytest.approx(3 / 10)
    assert found["repetition3"] == pytest.approx(2 / 8)
    assert found["repetition4"] == pytest.approx(1 / 6)


def test_distinct_is_over_all_answers(found):
    # Words: the cat sat on a b. Pairs: the-cat cat-sat sat-on on-a a-cat a-b b-a.
    assert found["distinct1"] == pytest.approx(6 / 12)
    assert found["distinct2"] == pytest.approx(7 / 10)


def test_length_is_compared_with_the_nearest_reference(found):
    # 6 against 4; 6 lies between 5 and 7, and the shorter counts.
    assert found["length_ratio"] == pytest.approx(12 / (4 + 5))
    assert found["ngram_signature"] == "tok:13a|case:lc|shares:pooled"


def test_answers_that_are_too_short_or_empty():
    found = corpus_scores(["", "a"], ["b", "c"], sources=["a", "a"], metrics=NGRAM_METRICS)
    assert found["novel1"] == 0.0 and found["copied1"] == 1.0
    assert found["novel2"] == found["copied2"] == found["repetition2"] == found["distinct2"] == 0.0
    assert ngrams.distinct([], 1) == 0.0


def test_unsegmented_text_is_cut_by_its_tokenizer():
    chinese = EvaluationConfig(tokenize="zh")
    metrics = ("novel1", "length_ratio", "distinct1")
    words = corpus_scores(["我爱猫"], ["我爱你们"], sources=["我爱"], metrics=metrics)
    signs = corpus_scores(
        ["我爱猫"], ["我爱你们"], sources=["我爱"], metrics=metrics, rules=chinese
    )
    assert words["novel1"] == words["length_ratio"] == 1.0
    assert signs["novel1"] == pytest.approx(1 / 3)
    assert signs["length_ratio"] == pytest.approx(3 / 4)


def test_copying_needs_sources():
    with pytest.raises(ValueError, match="novel1 needs the source of each of 1 hypotheses"):
        corpus_scores(["a"], ["a"], metrics=("novel1",))
