import itertools
import random

import numpy as np
import pytest

from seqgen.evaluation import significance
from seqgen.evaluation.by_length import length_unit, scores_by_length
from seqgen.evaluation.config import COMPARED_METRICS
from seqgen.evaluation.scores import corpus_scores, measured_scores
from seqgen.evaluation.table import aligned, format_interval, format_value, length_table

WORDS = (
    "der",
    "die",
    "Hund",
    "Katze",
    "läuft",
    "sieht",
    "rot",
    "blau",
    "groß",
    "klein",
    "und",
    "in",
)


def corpus(count: int, error_rate: float, seed: int) -> tuple[list[str], list[str]]:
    """References, and hypotheses in which words are exchanged at a rate."""
    draw = random.Random(seed)
    references = [" ".join(draw.choices(WORDS, k=draw.randint(4, 12))) for _ in range(count)]
    noise = random.Random(seed + 1000 + int(error_rate * 1000))
    hypotheses = [
        " ".join(noise.choice(WORDS) if noise.random() < error_rate else w for w in line.split())
        for line in references
    ]
    return references, hypotheses


@pytest.mark.parametrize("metric", COMPARED_METRICS)
def test_undrawn_scores_are_the_reported_ones(metric):
    references, a = corpus(60, 0.2, seed=0)
    _, b = corpus(60, 0.4, seed=0)
    found = significance.paired_bootstrap(a, b, references, metric=metric, num_draws=100)
    for side, hypotheses in ((found.a, a), (found.b, b)):
        expected = corpus_scores(hypotheses, references, metrics=(metric,))
        assert side.score == pytest.approx(expected[metric])
        assert side.low <= side.score <= side.high
    assert found.difference.score == pytest.approx(found.b.score - found.a.score)
    if metric != "exact_match":
        keys = {"bleu": "signature", "chrf": "chrf_signature", "ter": "ter_signature"}
        key = keys.get(metric, "rouge_signature")
        assert found.signature == expected[key]


def test_a_clear_gain_is_real_and_its_mirror_is_a_loss():
    references, good = corpus(120, 0.15, seed=3)
    _, bad = corpus(120, 0.5, seed=3)
    gain = significance.paired_bootstrap(bad, good, references, num_draws=300)
    loss = significance.paired_bootstrap(good, bad, references, num_draws=300)
    assert gain.is_real and gain.p_value <= 0.02 and gain.difference.low > 0
    assert loss.difference.score == -gain.difference.score
    assert "new is better" in significance.verdict(gain, name_a="old", name_b="new")
    assert "old is better" in significance.verdict(loss, name_a="old", name_b="new")


def test_ter_is_better_when_lower():
    references, good = corpus(80, 0.1, seed=3)
    _, bad = corpus(80, 0.5, seed=3)
    found = significance.paired_bootstrap(bad, good, references, metric="ter", num_draws=200)
    assert found.difference.score < 0
    assert significance.verdict(found, name_a="old", name_b="new").startswith("new is better")


def test_equal_systems_are_never_told_apart():
    references, a = corpus(50, 0.3, seed=1)
    found = significance.paired_bootstrap(a, a, references, num_draws=100)
    assert not found.is_real and found.p_value == 1.0
    assert significance.verdict(found).startswith("no real difference")


def test_false_alarms_stay_near_five_per_cent():
    """Two systems of the same quality, 60 times: the 95 % interval may miss zero a few times."""
    alarms = 0
    for seed in range(60):
        references, a = corpus(60, 0.3, seed=seed)
        _, b = corpus(60, 0.301, seed=seed)  # another stream of errors at the same rate
        found = significance.paired_bootstrap(
            a, b, references, metric="exact_match", num_draws=200, seed=seed
        )
        alarms += found.is_real
    assert alarms <= 8  # P(more than 8 | 5 %) < 0.002


def test_bootstrap_error_of_a_proportion_is_the_textbook_one():
    references = ["x"] * 400
    a = ["x"] * 200 + ["y"] * 200
    found = significance.paired_bootstrap(a, a, references, metric="exact_match", num_draws=2000)
    width = found.a.high - found.a.low
    assert width == pytest.approx(2 * 1.96 * np.sqrt(0.25 / 400), rel=0.1)


def test_pairing_sees_a_small_gain_that_apart_draws_would_hide():
    """B mends 12 of A's 100 errors: apart, each score is uncertain by 7; paired, B always wins."""
    references = ["x"] * 200
    a = ["x"] * 100 + ["y"] * 100
    b = ["x"] * 112 + ["y"] * 88
    found = significance.paired_bootstrap(a, b, references, metric="exact_match", num_draws=500)
    assert found.is_real and found.difference.low > 0.02
    assert found.a.high > found.b.low, "their own intervals overlap"


