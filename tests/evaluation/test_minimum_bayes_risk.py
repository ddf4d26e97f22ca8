"""The chosen sample is the one a plain double loop over sacrebleu's chrF chooses."""

import pytest
from sacrebleu.metrics.chrf import CHRF

from seqgen.evaluation.minimum_bayes_risk import choose, expected_scores

SAMPLES = [
    "a cat sat on the mat",
    "the dog ran away",
    "the cat sat on a mat",
    "the cat sat on the mat",
    "the dog ran away",
    "",
]


def test_scores_are_the_mean_over_all_pairs():
    metric = CHRF()
    want = [
        sum(metric.sentence_score(one, [other]).score for other in SAMPLES) / len(SAMPLES)
        for one in SAMPLES
    ]
    assert expected_scores(SAMPLES) == pytest.approx(want)
    assert choose(SAMPLES) == want.index(max(want))
    assert SAMPLES[choose(SAMPLES)] == "the cat sat on the mat"


def test_what_is_drawn_often_weighs_more_and_ties_go_to_the_first():
    assert choose(["one thing", "other", "other"]) == 1
    assert choose(["abc", "xyz"]) == 0
    assert choose(["alone"]) == 0
    with pytest.raises(ValueError, match="no samples"):
        choose([])
