"""Passes of several programs in turn, in one process."""

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any


def time_in_turn(
    programs: Mapping[str, Callable[[], Any]], *, rounds: int
) -> dict[str, list[tuple[float, float]]]:
    """Wall and CPU seconds of every pass; each round asks all, the next one the other way round.

    So what a pass leaves behind falls on all alike.
    """
    passes: dict[str, list[tuple[float, float]]] = {name: [] for name in programs}
    for number in range(rounds):
        for name in list(programs) if number % 2 == 0 else list(programs)[::-1]:
            wall, cpu = time.perf_counter(), time.process_time()
            programs[name]()
            passes[name].append((time.perf_counter() - wall, time.process_time() - cpu))
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    return passes
