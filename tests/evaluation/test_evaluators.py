import math

import numpy as np
import pytest

from seqgen import config
from seqgen.errors import ConfigError
from seqgen.evaluation import evaluators
from seqgen.evaluation.config import METRICS, EvaluationConfig
from seqgen.evaluation.scores import corpus_scores
from seqgen.metrics import WeightedMean

EXAMPLES = [{"source": f"s{i}", "target": f"t {i} x y z"} for i in range(10)]


def eval_step(params, batch):
    """A batch is (sum of losses, hits, tokens)."""
    total, hits, tokens = batch
    return {
        "loss": WeightedMean(np.float32(total), np.float32(tokens)),
        "accuracy": WeightedMean(np.float32(hits), np.float32(tokens)),
    }


def test_means_are_over_tokens_not_over_batches():
    values = evaluators.teacher_forced_values(eval_step, {}, [(30.0, 1, 10), (1.0, 1, 1)])
    assert values["loss"] == pytest.approx(31 / 11)
    assert values["token_accuracy"] == pytest.approx(2 / 11)
    assert values["perplexity"] == pytest.approx(math.exp(31 / 11))


def test_many_small_batches_lose_nothing():
    batches = [(0.1, 0, 1)] * 20_000  # in float32 this sum drifts in the fifth digit
    values = evaluators.teacher_forced_values(eval_step, {}, batches)
    assert values["loss"] == pytest.approx(float(np.float32(0.1)), rel=1e-12)


def test_all_padding_batches_weigh_nothing_and_no_batches_are_refused():
    values = evaluators.teacher_forced_values(eval_step, {}, [(2.0, 1, 2), (0.0, 0, 0)])
    assert values["loss"] == 1.0
    with pytest.raises(ValueError, match="no batches"):
        evaluators.teacher_forced_values(eval_step, {}, [])


def test_a_huge_loss_has_a_finite_perplexity():
    values = evaluators.teacher_forced_values(eval_step, {}, [(1e4, 0, 1)])
    assert math.isfinite(values["perplexity"])


def test_each_evaluation_starts_a_fresh_pass():
    evaluate = evaluators.teacher_forced_evaluator(eval_step, lambda: iter([(2.0, 1, 2)]))
    assert evaluate({}, 1) == evaluate({}, 2)
    assert set(evaluate({}, 1)[0]) == {"eval/loss", "eval/perplexity", "eval/token_accuracy"}


def translate(params, sources):
    return [f"t {source[1:]} x y {params['end']}" for source in sources]


def test_decoded_values_and_the_same_samples_each_time():
    cfg = EvaluationConfig(num_samples=3, metrics=("exact_match", "bleu"))
    evaluate = evaluators.decoded_evaluator(translate, EXAMPLES, cfg)
    values, samples = evaluate({"end": "z"}, 1)
    assert values == {"eval/exact_match": 1.0, "eval/bleu": pytest.approx(100.0)}
    later_values, later = evaluate({"end": "q"}, 2)
    assert later_values["eval/exact_match"] == 0.0
    assert [s.source for s in samples] == [s.source for s in later] == ["s0", "s3", "s6"]
    assert [s.hypothesis for s in later] == ["t 0 x y q", "t 3 x y q", "t 6 x y q"]
    assert [s.reference for s in later] == ["t 0 x y z", "t 3 x y z", "t 6 x y z"]


def test_without_metrics_only_the_samples_are_decoded():
    asked = []

    def listening(params, sources):
        asked.extend(sources)
        return list(sources)

    cfg = EvaluationConfig(metrics=(), num_samples=2)
    values, samples = evaluators.decoded_evaluator(listening, EXAMPLES, cfg)({}, 1)
    assert values == {} and asked == ["s0", "s5"]
    assert [(s.source, s.reference) for s in samples] == [("s0", "t 0 x y z"), ("s5", "t 5 x y z")]


def test_fewer_examples_than_samples_and_none():
    assert evaluators.sample_indices(2, 5) == [0, 1]
    assert evaluators.sample_indices(5, 0) == []
    evaluate = evaluators.decoded_evaluator(translate, [], EvaluationConfig())
    assert evaluate({"end": "z"}, 0) == ({}, [])


