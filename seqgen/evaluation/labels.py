"""Scores of labels: accuracy, and F1 of each label with their unweighted mean."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from seqgen.data.sources import Pair
from seqgen.evaluation.config import EvaluationConfig
from seqgen.evaluation.evaluators import Evaluator, Sample, sample_indices
from seqgen.types import Array, Params

# (params, texts) -> natural log-probabilities [places, labels] of each text
Tell = Callable[[Params, Sequence[str]], Sequence[Array]]


def label_scores(
    gold: Sequence[str], predicted: Sequence[str | None], labels: Sequence[str]
) -> dict[str, Any]:
    """Accuracy and F1 over all places.

    F1 of a label is 2 tp / (2 tp + fp + fn), 0 where it is never predicted; 'macro_f1' is their
    mean over the labels that stand in `gold` or `predicted`, as in scikit-learn.

    Args:
      gold: the label of each place.
      predicted: what was told there; None = nothing, which is wrong.
      labels: all there are.

    Returns:
      'accuracy', 'macro_f1': 0..1; 'f1' and 'support' (how often it is gold): by label.

    Raises:
      ValueError: there are no places, or unlike numbers of them.
    """
    if len(gold) != len(predicted) or not gold:
        raise ValueError(f"{len(predicted)} predictions for {len(gold)} labels")
    numbers = {label: index for index, label in enumerate(labels)}
    nothing = len(labels)
    counts = np.zeros((nothing, nothing + 1), np.int64)
    for one, other in zip(gold, predicted):
        counts[numbers[one], nothing if other is None else numbers[other]] += 1
    hits = np.diagonal(counts[:, :nothing])
    support, told = counts.sum(axis=1), counts[:, :nothing].sum(axis=0)
    present = support + told > 0
    f1 = 2.0 * hits / np.maximum(support + told, 1)
    return {
        "accuracy": float(hits.sum() / counts.sum()),
        "macro_f1": float(f1[present].mean()),
        "f1": {label: float(f1[numbers[label]]) for label in labels},
        "support": {label: int(support[numbers[label]]) for label in labels},
    }


def label_report(
    log_probs: Sequence[Array], targets: Sequence[Sequence[str]], labels: Sequence[str]
) -> dict[str, Any]:
    """`label_scores` of what a model tells, after 'loss' (nats a place that was told).

    Args:
      log_probs: natural log-probabilities of each text, [places, labels]; a text that was cut has
        fewer places than labels.
      targets: the labels of each text.
      labels: in the order of the columns.
    """
    gold: list[str] = []
    predicted: list[str | None] = []
    losses: list[float] = []
    numbers = {label: index for index, label in enumerate(labels)}
    for row, names in zip(log_probs, targets, strict=True):
        gold += names
        for place, name in enumerate(names):
            if place >= len(row):
                predicted.append(None)
                continue
            predicted.append(labels[int(np.argmax(row[place]))])
            losses.append(-float(row[place][numbers[name]]))
    loss = float(np.mean(losses)) if losses else math.nan
    return {"loss": loss, **label_scores(gold, predicted, labels)}


def label_names(row: Array, labels: Sequence[str]) -> str:
    """The likeliest label of each place of log-probabilities [places, labels], as one text."""
    return " ".join(labels[int(index)] for index in np.argmax(row, axis=-1))


def labelled_evaluator(
    tell: Tell,
    examples: Sequence[Pair],
    targets: Sequence[Sequence[str]],
    labels: Sequence[str],
    cfg: EvaluationConfig,
    *,
    prefix: str = "eval/",
) -> Evaluator:
    """An evaluator of 'loss', 'accuracy' and 'macro_f1', with the same samples each time.

    Args:
      tell: gives log-probabilities.
      examples: raw text.
      targets: the labels of each.
      labels: all there are, in the order of the columns.
      cfg: the number of samples, spread evenly over the examples.
      prefix: goes before each value's name.
    """
    sources = [example["source"] for example in examples]
    chosen = sample_indices(len(examples), cfg.num_samples)

    def evaluate(params: Params, step: int) -> tuple[dict[str, float], list[Sample]]:
        del step
        found = tell(params, sources)
        report: Mapping[str, Any] = label_report(found, targets, labels)
        values = {f"{prefix}{name}": report[name] for name in ("loss", "accuracy", "macro_f1")}
        samples = [
            Sample(sources[i], examples[i]["target"], label_names(found[i], labels)) for i in chosen
        ]
        return values, samples

    return evaluate
