"""Label scores against counting by hand."""

import math

import numpy as np
import pytest

from seqgen.evaluation.labels import label_names, label_report, label_scores

LABELS = ["a", "b", "c", "d"]


def counted(gold, predicted, label):
    """F1 by precision and recall."""
    hits = sum(g == p == label for g, p in zip(gold, predicted))
    if not hits:
        return 0.0
    precision, recall = hits / predicted.count(label), hits / gold.count(label)
    return 2 * precision * recall / (precision + recall)


def test_scores_are_those_of_precision_and_recall():
    random = np.random.default_rng(0)
    gold = [LABELS[i] for i in random.integers(0, 3, 50)]  # d never stands there
    predicted = [g if u < 0.6 else LABELS[u2] for g, u, u2 in zip(
        gold, random.random(50), random.integers(0, 3, 50)
    )]  # fmt: skip
    scores = label_scores(gold, predicted, LABELS)
    assert scores["accuracy"] == np.mean([g == p for g, p in zip(gold, predicted)])
    for label in "abc":
        assert scores["f1"][label] == pytest.approx(counted(gold, predicted, label))
        assert scores["support"][label] == gold.count(label)
    assert scores["f1"]["d"] == 0.0 and scores["support"]["d"] == 0
    mean = np.mean([counted(gold, predicted, label) for label in "abc"])
    assert scores["macro_f1"] == pytest.approx(mean), "what never stands anywhere does not count"
    predicted[0] = "d"
    scores = label_scores(gold, predicted, LABELS)
    assert scores["macro_f1"] == pytest.approx(sum(scores["f1"].values()) / 4)


def test_places_that_were_cut_off_are_wrong_and_have_no_loss():
    log_probs = [np.log([[0.7, 0.1, 0.1, 0.1], [0.1, 0.6, 0.2, 0.1]])]
    report = label_report(log_probs, [["a", "c", "a"]], LABELS)
    assert report["loss"] == pytest.approx(-(math.log(0.7) + math.log(0.2)) / 2)
    assert report["accuracy"] == pytest.approx(1 / 3)
    assert report["support"] == {"a": 2, "b": 0, "c": 1, "d": 0}
    assert label_names(log_probs[0], LABELS) == "a b"
    with pytest.raises(ValueError):
        label_scores([], [], LABELS)
