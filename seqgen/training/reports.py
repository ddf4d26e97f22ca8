"""Rows of metrics and the closing lines of a run."""

import dataclasses
import resource
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from seqgen.errors import DivergedError
from seqgen.training.host_record import HostRecord
from seqgen.training.meter import Meter
from seqgen.training.progress import Progress, StepView, clock, short_number
from seqgen.training.run_directory import RunDirectory
from seqgen.training.state import TrainState

Fetched = Sequence[tuple[int, Mapping[str, Any]]]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
      status: 'finished', 'early_stopped' or 'interrupted'.
      step, num_steps: steps done, and wanted.
      exit_code: 0, or 75 after a signal (the same command resumes).
      state: the last state (on devices).
      host: what was stored beside it; `host.best` is the best evaluation.
    """

    status: str
    step: int
    num_steps: int
    exit_code: int
    state: TrainState
    host: HostRecord


def log_row(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The values of one step (fetched) under the names of metrics.jsonl."""
    loss = np.float32(metrics["loss"])
    with np.errstate(over="ignore"):
        perplexity = float(np.exp(np.float64(metrics["nll"])))
    further = [name.removesuffix("_nll") for name in metrics if name.endswith("_nll")]
    return {
        "train/loss": float(loss),
        "loss_hex": float(loss).hex(),
        "train/nll": float(metrics["nll"]),
        "train/perplexity": perplexity,
        "train/accuracy": float(metrics["accuracy"]),
        **{f"train/{name}_loss": float(metrics[f"{name}_nll"]) for name in further},
        **{f"train/{name}_accuracy": float(metrics[f"{name}_accuracy"]) for name in further},
        "lr": float(metrics["learning_rate"]),
        "grad_norm": float(metrics["grad_norm"]),
        "bad": int(metrics["bad"]),
        "bad_steps": int(metrics["bad_steps"]),
    }


def watch_bad_steps(
    fetched: Fetched,
    names: Sequence[str],
    *,
    limit: int,
    progress: Progress,
    run: RunDirectory,
) -> None:
    """Tell of steps that were not finite.

    Args:
      fetched: (step, metrics) since the last look.
      names: parameter paths in the order of the state.
      limit: so many in a row end the run.
      progress, run: receive one line and one event a bad step.

    Raises:
      DivergedError: there were that many in a row.
    """
    for step, row in fetched:
        if not row["bad"]:
            continue
        finite = np.isfinite(row["grad_norm"])
        where = "the update" if finite else f"the gradient of {names[int(row['bad_leaf'])]}"
        progress.line(
            f"step {step:,} was skipped: loss {float(row['loss']):.4g}, "
            f"gradient norm {float(row['grad_norm']):.4g}, first in {where}"
        )
        run.event("step_skipped", step=step, first_in=where)
        if row["bad_run"] >= limit:
            raise DivergedError(
                f"{int(row['bad_run'])} steps in a row were not finite (last: step {step:,})",
                details=[
                    f"first non-finite   {where}",
                    "the parameters are those before the first of them",
                    "lower config.optimizer.learning_rate, set config.optimizer.clip_norm=1.0,",
                    "or choose config.train.compute_dtype=float32",
                ],
            )


def step_view(
    step: int, num_steps: int, row: Mapping[str, Any], *, meter: Meter, saved: int | None
) -> StepView:
    """What the progress line shows."""
    return StepView(
        step=step,
        num_steps=num_steps,
        values=row,
        tokens_per_second=meter.tokens_per_second,
        step_ms=1e3 * meter.step_seconds,
        wait_share=meter.wait_share,
        pad_share=meter.pad_share,
        checkpoint=saved,
        seconds_left=meter.step_seconds * max(num_steps - step, 0),
    )


def summarise(
    outcome: Outcome,
    run: RunDirectory,
    meter: Meter,
    progress: Progress,
    *,
    total: float,
    work: str,
    trouble: str,
) -> list[str]:
    """Nine lines: score, where time went, speed, memory, trouble, path.

    Args:
      outcome: of the run.
      run: its directory.
      meter: of its steps.
      progress: which kept the seconds of everything that was not a step.
      total: seconds in all.
      work: what this process did.
      trouble: what went wrong besides skipped steps.
    """
    spent = {"train": meter.train_seconds, **progress.seconds}
    shares = [
        f"{name} {clock(seconds)} ({seconds / max(total, 1e-9):.0%})"
        for name, seconds in sorted(spent.items(), key=lambda item: -item[1])
        if seconds >= 0.01 * total
    ]
    host, best = outcome.host, outcome.host.best
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    skipped = int(outcome.state.counters["bad_steps"])
    if outcome.status == "interrupted":
        opening = f"saved step {outcome.step}; the same command resumes"
    else:
        ending = outcome.status.replace("_", " ")
        opening = f"{ending} at step {outcome.step:,} of {outcome.num_steps:,}"
    score = (
        f"{best['metric']} {best['value']:.4g} at step {best['step']:,}"
        if best
        else "nothing was evaluated"
    )
    return [
        opening,
        f"  best           {score}",
        f"  time           {clock(total)}: {', '.join(shares)}",
        f"  steps          {work}",
        f"  speed          {1e3 * meter.step_seconds:.0f} ms a step, "
        f"{short_number(meter.tokens_per_second)} target tokens/s",
        f"  data           {host.batches:,} batches, {short_number(host.tokens)} target tokens",
        f"  peak memory    {peak:,.0f} MiB",
        f"  trouble        {host.resumes} resumes, {skipped} skipped steps, {trouble}",
        f"  checkpoints    {run.path}/checkpoints",
    ]
