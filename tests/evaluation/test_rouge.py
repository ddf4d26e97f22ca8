"""ROUGE against values worked out by hand and against its definition in plain Python."""

import collections
import functools
import random

import pytest

from seqgen.evaluation.config import ROUGE_METRICS, EvaluationConfig
from seqgen.evaluation.rouge import rouge_f1, sentence_lines
from seqgen.evaluation.scores import corpus_scores

PLAIN = {"stemmer": False, "metrics": ROUGE_METRICS}


def one(hypothesis, *references, **options):
    found = rouge_f1([hypothesis], [references], **{**PLAIN, **options})
    return {name: values.item() for name, values in found.items()}


def f1(hits: int, own: int, other: int) -> float:
    return 2 * hits / (own + other) if hits else 0.0


def overlap_f1(a: list[str], b: list[str], n: int) -> float:
    grams = [collections.Counter(zip(*(side[i:] for i in range(n)))) for side in (a, b)]
    return f1((grams[0] & grams[1]).total(), grams[0].total(), grams[1].total())


def lcs_f1(a: list[str], b: list[str]) -> float:
    @functools.cache
    def lcs(i: int, j: int) -> int:
        if i == len(a) or j == len(b):
            return 0
        if a[i] == b[j]:
            return 1 + lcs(i + 1, j + 1)
        return max(lcs(i + 1, j), lcs(i, j + 1))

    return f1(lcs(0, 0), len(a), len(b))


def test_the_examples_of_the_paper():
    """Lin 2004, sections 3.1 and 3.2."""
    reference = "police killed the gunman"
    assert one("police kill the gunman", reference)["rougeL"] == pytest.approx(3 / 4)
    assert one("the gunman kill police", reference)["rougeL"] == pytest.approx(2 / 4)
    assert one("the gunman police killed", reference)["rougeL"] == pytest.approx(2 / 4)
    assert one("police kill the gunman", reference, stemmer=True)["rougeL"] == 1.0
    # The union of the two common subsequences w1 w2 and w1 w3 w5 has 4 of the reference's 5 words.
    found = one("w1 w3 w8 w9 w5\nw1 w2 w6 w7 w8", "w1 w2 w3 w4 w5")
    assert found["rougeLsum"] == pytest.approx(f1(4, 10, 5))
    assert found["rougeL"] == pytest.approx(f1(3, 10, 5))


def test_counts_by_hand():
    found = one("the cat the cat sat", "the cat sat on the mat")
    assert found["rouge1"] == pytest.approx(f1(4, 5, 6))  # the twice, cat once, sat once
    assert found["rouge2"] == pytest.approx(f1(2, 4, 5))  # the cat, cat sat
    assert found["rougeL"] == pytest.approx(f1(3, 5, 6))
    assert one("", "a b") == one("a b", "") == one("...", "!") == dict.fromkeys(ROUGE_METRICS, 0.0)


def test_random_texts_agree_with_the_definition():
    draw = random.Random(0)
    texts = [" ".join(draw.choices("abcdef", k=draw.randint(0, 9))) for _ in range(120)]
    hypotheses, references = texts[:60], texts[60:]
    found = rouge_f1(hypotheses, [[text] for text in references], **PLAIN)
    for line, sides in enumerate(zip(hypotheses, references)):
        a, b = (side.split() for side in sides)
        assert found["rouge1"][line] == pytest.approx(overlap_f1(a, b, 1))
        assert found["rouge2"][line] == pytest.approx(overlap_f1(a, b, 2))
        assert found["rougeL"][line] == pytest.approx(lcs_f1(a, b))
        # One sentence on each side: the union is one common subsequence.
        assert found["rougeLsum"][line] == pytest.approx(lcs_f1(a, b))


def test_each_metric_takes_its_own_best_reference():
    bag, run = "d c b a", "x x a b"  # all words in no order, or half of them in order
    both = one("a b c d", bag, run)
    assert both["rouge1"] == one("a b c d", bag)["rouge1"] == 1.0
    assert both["rouge2"] == one("a b c d", run)["rouge2"] == pytest.approx(1 / 3)
    assert one("a b c d", bag)["rouge2"] == 0.0
    assert one("a b c d", run, bag) == both


def test_words_of_other_scripts():
    assert one("große Straße", "grosse strasse")["rouge1"] == 0.0
    # ASCII words: 'gro', 'e', 'stra', 'e' against 'gro', 'e'.
    assert one("große Straße", "große")["rouge1"] == pytest.approx(f1(2, 4, 2))
    assert one("große Straße", "große", tokenize="unicode")["rouge1"] == pytest.approx(f1(1, 2, 1))
    assert one("我爱你", "我爱她")["rouge1"] == 0.0
    assert one("我爱你", "我 爱她", tokenize="char")["rouge1"] == pytest.approx(2 / 3)
    assert one("killed", "kills", tokenize="unicode", stemmer=True)["rouge1"] == 1.0
    assert one("killed", "kills", tokenize="unicode")["rouge1"] == 0.0


def test_sentences_end_at_their_signs():
    assert sentence_lines("One two. Three 3.5?  Four\nfive 。六。七") == (
        "One two.\nThree 3.5?\nFour\nfive 。\n六。\n七"
    )


def test_the_corpus_score_is_the_mean_in_per_cent_and_its_signature_tells_the_settings():
    hypotheses, references = ["a b", "c d"], [["a b"], ["c x", "y y"]]
    plain = EvaluationConfig(rouge_stemmer=False)
    found = corpus_scores(hypotheses, references, metrics=("rouge1", "rougeL"), rules=plain)
    assert found["rouge1"] == found["rougeL"] == pytest.approx(100 * (1 + 0.5) / 2)
    assert found["rouge_signature"].startswith(
        "nrefs:var|refs:best|measure:f1|stem:no|tok:ascii|case:lc|sents:punct|version:rouge-score-"
    )
    stemmed = corpus_scores(["a"], ["a"], metrics=("rouge2",))
    assert stemmed["rouge_signature"].startswith("nrefs:1|refs:best|measure:f1|stem:porter|")