def test_combined_evaluators_merge():
    cfg = EvaluationConfig(metrics=("exact_match",), num_samples=1)
    both = evaluators.combine(
        [
            evaluators.teacher_forced_evaluator(eval_step, lambda: [(2.0, 1, 2)]),
            evaluators.decoded_evaluator(translate, EXAMPLES, cfg),
        ]
    )
    values, samples = both({"end": "z"}, 3)
    assert len(values) == 4 and len(samples) == 1


def test_split_report_begins_with_the_promised_names():
    report = evaluators.split_report(
        split="test",
        examples=EXAMPLES,
        hypotheses=translate({"end": "z"}, [e["source"] for e in EXAMPLES]),
        teacher_forced={"loss": 1.0, "perplexity": math.e, "token_accuracy": 0.5},
        cfg=EvaluationConfig(),
        metrics=METRICS,
    )
    assert list(report)[:9] == [
        *("split", "loss", "perplexity", "token_accuracy", "exact_match", "bleu", "chrf", "ter"),
        "signature",
    ]
    assert report["exact_match"] == 1.0 and report["ter"] == 0.0 and report["examples"] == 10
    assert report["intervals"]["exact_match"] == [1.0, 1.0]
    assert set(report["intervals"]) == {"bleu", "chrf", "ter", "exact_match"}


def test_every_reference_of_an_example_is_scored():
    examples = [
        {"source": "s1", "target": "a b", "references": ["a b", "c d"]},
        {"source": "s2", "target": "e f"},
    ]
    cfg = EvaluationConfig(metrics=("rouge1", "exact_match", "copied1"))
    evaluate = evaluators.decoded_evaluator(lambda params, lines: ["c d", "s2"], examples, cfg)
    values, samples = evaluate({}, 0)
    assert values == {"eval/rouge1": 50.0, "eval/exact_match": 0.5, "eval/copied1": 1 / 3}
    assert [sample.reference for sample in samples] == ["a b", "e f"]
    report = evaluators.split_report(
        split="test",
        examples=examples,
        hypotheses=["c d", "s2"],
        teacher_forced={"loss": 1.0, "perplexity": math.e, "token_accuracy": 0.5},
        cfg=cfg,
        metrics=("bleu", *cfg.metrics),
    )
    assert report["rouge1"] == 50.0 and report["rouge_signature"].startswith("nrefs:var|")
    assert set(report["intervals"]) == {"rouge1", "copied1", "bleu", "exact_match"}
    assert "ter" not in report and "chrf_signature" not in report


def test_a_metric_from_outside_the_package(tmp_path, monkeypatch):
    (tmp_path / "house_metrics.py").write_text(
        "def shortness(hypotheses, references):\n"
        "    return sum(len(h) < len(r) for h, r in zip(hypotheses, references))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    cfg = EvaluationConfig(metrics=("house_metrics:shortness", "exact_match"))
    evaluate = evaluators.decoded_evaluator(translate, EXAMPLES, cfg)
    values, _ = evaluate({"end": ""}, 0)
    assert values == {"eval/shortness": 10.0, "eval/exact_match": 0.0}
    report = evaluators.split_report(
        split="test",
        examples=EXAMPLES,
        hypotheses=["t 0 x y z"] * 9 + [""],
        teacher_forced={"loss": 1.0, "perplexity": math.e, "token_accuracy": 0.5},
        cfg=cfg,
        metrics=cfg.metrics,
    )
    assert report["shortness"] == 1.0
    checked = config.from_dict(
        {
            "evaluation": {"metrics": ["house_metrics:shortness"]},
            "train": {"best_metric": "eval/shortness"},
        }
    )
    assert checked.evaluation.metrics == ("house_metrics:shortness",)


def test_a_metric_that_does_not_exist_is_named():
    with pytest.raises(ConfigError, match="no_such_module"):
        corpus_scores(["a"], ["a"], metrics=("no_such_module:f",))
