"""Runs what a plan asks for, a child process each, and keeps every row at once."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from seqgen.benchmarking.cells import Cell, Plan, cells_of
from seqgen.benchmarking.results import Results, Row
from seqgen.training.progress import clock

GRACE_SECONDS = 60.0  # for a training to save itself after Ctrl-C
EXIT_INTERRUPTED = 75
ERROR_LENGTH = 300
TOO_LONG = "took longer than"


class Interrupted(Exception):
    """Ctrl-C, or the end of the suite's time: what is measured is kept."""


def ask_worker(
    order: dict[str, Any], *, seconds: float, grace: float = 0.0, devices: int = 1
) -> Row:
    """What a worker process says to an order; {'error'} where it says nothing in time.

    Args:
      order: see `worker.main`.
      seconds: after which the process is ended.
      grace: how long it may go on once its time is over, or after Ctrl-C or SIGTERM.
      devices: of the measurement: several on a CPU need more threads.

    Raises:
      Interrupted: by Ctrl-C or SIGTERM; the worker has ended.
    """
    environment = dict(os.environ)
    if devices > 1:
        environment.setdefault("NPROC", "64")  # or XLA:CPU may lock up
    command = [sys.executable, "-m", "seqgen.benchmarking.worker", json.dumps(order)]
    # The talk of a training is for the user; of a measurement, only its last words if it dies.
    talk_to = None if "train" in order else subprocess.PIPE
    with _sigterm_interrupts():
        child = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=talk_to,
            text=True,
            env=environment,
            start_new_session=True,  # one signal comes to it, ours: a second would not let it save
        )
        try:
            output, talk = child.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            _end(child, grace=grace)
            return {"error": f"{TOO_LONG} {seconds:.0f} s"}
        except KeyboardInterrupt:
            _end(child, grace=grace)
            raise Interrupted from None
    try:
        return json.loads(output.splitlines()[-1])
    except (IndexError, ValueError):
        return {"error": _last_words(child.returncode, talk or "")}


@contextlib.contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """SIGTERM raises KeyboardInterrupt in the block, so that no worker outlives its suite."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may install handlers
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(child: subprocess.Popen[str], *, grace: float) -> None:
    """Ask a process to stop, wait for it, then make it."""
    child.terminate()
    try:
        child.communicate(timeout=max(grace, 0.01))
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        child.kill()
        child.communicate()


def _last_words(code: int, talk: str) -> str:
    """Why a process ended that said nothing on stdout."""
    lines = [line for line in talk.strip().splitlines() if line.strip()]
    last = lines[-1][:ERROR_LENGTH] if lines else "it said nothing"
    if code < 0:
        name = signal.Signals(-code).name
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return f"killed by {name}{hint}: {last}"
    return f"ended with {code}: {last}"


class Suite:
    """One call of `seqgen bench`: the rows it adds to, the time it has, its talk.

    Args:
      results: where rows go.
      repeats: timed samples a cell.
      dtype: of matrix products.
      seconds: for everything; what is not begun by then is left for the next call.
      say: receives a line before and after each measurement.
    """

    def __init__(
        self,
        results: Results,
        *,
        repeats: int,
        dtype: str,
        seconds: float,
        say: Callable[[str], None],
    ):
        self.results = results
        self.repeats = repeats
        self.dtype = dtype
        self.say = say
        self._deadline = time.monotonic() + seconds

    def time_left(self) -> float:
        """Seconds.

        Raises:
          Interrupted: none.
        """
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise Interrupted
        return left

    def measure(self, plan: Plan, part: str) -> None:
        """All cells of one part that have no row yet; the machine's rate before them.

        Raises:
          Interrupted: Ctrl-C, or no time is left.
          ConfigError: the rows there are from another machine.
        """
        cells = [Cell("gemm", dtype=self.dtype), *cells_of(plan, part, dtype=self.dtype)]
        for number, cell in enumerate(cells):
            if not self.results.is_measured(cell.key, repeats=self.repeats):
                place = f"{part} {number}/{len(cells) - 1}"
                self._measure_one(cell, place, limit=plan.cell_seconds)

    def _measure_one(self, cell: Cell, place: str, *, limit: float) -> None:
        seconds = min(limit, self.time_left())
        self.say(f"{place}  {cell.key}")
        start = time.monotonic()
        order = {"cell": vars(cell), "repeats": self.repeats, "seconds": seconds}
        row = ask_worker(order, seconds=seconds, devices=cell.devices)
        if seconds < limit and str(row.get("error", "")).startswith(TOO_LONG):
            raise Interrupted  # it had no fair chance
        row = {"key": cell.key, "what": cell.what, "cell": vars(cell), **row}
        row |= {"repeats": self.repeats, "wall_seconds": round(time.monotonic() - start, 2)}
        rate = self.results.rows.get(f"gemm dtype={cell.dtype}", {}).get("flops_per_second")
        if rate and "seconds" in row and cell.what != "gemm":
            row["utilisation"] = row["flops"] / row["seconds"]["median"] / rate
        self.results.add(row)
        self.say(f"{'':<{len(place)}}  {headline(row)}")


def headline(row: Row) -> str:
    """What a row says, in one line."""
    if "error" in row:
        return f"failed: {row['error']}"
    parts = []
    if "flops_per_second" in row:
        parts.append(f"{row['flops_per_second'] / 1e9:,.4g} GFLOP/s at size {row['size']}")
    if "tokens_per_second" in row:
        parts.append(f"{row['tokens_per_second']:,.4g} tok/s")
    if "utilisation" in row:
        parts.append(f"{row['utilisation']:.0%} of the product rate")
    if "temp_bytes" in row:
        parts.append(f"{row['temp_bytes'] / 2**20:,.4g} MiB temporary")
    if "curve" in row:
        parts.append(f"{len(row['curve'])} evaluations, {row['status']}")
    return ", ".join([*parts, f"took {clock(row['wall_seconds'])}"])


def default_folder(scale: str) -> pathlib.Path:
    """Where results go unless told: one folder a scale, so that the same command resumes."""
    return pathlib.Path("runs") / ("bench" if scale == "full" else f"bench-{scale}")
