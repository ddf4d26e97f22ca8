"""Evaluators: callables `(params, step) -> (values, samples)` that the loop and the CLI share.

They are made of functions handed in (a jitted evaluation step, a text generator), so that nothing
here depends on how a model is compiled or sharded.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from seqgen.data import TextSize
from seqgen.data.sources import Pair
from seqgen.evaluation.config import EvaluationConfig, score_name
from seqgen.evaluation.references import references_of
from seqgen.evaluation.scores import corpus_scores, measured_scores
from seqgen.evaluation.significance import intervals
from seqgen.metrics import WeightedMean
from seqgen.types import AnyBatch, Params


@dataclasses.dataclass(frozen=True)
class Sample:
    """One sentence shown at each evaluation."""

    source: str
    reference: str
    hypothesis: str


Evaluator = Callable[[Params, int], tuple[dict[str, float], list[Sample]]]
EvalStep = Callable[[Params, AnyBatch], Mapping[str, WeightedMean]]
Translate = Callable[[Params, Sequence[str]], Sequence[str]]


def teacher_forced_values(
    eval_step: EvalStep, params: Params, batches: Iterable[AnyBatch]
) -> dict[str, float]:
    """Exact means over all real target tokens (each sentence's EOS counts, padding does not).

    Args:
      eval_step: gives WeightedMeans 'loss' (in nats) and 'accuracy' of a batch.
      params: parameters.
      batches: every example once; padded rows have weight 0.

    Returns:
      'loss' (mean negative log-likelihood a token, nats, without label smoothing), 'perplexity'
      (its exponential) and 'token_accuracy' (share of tokens that are the argmax); then the means
      of further predictions, such as 'next_sentence_accuracy'.
    """
    totals: dict[str, np.ndarray] = {}
    pending: list[Mapping[str, WeightedMean]] = []

    def drain(keep: int) -> None:  # float64 sums on the host; at most `keep` steps in flight
        while len(pending) > keep:
            for name, value in pending.pop(0).items():
                pair = np.array([value.total, value.weight], dtype=np.float64)
                totals[name] = totals.get(name, np.zeros(2)) + pair

    for batch in batches:
        pending.append(eval_step(params, batch))
        drain(keep=2)
    drain(keep=0)
    if not totals:
        raise ValueError("nothing to evaluate: no batches")
    means = {name: total / weight if weight else 0.0 for name, (total, weight) in totals.items()}
    loss = float(means.pop("loss"))
    return {
        "loss": loss,
        "perplexity": math.exp(min(loss, 700.0)),
        "token_accuracy": float(means.pop("accuracy")),
        **{name: float(mean) for name, mean in means.items()},
    }


def text_values(values: Mapping[str, float], size: TextSize) -> dict[str, float]:
    """`teacher_forced_values` of contiguous text, with what does not depend on its tokenizer.

    Returns:
      also 'bits_per_byte' and 'bits_per_char': the summed loss in bits over the UTF-8 bytes and the
      code points of the text, line ends counted.
    """
    bits = values["loss"] * size.tokens / math.log(2.0)
    per = {"bits_per_byte": bits / size.bytes, "bits_per_char": bits / size.characters}
    return {**values, **per}


def teacher_forced_evaluator(
    eval_step: EvalStep,
    batches: Callable[[], Iterable[AnyBatch]],
    *,
    size: TextSize | None = None,
    prefix: str = "eval/",
) -> Evaluator:
    """An evaluator of loss, perplexity and token accuracy; `batches()` starts a fresh pass.

    `size` is of contiguous text: then `text_values`.
    """

    def evaluate(params: Params, step: int) -> tuple[dict[str, float], list[Sample]]:
        del step
        values = teacher_forced_values(eval_step, params, batches())
        if size is not None:
            values = text_values(values, size)
        return {prefix + name: value for name, value in values.items()}, []

    return evaluate


def decoded_evaluator(
    translate: Translate,
    examples: Sequence[Pair],
    cfg: EvaluationConfig,
    *,
    prefix: str = "eval/",
) -> Evaluator:
    """An evaluator of decoded text by `cfg.metrics`, with the same samples each time.

    Args:
      translate: `(params, sources) -> hypotheses`, in order.
      examples: raw text.
      cfg: scoring rules and the number of samples, spread evenly over the examples.
      prefix: goes before each value's name.
    """
    chosen = sample_indices(len(examples), cfg.num_samples)
    shown = list(examples) if cfg.metrics else [examples[index] for index in chosen]
    places = chosen if cfg.metrics else range(len(chosen))
    sources = [example["source"] for example in shown]
    references = [references_of(example) for example in shown]

    def evaluate(params: Params, step: int) -> tuple[dict[str, float], list[Sample]]:
        del step
        hypotheses = list(translate(params, sources)) if sources else []
        values: dict[str, float] = {}
        if cfg.metrics and references:
            scores = corpus_scores(
                hypotheses, references, sources=sources, metrics=cfg.metrics, rules=cfg
            )
            values = {prefix + name: scores[name] for name in map(score_name, cfg.metrics)}
        samples = [Sample(sources[i], references[i][0], hypotheses[i]) for i in places]
        return values, samples

    return evaluate


def sample_indices(num_examples: int, num_samples: int) -> list[int]:
    """Fixed places spread evenly over the examples."""
    count = min(num_samples, num_examples)
    return [index * num_examples // count for index in range(count)]


def combine(evaluators: Sequence[Evaluator]) -> Evaluator:
    """One evaluator that runs several in turn and merges their values and samples."""

    def evaluate(params: Params, step: int) -> tuple[dict[str, float], list[Sample]]:
        values: dict[str, float] = {}
        samples: list[Sample] = []
        for one in evaluators:
            more_values, more_samples = one(params, step)
            values.update(more_values)
            samples += more_samples
        return values, samples

    return evaluate


def text_report(
    *, split: str, values: Mapping[str, float], size: TextSize | None, objective: str = "causal"
) -> dict[str, Any]:
    """What `seqgen evaluate` reports of a split of text without sources.

    Args:
      size: of the text, where each of its tokens was predicted, which objectives other than the
        next token do not; else None.
      objective: `data.objective.name`.

    Returns:
      'split', the names of `text_values`, 'tokens', 'unknown_tokens', 'characters', 'bytes'; or
      'split', 'objective' and `values`.
    """
    if size is None:
        return {"split": split, "objective": objective, **values}
    return {"split": split, **text_values(values, size), **dataclasses.asdict(size)}


def split_report(
    *,
    split: str,
    examples: Sequence[Pair],
    hypotheses: Sequence[str],
    teacher_forced: Mapping[str, float],
    cfg: EvaluationConfig,
    metrics: Sequence[str],
) -> dict[str, Any]:
    """What `seqgen evaluate` reports of one split, beginning with the names that others rely on.

    Args:
      split: its name.
      examples: of the split.
      hypotheses: one an example.
      teacher_forced: see `teacher_forced_values`.
      cfg: how text is compared.
      metrics: names of `evaluation.metrics`.

    Returns:
      'split', 'loss', 'perplexity', 'token_accuracy', then of `metrics` 'exact_match', 'bleu',
      'chrf', 'ter', 'signature', 'chrf_signature', 'ter_signature', the others with their
      signatures, 'examples', 'intervals': {metric: [low, high]}, 95 % by the bootstrap, for every
      score that is formed of sums over lines.
    """
    scores, statistics = measured_scores(
        hypotheses,
        [references_of(example) for example in examples],
        sources=[example["source"] for example in examples],
        metrics=metrics,
        rules=cfg,
    )
    names = ("exact_match", "bleu", "chrf", "ter", "signature", "chrf_signature", "ter_signature")
    return {
        "split": split,
        **{name: teacher_forced[name] for name in ("loss", "perplexity", "token_accuracy")},
        **{name: scores.pop(name) for name in names if name in scores},
        **scores,
        "examples": len(examples),
        "intervals": {name: [i.low, i.high] for name, i in intervals(statistics).items()},
    }