def test_several_references_are_compared_too():
    references, a = corpus(60, 0.3, seed=1)
    others = [list(pair) for pair in zip(references, a)]
    found = significance.paired_bootstrap(references, a, others, metric="rougeL", num_draws=100)
    assert found.a.score == found.b.score == 100.0 and not found.is_real


def test_intervals_of_several_metrics_are_those_of_the_comparison():
    """The same seed draws the same lines, so a comparison gives the same interval."""
    references, a = corpus(80, 0.3, seed=4)
    names = ("bleu", "rouge2", "repetition1")
    scores, statistics = measured_scores(a, references, metrics=(*names, "distinct1"))
    spans = significance.intervals(statistics, num_draws=200)
    assert set(spans) == set(names)
    for name in ("bleu", "rouge2"):
        pair = significance.paired_bootstrap(a, a, references, metric=name, num_draws=200)
        assert spans[name] == pair.a
    assert spans["repetition1"].low < scores["repetition1"] < spans["repetition1"].high
    assert significance.intervals({}) == {}


def test_draws_follow_the_seed():
    references, a = corpus(30, 0.2, seed=5)
    _, b = corpus(30, 0.3, seed=5)
    runs = [
        significance.paired_bootstrap(a, b, references, num_draws=100, seed=s) for s in (1, 1, 2)
    ]
    assert runs[0] == runs[1] != runs[2]


def test_unequal_lines_are_refused():
    with pytest.raises(ValueError, match="1 and 2 hypotheses, 2 references"):
        significance.paired_bootstrap(["a"], ["a", "b"], ["a", "b"])


# ---- by length -----------------------------------------------------------------------------------


def test_groups_part_the_corpus_and_rescore_it():
    references, hypotheses = corpus(90, 0.2, seed=2)
    rows = scores_by_length(references, hypotheses, references, edges=(6, 9))
    assert sum(row["examples"] for row in rows) == 90
    assert [row["max_words"] < 6 for row in rows] == [True, False, False]
    inside = [i for i, line in enumerate(references) if 6 <= len(line.split()) < 9]
    expected = corpus_scores(
        [hypotheses[i] for i in inside], [references[i] for i in inside], metrics=("bleu",)
    )
    assert rows[1]["bleu"] == expected["bleu"] and rows[1]["examples"] == len(inside)


def test_groups_without_edges_are_about_equal():
    references, hypotheses = corpus(200, 0.2, seed=2)
    rows = scores_by_length(references, hypotheses, references, num_groups=4)
    assert len(rows) == 4 and sum(row["examples"] for row in rows) == 200
    assert all(20 <= row["examples"] <= 90 for row in rows)
    assert all(a["max_words"] < b["min_words"] for a, b in itertools.pairwise(rows))


def test_one_length_and_empty_sources_make_one_group():
    rows = scores_by_length(["", ""], ["a", "b"], ["a", "c"])
    assert len(rows) == 1 and rows[0]["exact_match"] == 0.5 and rows[0]["max_words"] == 0


def test_sources_without_spaces_are_grouped_by_characters():
    sources = ["我 爱 你", "我们今天去公园", "猫"]
    rows = scores_by_length(sources, ["a", "b", "c"], ["a", "b", "x"], edges=(3,))
    assert [(r["min_characters"], r["max_characters"]) for r in rows] == [(1, 1), (3, 7)]
    assert length_table(rows)[0].startswith("source characters")
    assert length_unit(["Das Wort 漢字 hat zwei Zeichen"]) == "words"
    assert length_unit([]) == length_unit(["123 ..."]) == "words"


# ---- tables --------------------------------------------------------------------------------------


def test_tables_line_up():
    rows = [
        {"min_words": 1, "max_words": 9, "examples": 5, "bleu": 1.0, "chrf": 2.0, "exact_match": 1}
    ]
    head, line = length_table(rows)
    assert head.index("bleu") + 4 == line.index("1.00") + 4
    assert aligned([]) == []
    assert format_value("eval/loss", 1.23456) == "1.2346"
    assert format_value("bleu", 31.414) == "31.41"
    assert format_interval("novel2", (0.123456, 0.2)) == "  (95 %: 0.1235 to 0.2000)"
    assert format_interval("loss", None) == ""
