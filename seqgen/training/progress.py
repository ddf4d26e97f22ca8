"""What a person sees while a run goes on: one live line on a terminal, plain lines elsewhere."""

import atexit
import contextlib
import dataclasses
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TextIO

BAR_WIDTH = 6
PLAIN_WIDTH = 200  # without a terminal nothing is cut
SAMPLE_WIDTH = 160
PHASE_SILENCE = 1.0  # seconds before a phase is worth a line
PHASE_HEARTBEAT = 30.0


@dataclasses.dataclass(frozen=True)
class StepView:
    """The numbers of the progress line.

    Attributes:
      step, num_steps: how far.
      values: of the last logged row (names as in metrics.jsonl).
      tokens_per_second: median over the last steps, compilation left out.
      step_ms: the same median, milliseconds a step.
      wait_share, pad_share: of the time waited for data; of the tokens that are padding.
      checkpoint: step of the newest checkpoint, or None.
      seconds_left: to the last step.
    """

    step: int
    num_steps: int
    values: Mapping[str, Any]
    tokens_per_second: float
    step_ms: float
    wait_share: float
    pad_share: float
    checkpoint: int | None
    seconds_left: float


def short_number(value: float) -> str:
    """12400 -> '12.4k'."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.3g}"


def clock(seconds: float) -> str:
    """161 -> '2m41s'."""
    whole = max(round(seconds), 0)
    hours, minutes = whole // 3600, whole % 3600 // 60
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{whole % 60:02d}s" if minutes else f"{whole}s"


def position_column(step: int, num_steps: int) -> str:
    """'train 1,240/5,000 25% ▇─────'."""
    done = min(step / max(num_steps, 1), 1.0)
    filled = int(done * BAR_WIDTH)
    return f"train {step:,}/{num_steps:,} {done:.0%} " + "▇" * filled + "─" * (BAR_WIDTH - filled)


def step_columns(view: StepView) -> list[str]:
    """The columns of the progress line, the ones that matter most first."""
    values = view.values

    def show(name: str, pattern: str) -> str:
        value = values.get(name)
        return pattern.format(value) if value is not None else "-"

    further = [
        f"{name.removeprefix('train/').removesuffix('_accuracy')} acc {show(name, '{:.2f}')}"
        for name in values
        if name.endswith("_accuracy")  # of what is predicted beside tokens
    ]
    return [
        position_column(view.step, view.num_steps),
        f"loss {show('train/loss', '{:.3f}')}",
        f"ppl {show('train/perplexity', '{:.4g}')}",
        f"acc {show('train/accuracy', '{:.2f}').removeprefix('0')}",
        *further,
        f"lr {show('lr', '{:.1e}')}",
        f"gnorm {show('grad_norm', '{:.2f}')}",
        f"| {short_number(view.tokens_per_second)} tok/s",
        f"{view.step_ms:.0f} ms",
        f"wait {view.wait_share:.0%}",
        f"pad {view.pad_share:.0%}",
        f"| ckpt {short_number(view.checkpoint) if view.checkpoint is not None else '-'}",
        f"| eta {clock(view.seconds_left)}",
    ]


def fit_columns(columns: Sequence[str], width: int) -> str:
    """As many columns as fit, dropped from the right; the first one is cut if it must be."""
    line = columns[0][:width]
    for column in columns[1:]:
        if len(line) + 1 + len(column) > width:
            break
        line = f"{line} {column}"
    return line


class Progress:
    """Plain lines on a stream; the base of the live display.

    Args:
      stream: talk goes here (stderr).
      log: also receives every line (train.log).
    """

    def __init__(self, stream: TextIO | None = None, *, log: Callable[[str], None] | None = None):
        self._stream = stream or sys.stderr
        self._log = log
        self.seconds: dict[str, float] = {}

    def line(self, text: str) -> None:
        """Say one line."""
        self._print(text)
        if self._log is not None:
            self._log(text)

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Something that takes time and is not a step: compiling, restoring, saving, data.

        Nothing is said of what takes less than a second. Its seconds are added up in `seconds`
        under the first word of the name.
        """
        start = time.perf_counter()
        done = threading.Event()
        ticker = threading.Thread(target=self._tick, args=(name, done), daemon=True)
        self._begin(name)
        ticker.start()
        try:
            yield
        finally:
            took = time.perf_counter() - start
            done.set()
            ticker.join()
            kind = name.split()[0]
            self.seconds[kind] = self.seconds.get(kind, 0.0) + took
            self._end(name)
            if took >= PHASE_SILENCE:
                self.line(f"{name}: {took:.1f} s")

    def _tick(self, name: str, done: threading.Event) -> None:
        """Show that a long phase is alive."""
        seconds = 0.0
        wait = PHASE_SILENCE
        while not done.wait(wait):
            seconds += wait
            wait = PHASE_HEARTBEAT
            self._still(name, seconds)

    def step(self, view: StepView) -> None:
        """Show where training stands, at a logged step."""
        self.line(fit_columns(step_columns(view), PLAIN_WIDTH))

    def tick(self, step: int, num_steps: int) -> None:
        """A step was started; between logged steps only a live line moves."""

    def evaluation(
        self,
        step: int,
        values: Mapping[str, float],
        *,
        best: Mapping[str, Any] | None,
        samples: Sequence[Mapping[str, str]] = (),
    ) -> None:
        """The values of an evaluation, the change to the best before it, and sample sentences."""
        parts = []
        for name, value in values.items():
            if not isinstance(value, (int, float)):
                continue
            text = f"{name.removeprefix('eval/')} {value:.4g}"
            if best is not None and name == best["metric"]:
                text += f" ({value - best['value']:+.4g} to the best, step {best['step']:,})"
            parts.append(text)
        self.line(f"eval  {step:,}  " + "  ".join(parts))
        for sample in samples:
            for name, text in sample.items():
                shown = text if len(text) <= SAMPLE_WIDTH else text[: SAMPLE_WIDTH - 1] + "…"
                self.line(f"  {name:<10} {shown}")

    def close(self) -> None:
        """Take the live line away; it comes back with the next thing to show."""

    def _print(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    def _begin(self, name: str) -> None:
        """A phase starts."""

    def _still(self, name: str, seconds: float) -> None:
        """A phase goes on."""
        self._print(f"{name} ..." if seconds <= PHASE_SILENCE else f"{name} ... {seconds:.0f} s")

    def _end(self, name: str) -> None:
        """A phase ended."""


class LiveProgress(Progress):
    """One line that is redrawn on a terminal; messages scroll above it."""

    def __init__(self, stream: TextIO | None = None, *, log: Callable[[str], None] | None = None):
        super().__init__(stream, log=log)
        from rich.console import Console
        from rich.live import Live

        self._console = Console(file=self._stream, highlight=False, soft_wrap=True)
        self._columns: list[str] = []
        self._phase: tuple[str, float] | None = None
        self._live = Live(
            get_renderable=self._render, console=self._console, refresh_per_second=4, transient=True
        )
        atexit.register(self.close)  # the cursor comes back even if nobody closes

    def _render(self) -> Any:
        from rich.text import Text

        width = self._console.width - 1
        if self._phase is not None:
            name, start = self._phase
            columns = [f"{name} ... {time.perf_counter() - start:.0f} s"]
        else:
            columns = self._columns or [""]
        return Text(fit_columns(columns, width), no_wrap=True, overflow="crop")

    def step(self, view: StepView) -> None:
        self._live.start()
        self._columns = step_columns(view)
        if self._log is not None:
            self._log(fit_columns(self._columns, PLAIN_WIDTH))

    def tick(self, step: int, num_steps: int) -> None:
        self._columns[:1] = [position_column(step, num_steps)]

    def close(self) -> None:
        self._live.stop()

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False)

    def _begin(self, name: str) -> None:
        self._live.start()
        self._phase = (name, time.perf_counter())

    def _still(self, name: str, seconds: float) -> None:
        pass  # the live line shows the seconds itself

    def _end(self, name: str) -> None:
        self._phase = None
        if not self._columns:  # before the first step: what comes next may be an error message
            self._live.stop()


def make_progress(
    *, stream: TextIO | None = None, log: Callable[[str], None] | None = None
) -> Progress:
    """A live line where the stream is a terminal that can redraw, else plain lines.

    NO_COLOR and TERM=dumb are respected; the width follows the terminal.
    """
    stream = sys.stderr if stream is None else stream
    if stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb":
        return LiveProgress(stream, log=log)
    return Progress(stream, log=log)
