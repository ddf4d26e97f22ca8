"""What models learn at equal budgets: one training a model, task and seed, in a run directory.

The trainings are those of `seqgen train` (`seqgen.experiment.train`), so that each resumes where it
stopped. The time of a training is that of its steps; evaluations and compilation come on top.
"""

import pathlib
import time
from typing import Any

from seqgen import data, experiment, runs
from seqgen.benchmarking import curves, flops, machine
from seqgen.benchmarking.cells import Plan
from seqgen.benchmarking.results import Row
from seqgen.benchmarking.suite import (
    GRACE_SECONDS,
    TOO_LONG,
    Interrupted,
    Suite,
    ask_worker,
    headline,
)
from seqgen.benchmarking.tasks import NEEDS_DATA, Task, Training
from seqgen.errors import DataError
from seqgen.evaluation.by_length import scores_by_length
from seqgen.training.progress import Progress, StepView
from seqgen.training.signals import StopSignals
from seqgen.training.writers import read_rows

PROBED_EXAMPLES = 200  # whose mean lengths say what a token costs
OVERHEAD_SECONDS = 1200.0  # of compilation and evaluations beyond the minutes of a training


class Budget(Progress):
    """Plain progress that ends a training once its steps have taken so many seconds.

    Args:
      stop: asked to stop.
      seconds: of all steps, those of earlier processes too.
      rows: of metrics.jsonl so far.
      show_every: steps between lines.
    """

    def __init__(
        self, stop: StopSignals, *, seconds: float, rows: list[dict[str, Any]], show_every: int
    ):
        super().__init__()
        self._show_every = show_every
        self._stop = stop
        self._left = seconds - curves.training_seconds(rows)
        self._step = rows[-1]["step"] if rows else 0
        self.is_spent = self._left <= 0
        stop.requested = stop.requested or self.is_spent

    def step(self, view: StepView) -> None:
        """Count the time of the steps since the last call, and show some of them."""
        if view.step % self._show_every == 0:
            super().step(view)
        self._left -= view.step_ms / 1e3 * max(0, view.step - self._step)
        self._step = view.step
        if self._left <= 0:
            self.is_spent = self._stop.requested = True


def train_one(training: Training) -> Row:
    """Train until the budget or the last step, score the test split; the row.

    Raises:
      Interrupted: a signal came first; the training is saved.
    """
    task, cfg, folder = training.recipe(), training.config(), pathlib.Path(training.folder)
    stop = StopSignals()
    rows = read_rows(folder / "metrics.jsonl")
    seconds = 60 * training.minutes * task.share
    budget = Budget(stop, seconds=seconds, rows=rows, show_every=task.eval_every)
    outcome = experiment.train(cfg, folder, progress=budget, stop=stop)
    if outcome.status == "interrupted" and not budget.is_spent:
        raise Interrupted("the same command goes on")
    run = runs.Run.open(folder)
    cost = _flops_per_token(run)
    rows = read_rows(folder / "metrics.jsonl")
    return {
        "status": "budget spent" if budget.is_spent else outcome.status,
        "parameters": run.definition.num_parameters,
        "width": cfg.model.embed_dim,
        "score": task.score,
        "steps": outcome.step,
        "train_seconds": round(curves.training_seconds(rows), 2),
        "flops_per_token": cost,
        "curve": curves.make_curve(rows, score=task.score, flops_per_token=cost),
        "test": _test_scores(folder, task),
        "environment": machine.facts(),
    }


def run_order(order: dict[str, Any]) -> Row:
    """`train_one` for what `worker` read as JSON."""
    return train_one(Training(**order))


def _flops_per_token(run: runs.Run) -> float:
    """Training FLOPs of one real target token, at the mean lengths of validation pairs."""
    cfg = run.config
    text = data.prepare(cfg.data, cfg.tokenizer, workdir=run.path, tokenizers=run.tokenizers)
    examples = text.examples(cfg.evaluation.split, max_examples=PROBED_EXAMPLES)

    def mean_length(side: str, tokenizer: Any) -> int:
        lengths = [len(tokenizer.encode(example[side])) + 1 for example in examples]
        return max(1, round(sum(lengths) / len(lengths)))

    source = mean_length("source", run.tokenizers.source)
    target = mean_length("target", run.tokenizers.target)
    step = flops.training_flops(
        cfg.model, run.definition.abstract, batch=1, source_len=source, target_len=target
    )
    return step / target


