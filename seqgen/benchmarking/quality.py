"""What models learn at equal budgets: one training a model, task and seed, in a run directory.

The trainings are those of `seqgen train` (`seqgen.experiment.train`), so that each resumes where it
stopped. The time of a training is that of its steps, at the pace which `pace` measures before;
evaluations and compilation come on top.
"""

import dataclasses
import pathlib
import time
from typing import Any

from seqgen import experiment, run_evaluation, runs
from seqgen.benchmarking import curves, flops, machine
from seqgen.benchmarking.cells import Plan
from seqgen.benchmarking.models import language_models
from seqgen.benchmarking.results import Row
from seqgen.benchmarking.suite import (
    GRACE_SECONDS,
    TOO_LONG,
    Interrupted,
    Suite,
    ask_worker,
    headline,
)
from seqgen.benchmarking.tasks import TASKS, Task, Training
from seqgen.errors import DataError
from seqgen.evaluation.by_length import scores_by_length
from seqgen.training.progress import Progress, StepView
from seqgen.training.writers import read_rows
from seqgen.types import Batch

PROBED_EXAMPLES = 200  # whose mean lengths say what a token costs
# A training may take so many times its minutes, on a busy machine, and seconds beside.
PATIENCE, OVERHEAD_SECONDS = 4.0, 1200.0
START_SECONDS = 60.0  # of a worker that measures a pace, data and compilation included


class Sparse(Progress):
    """Plain progress that shows a step now and then.

    Args:
      show_every: steps between lines.
    """

    def __init__(self, show_every: int):
        super().__init__()
        self._show_every = show_every

    def step(self, view: StepView) -> None:
        """Show it, or not."""
        if view.step % self._show_every == 0:
            super().step(view)


def train_one(training: Training) -> Row:
    """Train as many steps as the budget is worth, score the test split; the row.

    Raises:
      Interrupted: a signal came first; the training is saved.
    """
    task, cfg, folder = training.recipe(), training.config(), pathlib.Path(training.folder)
    outcome = experiment.train(cfg, folder, progress=Sparse(task.eval_every))
    if outcome.status == "interrupted":
        raise Interrupted("the same command goes on")
    run = runs.Run.open(folder)
    cost = _flops_per_token(run)
    rows = read_rows(folder / "metrics.jsonl")
    pace = training.step_seconds
    return {
        "status": outcome.status,
        "parameters": run.definition.num_parameters,
        "width": cfg.model.embed_dim,
        "score": task.score,
        "steps": outcome.step,
        "step_seconds": pace,
        "train_seconds": round(outcome.step * pace, 2),
        "flops_per_token": cost,
        "curve": curves.make_curve(rows, score=task.score, flops_per_token=cost, step_seconds=pace),
        "test": _test_scores(folder, task),
        "environment": machine.facts(),
    }


def _flops_per_token(run: runs.Run) -> float:
    """Training FLOPs of one real target token, at the mean lengths of validation rows."""
    cfg = run.config
    rows = sources = targets = 0
    batches = run.prepare().eval_batches(cfg.evaluation.split, max_examples=PROBED_EXAMPLES)
    for batch in batches:
        assert isinstance(batch, Batch)
        used = batch.weights.any(axis=1)
        rows += int(used.sum())
        if batch.source is not None:
            sources += int((batch.source.segments[used] > 0).sum())
        targets += int((batch.target.segments[used] > 0).sum())
    source, target = round(sources / rows), max(1, round(targets / rows))
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
        report, examples, hypotheses = run_evaluation.evaluate(folder, split="test", **options)
    except DataError:
        report, examples, hypotheses = run_evaluation.evaluate(folder, split="val", **options)
    names = ("split", "loss", "bleu", "exact_match", "bits_per_byte", "signature")
    found = {name: report[name] for name in names if name in report}
    if task.edges:
        sources, targets = (
            [example[side] for example in examples] for side in ("source", "target")
        )
        found["by_length"] = scores_by_length(sources, hypotheses, targets, edges=task.edges)
    return found


