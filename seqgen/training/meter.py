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
        self._waits: list[float] = []
        self._seconds: list[float] = []
        self._pads: list[float] = []
        self._start = time.perf_counter()
        self._tokens = 0
        self.train_seconds = 0.0
        self.wait_share = 0.0
        self.pad_share = 0.0

    def start_step(self) -> None:
        """The step begins: the batch is asked for."""
        self._start = time.perf_counter()

    def got_batch(self, facts: Sequence[BatchFacts]) -> None:
        """The micro-batches are here."""
        self._waits.append(time.perf_counter() - self._start)
        self._pads.extend(fact.pad_fraction for fact in facts)

    def end_step(self, facts: Sequence[BatchFacts], *, compiled: bool) -> None:
        """The device finished the step before; in a steady run that is one step time."""
        seconds = time.perf_counter() - self._start
        tokens = sum(fact.tokens for fact in facts)
        self._tokens = tokens
        if compiled:
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
        """Values of the row, means since the last call."""
        waits, pads, seconds = self._waits, self._pads, self._seconds
        row: dict[str, float] = {
            "tokens": self._tokens,
            "tok_s": round(self.tokens_per_second, 1),
            "step_ms": round(1e3 * self.step_seconds, 2),
            "data_wait_ms": round(1e3 * sum(waits) / max(len(waits), 1), 3),
            "pad_frac": round(sum(pads) / max(len(pads), 1), 5),
        }
        self.wait_share = sum(waits[-len(seconds) :]) / sum(seconds) if sum(seconds) else 0.0
        self.pad_share = row["pad_frac"]
        self._waits, self._pads, self._seconds = [], [], []
        return row