def _test_scores(folder: pathlib.Path, task: Task) -> dict[str, Any]:
    """Greedy scores of the last checkpoint, and by distance where the task has edges.

    They are those of the test split, or of `val` where it is not clear which split that is.
    """
    options: dict[str, Any] = {
        "checkpoint": "last",
        "base_metrics": ("exact_match", "bleu"),  # TER needs minutes where answers go in circles
    }
    try:
        report, examples, hypotheses = runs.evaluate(folder, split="test", **options)
    except DataError:
        report, examples, hypotheses = runs.evaluate(folder, split="val", **options)
    names = ("split", "loss", "bleu", "exact_match", "signature")
    found = {name: report[name] for name in names}
    if task.edges:
        sources, targets = (
            [example[side] for example in examples] for side in ("source", "target")
        )
        found["by_length"] = scores_by_length(sources, hypotheses, targets, edges=task.edges)
    return found


def plan_trainings(
    plan: Plan, *, folder: pathlib.Path, data_dir: str, minutes: float, dtype: str
) -> list[Training]:
    """One training a task, model and seed; Multi30k for the swept models, one seed, with its data.

    Args:
      plan: models, tasks, seeds.
      folder: run directories go below its `runs`.
      data_dir: of Multi30k; '' leaves that task out.
      minutes: see `Training`.
      dtype: of matrix products.
    """
    trainings = []
    for task in plan.tasks:
        models, seeds, corpus = plan.models_of("compare"), plan.seeds, ""
        if task == NEEDS_DATA:
            models, seeds, corpus = plan.swept or models, plan.seeds[:1], data_dir
            models = models if data_dir else ()
        trainings += [
            Training(
                task=task,
                scale=plan.scale,
                model=model,
                seed=seed,
                dtype=dtype,
                folder=str(folder / "runs" / f"{plan.scale}-{task}-{model}-{seed}-{dtype}"),
                data_dir=corpus,
                minutes=minutes,
            )
            for model in models
            for seed in seeds
        ]
    return trainings


def measure(
    suite: Suite, plan: Plan, *, folder: pathlib.Path, data_dir: str, minutes: float
) -> None:
    """All trainings of `compare` that have no row yet, each in a process of its own.

    Args:
      suite: whose results, time and talk serve here too.
      plan, folder, data_dir, minutes: see `plan_trainings`.

    Raises:
      Interrupted: Ctrl-C, or no time is left.
      ConfigError: the rows there are from another machine.
    """
    if NEEDS_DATA in plan.tasks and not data_dir:
        suite.say(f"compare: {NEEDS_DATA} is left out; add --data_dir=DIR")
    options: dict[str, Any] = {"folder": folder, "data_dir": data_dir, "minutes": minutes}
    trainings = plan_trainings(plan, **options, dtype=suite.dtype)
    for number, training in enumerate(trainings, 1):
        row = suite.results.rows.get(training.key, {})
        if "error" not in row and row.get("minutes", -1.0) >= minutes:
            continue
        place = f"compare {number}/{len(trainings)}"
        suite.say(f"{place}  {training.key}")
        start = time.monotonic()
        limit = 60 * minutes * training.recipe().share + OVERHEAD_SECONDS
        seconds = min(limit, suite.time_left())
        row = ask_worker({"train": vars(training)}, seconds=seconds, grace=GRACE_SECONDS)
        error = str(row.get("error", ""))
        if error.startswith(Interrupted.__name__) or (seconds < limit and TOO_LONG in error):
            raise Interrupted
        facts = {"task": training.task, "model": training.model, "seed": training.seed}
        row = {"key": training.key, "what": "compare", **facts, "minutes": minutes, **row}
        row["wall_seconds"] = round(time.monotonic() - start, 2)
        suite.results.add(row)
        suite.say(f"{'':<{len(place)}}  {headline(row)}")
