"""A run's scores on a split of its corpus."""

import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax

from seqgen import companions, data
from seqgen.building import SCORING_DTYPE
from seqgen.config import Config
from seqgen.errors import ConfigError, DataError, refuse
from seqgen.evaluation import evaluators
from seqgen.evaluation.config import METRICS, check_metrics
from seqgen.evaluation.labels import label_names, label_report
from seqgen.evaluation.line_statistics import require_tokenizer
from seqgen.loading import add_draft, join, open_runs
from seqgen.runs import Run
from seqgen.texts import one_line
from seqgen.training.loss import make_eval_step
from seqgen.training.sharding import Layout

VAL_ALIASES = ("dev", "validation")


def evaluate(
    workdir: str | pathlib.Path | Sequence[str | pathlib.Path],
    *,
    split: str | None = None,
    checkpoint: str | int = "best",
    overrides: Mapping[str, Any] | None = None,
    metrics: Sequence[str] = (),
    base_metrics: Sequence[str] | None = None,
    data_dir: str | None = None,
    compute_dtype: str = SCORING_DTYPE,
    quantize: str = "none",
    shortlist: int = 0,
    ensemble_mean: str = "probs",
    draft: str | pathlib.Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[dict[str, Any], list[data.Pair], list[str]]:
    """Score a run, or an ensemble of several, on a split.

    Args:
      workdir: the run directory; of an ensemble several, whose first one gives corpus and rules.
      split: a file stem; 'test' means the only split whose name starts with it. None = 'test', or
        'val' where the corpus has no split that starts so.
      checkpoint: 'best', 'last', 'avg:N' or a step.
      overrides: decoding options, such as {'num_beams': 5}.
      metrics: reported beside `base_metrics`; names of `evaluation.metrics`.
      base_metrics: None = `METRICS` and those of the run's config.
      data_dir: of the corpus, if it is no longer where it was.
      compute_dtype: of loss and answers alike; see `load`.
      quantize, shortlist: of the answers alone; see `load`.
      ensemble_mean, draft: see `load`.
      progress: called with the number of decoded lines.

    Returns:
      The report (see `evaluation.evaluators.split_report`), the examples, the hypotheses (each on
      one line, as they are scored and as they are written). Of a run on text without sources:
      `text_report`, and two empty lists. Of one that tells labels: 'split', the names of
      `evaluation.labels.label_report` and 'examples'; the examples; their labels as text.

    Raises:
      ConfigError: no such run or checkpoint, or an option of the search that is not known, out of
        range or not read; see also `load` and `check_decodes`.
      DataError: no such split.
    """
    opened, proposing = open_runs(
        workdir, compute_dtype=compute_dtype, quantize=quantize, shortlist=shortlist, draft=draft
    )
    run = opened[0]
    cfg = run.config
    several = len(opened) > 1
    given = {"metrics": metrics, "quantize": quantize != "none", "shortlist": shortlist}
    given |= {"draft": draft, "ensemble": several and cfg.data.labelled}
    check_decodes(cfg, [*(overrides or {}), *(name for name, value in given.items() if value)])
    for one in (*opened[1:], *([proposing] if proposing else [])):
        one.check_writes()
    rules = cfg.evaluation
    require_tokenizer(rules)
    check_metrics(metrics, option="metrics")
    if base_metrics is None:
        base_metrics = (*METRICS, *rules.metrics)
    text = run.prepare(data_dir)
    if split is None:
        split = "test" if any(name.startswith("test") for name in text.splits) else "val"
    split = pick_split(split, text.splits)
    if cfg.data.labelled:
        return _evaluate_labels(run, text, split, checkpoint=checkpoint, progress=progress)
    if several and (cfg.data.streams or cfg.data.objective.name != "causal"):
        raise ConfigError(
            "an ensemble is measured on pairs, and on plain text in blocks",
            details=["else           evaluate its members apart"],
        )
    read = [one.params(checkpoint) for one in opened]
    exact = join(opened, read, ensemble_mean=ensemble_mean) if several else None
    if exact is None:
        params = jax.device_put(read[0])
        eval_step = make_eval_step(
            run.definition,
            train_cfg=cfg.train,
            layout=Layout.of(type(cfg.mesh)()),
            compute_dtype=compute_dtype,
            streams=cfg.data.streams,
        )
    else:
        params, eval_step = exact.params, companions.make_eval_step(exact.definition)
    batches = text.eval_batches(split)
    if cfg.data.contiguous:
        values = evaluators.teacher_forced_values(eval_step, params, batches)
        objective = cfg.data.objective.name
        size = text.text_size(split) if objective == "causal" else None
        report = evaluators.text_report(split=split, values=values, size=size, objective=objective)
        return report, [], []
    if exact is None:
        candidates = run.shortlist(shortlist, data_dir=data_dir)
        generator = run.generator(params, quantize=quantize, shortlist=candidates)
    elif quantize == "none":
        generator = exact
    else:
        generator = join(opened, read, quantize=quantize, ensemble_mean=ensemble_mean)
    if proposing is not None:
        generator = add_draft(generator, run, proposing, quantize)
    examples = text.examples(split)
    sources = [example["source"] for example in examples]
    # Bad options are refused here, before anything is measured.
    answers = generator.stream(sources, progress=progress, **(overrides or {}))
    values = evaluators.teacher_forced_values(eval_step, params, batches)
    hypotheses = [one_line(answer[0].text) for answer in answers]
    report = evaluators.split_report(
        split=split,
        examples=examples,
        hypotheses=hypotheses,
        teacher_forced=values,
        cfg=rules,
        metrics=tuple(dict.fromkeys((*base_metrics, *metrics))),
    )
    return report, examples, hypotheses


def _evaluate_labels(
    run: Run,
    text: data.TextData,
    split: str,
    *,
    checkpoint: str | int,
    progress: Callable[[int], None] | None,
) -> tuple[dict[str, Any], list[data.Pair], list[str]]:
    """`evaluate` of a run that tells labels."""
    examples = text.examples(split)
    targets = run.tokenizers.labels.of_examples(examples)
    labeller = run.labeller(run.params(checkpoint))
    sources = [example["source"] for example in examples]
    found = labeller.log_probs(sources, progress=progress or (lambda count: None))
    report = label_report(found, targets, labeller.labels)
    hypotheses = [one_line(label_names(row, labeller.labels)) for row in found]
    return {"split": split, **report, "examples": len(examples)}, examples, hypotheses


def check_decodes(cfg: Config, given: Sequence[str]) -> None:
    """Refuse options about decoded lines for a run that has none.

    Args:
      cfg: of the run.
      given: names of those options.

    Raises:
      ConfigError: there are some, and the run tells labels or is of text without sources.
    """
    if not given or not (cfg.data.labelled or cfg.data.contiguous):
        return
    kind = "tells labels" if cfg.data.labelled else "is of text without sources"
    measured = "loss, perplexity, token accuracy, bits per byte and character"
    if cfg.data.labelled:
        measured = "loss, accuracy, macro F1, F1 of each label"
    refuse(
        f"{', '.join(given)}: the run {kind}, and nothing is decoded", ("measured are", measured)
    )


def pick_split(wanted: str, splits: Iterable[str]) -> str:
    """The split called `wanted`; 'dev' is 'val', and 'test' also the only one that starts so.

    Raises:
      DataError: none or several fit; those that exist are listed.
    """
    names = sorted(splits)
    if wanted in names:
        return wanted
    if wanted in VAL_ALIASES and "val" in names:
        return "val"
    fitting = [name for name in names if wanted == "test" and name.startswith("test")]
    if len(fitting) == 1:
        return fitting[0]
    cause = f"several splits are called {wanted}*" if fitting else f"no split {wanted!r}"
    raise DataError(cause, details=[f"there are      {', '.join(fitting or names)}"])
