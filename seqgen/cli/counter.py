"""A count of lines on stderr while a verb works; silent where nobody watches."""

import contextlib
import sys
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