def plan_trainings(
    plan: Plan, *, folder: pathlib.Path, data_dir: str, minutes: float, dtype: str
) -> list[Training]:
    """One training a task, model and seed; of tasks with a corpus the swept models alone.

    Args:
      plan: models, tasks, seeds.
      folder: run directories go below its `runs`.
      data_dir: holds a folder a corpus; tasks whose corpus is not there are left out.
      minutes: see `Training`.
      dtype: of matrix products.
    """
    trainings = []
    for task in plan.tasks:
        recipe = TASKS[plan.scale][task]
        models, corpus = plan.models_of("compare"), ""
        if recipe.corpus:
            if lacks_corpus(recipe, data_dir):
                continue
            models, corpus = plan.swept or models, str(pathlib.Path(data_dir, recipe.corpus))
        if recipe.language_model:
            models = language_models(models)
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
            for seed in plan.seeds[: recipe.num_seeds]
        ]
    return trainings


def lacks_corpus(task: Task, data_dir: str) -> bool:
    """Whether the task needs a corpus that is not below `data_dir`."""
    return bool(task.corpus) and not (data_dir and pathlib.Path(data_dir, task.corpus).is_dir())


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
    for task in plan.tasks:
        recipe = TASKS[plan.scale][task]
        if lacks_corpus(recipe, data_dir):
            place = pathlib.Path(data_dir or "DIR", recipe.corpus)
            suite.say(f"compare: {task} is left out: --data_dir=DIR wants its corpus in {place}")
    options: dict[str, Any] = {"folder": folder, "data_dir": data_dir, "minutes": minutes}
    trainings = plan_trainings(plan, **options, dtype=suite.dtype)
    for training in {training.pace_key: training for training in reversed(trainings)}.values():
        _ensure_pace(suite, training, seconds=plan.cell_seconds)
    for number, training in enumerate(trainings, 1):
        row = suite.results.rows.get(training.key, {})
        if "error" not in row and row.get("minutes", -1.0) >= minutes:
            continue
        pace = suite.results.rows[training.pace_key]
        place = f"compare {number}/{len(trainings)}"
        suite.say(f"{place}  {training.key}")
        start = time.monotonic()
        if "error" in pace:
            row = {"error": f"its pace is not known: {pace['error']}"}
        else:
            training = dataclasses.replace(training, step_seconds=pace["seconds"]["median"])
            row = _ask_training(suite, training)
        facts = {"task": training.task, "model": training.model, "seed": training.seed}
        row = {"key": training.key, "what": "compare", **facts, "minutes": minutes, **row}
        row["wall_seconds"] = round(time.monotonic() - start, 2)
        suite.results.add(row)
        suite.say(f"{'':<{len(place)}}  {headline(row)}")


def _ask_training(suite: Suite, training: Training) -> Row:
    limit = PATIENCE * 60 * training.minutes * training.recipe().share + OVERHEAD_SECONDS
    seconds = min(limit, suite.time_left())
    row = ask_worker({"train": vars(training)}, seconds=seconds, grace=GRACE_SECONDS)
    error = str(row.get("error", ""))
    if error.startswith(Interrupted.__name__) or (seconds < limit and TOO_LONG in error):
        raise Interrupted
    return row


def _ensure_pace(suite: Suite, training: Training, *, seconds: float) -> None:
    """The row of `training.pace_key`, measured unless it is there."""
    if "error" in suite.results.rows.get(training.pace_key, {"error": "not measured yet"}):
        suite.say(training.pace_key)
        order = {"pace": vars(training), "repeats": suite.repeats, "seconds": seconds}
        row = ask_worker(order, seconds=min(seconds + START_SECONDS, suite.time_left()))
        facts = {"task": training.task, "model": training.model}
        suite.results.add({"key": training.pace_key, "what": "pace", **facts, **row})
