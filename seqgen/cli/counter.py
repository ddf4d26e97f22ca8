"""What verbs say on stderr of their lines: a count while they work, totals at the end."""

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def line_counter(what: str, *, enabled: bool = True) -> Iterator[Callable[[int], None]]:
    """Gives a function that shows the number of lines done, redrawn in place on a terminal."""
    talks = enabled and sys.stderr.isatty()
    shown = False

    def show(count: int) -> None:
        nonlocal shown
        if talks:
            print(f"\r{what} {count:,} lines", end="", file=sys.stderr, flush=True)
            shown = True

    try:
        yield show
    finally:
        if shown:
            print(file=sys.stderr)


class Totals:
    """How many lines were answered since this was made, and how fast."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._lines = self._tokens = 0
        self._first = math.nan

    def add(self, tokens: int) -> None:
        """Count one more line, whose answers have so many tokens."""
        if not self._lines:
            self._first = time.perf_counter() - self._start
        self._lines += 1
        self._tokens += tokens

    def line(self) -> str:
        """Lines, seconds, lines and tokens a second, seconds to the first answer."""
        if not self._lines:
            return "answered 0 lines"
        seconds = time.perf_counter() - self._start
        return (
            f"answered {self._lines:,} line{'s' * (self._lines > 1)} in {seconds:.1f} s: "
            f"{self._lines / seconds:,.1f} lines/s, {self._tokens / seconds:,.0f} tokens/s, "
            f"first answer after {self._first:.2f} s"
        )
