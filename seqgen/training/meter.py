"""How long steps take, how many tokens they hold, and how long they waited for data."""

import statistics
import time
from collections import deque
from collections.abc import Sequence
from typing import Protocol

WINDOW = 20


class BatchFacts(Protocol):
    """What the data side tells of a batch beside its arrays.

    Attributes:
      digest: hash of its content.
      tokens: real target tokens.
      pad_fraction: part of its positions that is padding.
    """

    @property
    def digest(self) -> str: ...
    @property
    def tokens(self) -> int: ...
    @property
    def pad_fraction(self) -> float: ...


class Meter:
    """Collects facts of steps; medians run over the last steps that did not compile."""

    def __init__(self) -> None:
        self._steps: deque[tuple[float, int]] = deque(maxlen=WINDOW)
        self._in_flight: deque[tuple[int, bool]] = deque()  # tokens, compiled
        self._last = time.perf_counter()  # when the step before was finished
        self._waits: list[float] = []
        self._seconds: list[float] = []
        self._pads: list[float] = []
        self._start = time.perf_counter()
        self._tokens = 0
        self.train_seconds = 0.0
        self.wait_share = 0.0
        self.pad_share = 0.0

    @property
    def in_flight(self) -> int:
        """Steps that were started and are not known to be finished."""
        return len(self._in_flight)

    def start_step(self) -> None:
        """The step begins: the batch is asked for."""
        self._start = time.perf_counter()
        if not self._in_flight:  # what came between, such as an evaluation, is no part of a step
            self._last = self._start

    def got_batch(self, facts: Sequence[BatchFacts]) -> None:
        """The micro-batches are here."""
        self._waits.append(time.perf_counter() - self._start)
        self._pads.extend(fact.pad_fraction for fact in facts)

    def dispatched(self, facts: Sequence[BatchFacts], *, compiled: bool) -> None:
        """The step was handed to the device; with `compiled` its time will not count."""
        self._tokens = sum(fact.tokens for fact in facts)
        self._in_flight.append((self._tokens, compiled))

    def finished(self, *, compiled: bool = False) -> None:
        """The device finished the oldest step in flight: it took the time since the one before.

        `compiled`: the host compiled the next program meanwhile, so that this time does not count.
        """
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        tokens, compiled_itself = self._in_flight.popleft()
        if compiled or compiled_itself:
            return
        self._steps.append((seconds, tokens))
        self._seconds.append(seconds)
        self.train_seconds += seconds

    @property
    def step_seconds(self) -> float:
        """Median seconds of a step."""
        return statistics.median(seconds for seconds, _ in self._steps) if self._steps else 0.0

    @property
    def tokens_per_second(self) -> float:
        """Median over the last steps of real target tokens a second."""
        if not self._steps:
            return 0.0
        return statistics.median(tokens / max(seconds, 1e-9) for seconds, tokens in self._steps)

    def read(self) -> dict[str, float]:
        """Values of the row, means since the last call.

        `data_wait` is the share of the steps' time in which the loop waited for a batch; what a
        step in flight computed meanwhile is not taken off.
        """
        waits, pads, seconds = self._waits, self._pads, self._seconds
        counted = waits[-len(seconds) :] if seconds else []
        self.wait_share = sum(counted) / sum(seconds) if seconds else 0.0
        row: dict[str, float] = {
            "tokens": self._tokens,
            "tok_s": round(self.tokens_per_second, 1),
            "step_ms": round(1e3 * self.step_seconds, 2),
            "data_wait_ms": round(1e3 * sum(waits) / max(len(waits), 1), 3),
            "data_wait": round(self.wait_share, 5),
            "pad_frac": round(sum(pads) / max(len(pads), 1), 5),
        }
        self.pad_share = row["pad_frac"]
        self._waits, self._pads, self._seconds = [], [], []
        return row
