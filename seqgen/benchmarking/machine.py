"""The machine under the measurements: how many products a second it can do, and how busy it is.

No datasheet is given, so utilisation is the share of what a large square matrix product reaches
here, in the same operand type.
"""

import dataclasses
import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from seqgen.launch import allocator
from seqgen.training.environment import environment

GEMM_SIZES = (512, 1024, 2048, 4096, 8192)
LONG_ENOUGH = 0.02  # seconds of one product after which larger ones are not tried
SAMPLE_SECONDS = 0.05  # short calls are repeated within a sample until it takes so long
MAX_CALLS = 1000


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds of one call, several samples.

    Attributes:
      samples: one mean each, in the order taken.
      calls: calls in each sample.
    """

    samples: tuple[float, ...]
    calls: int

    def to_json(self) -> dict[str, Any]:
        """Minimum, median and maximum, and the samples."""
        return {
            "min": min(self.samples),
            "median": statistics.median(self.samples),
            "max": max(self.samples),
            "samples": list(self.samples),
            "calls": self.calls,
        }


class TooSlow(Exception):
    """The samples that were asked for would take longer than there is time."""


def measure(call: Callable[[], Any], *, repeats: int, deadline: float = float("inf")) -> Timing:
    """Time `call`, which returns when its work is done.

    One call warms up, a second tells how many make up a sample; both are left out.

    Args:
      call: of no argument.
      repeats: samples.
      deadline: on the clock of `time.monotonic`.

    Raises:
      TooSlow: at the pace of the warm-up the samples would not be there by the deadline.
    """
    once = float("inf")
    for _ in range(2):
        start = time.perf_counter()
        call()
        once = min(once, time.perf_counter() - start)
        needed = repeats * max(once, SAMPLE_SECONDS)
        if time.monotonic() + needed > deadline:
            raise TooSlow(f"one call takes {once:.3g} s: {repeats} repeats would pass the limit")
    calls = min(MAX_CALLS, max(1, round(SAMPLE_SECONDS / max(once, 1e-9))))
    samples = []
    for _ in range(repeats):
        start = time.perf_counter()
        for _ in range(calls):
            call()
        samples.append((time.perf_counter() - start) / calls)
    return Timing(tuple(samples), calls)


def measure_gemm(
    dtype: str, *, repeats: int, sizes: Sequence[int] = GEMM_SIZES, deadline: float = float("inf")
) -> dict[str, Any]:
    """The rate of square products with float32 sums.

    Args:
      dtype: 'float32' or 'bfloat16', of the operands.
      repeats: samples a size.
      sizes: tried in turn until a product takes `LONG_ENOUGH` seconds.
      deadline: see `measure`.

    Returns:
      {'flops_per_second' (of the size with the best median), 'size', 'flops', 'seconds'}.
    """
    best: dict[str, Any] = {"flops_per_second": 0.0}
    product = jax.jit(lambda a, b: jnp.matmul(a, b, preferred_element_type=jnp.float32))
    for size in sizes:
        keys = jax.random.split(jax.random.key(size))
        left, right = (jax.random.normal(key, (size, size), dtype) for key in keys)

        def call(left: Any = left, right: Any = right) -> None:
            jax.block_until_ready(product(left, right))

        try:
            seconds = measure(call, repeats=repeats, deadline=deadline).to_json()
        except TooSlow:
            if best["flops_per_second"]:
                break
            raise
        rate = 2 * size**3 / seconds["median"]
        if rate > best["flops_per_second"]:
            facts = {"size": size, "flops": 2 * size**3, "seconds": seconds}
            best = {"flops_per_second": rate, **facts}
        if seconds["median"] > LONG_ENOUGH:
            break
    return best


def facts() -> dict[str, Any]:
    """What a run's env.json says, with platform, memory and the allocator's variables."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        **environment(),
        "platform": jax.default_backend(),
        "device_kind": jax.devices()[0].device_kind,
        "memory_bytes": pages,
        "malloc": allocator.settings(),
    }


def load() -> float:
    """Processes that wanted a core in the last minute: above 0 others disturb the timings."""
    return round(os.getloadavg()[0], 2)
