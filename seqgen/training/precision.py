"""Which operand type makes matrix products fast here, measured once a run."""

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from seqgen.nn.dense import dense

# (rows, in, out): a feed-forward layer, a recurrent step, an output layer.
PROBE_SHAPES = ((1024, 256, 1024), (204, 256, 1024), (512, 256, 4096))
GAIN = 1.15  # bfloat16 must be this much faster to be worth its rounding


def resolve_compute_dtype(wanted: str, *, report: Callable[[str], None] | None = None) -> str:
    """'float32' or 'bfloat16'; 'auto' measures (about a second). Call it once, write it down.

    Args:
      wanted: a choice, or 'auto'.
      report: receives one line with the measurement.
    """
    if wanted != "auto":
        return wanted
    seconds = measure_dots()
    chosen = "bfloat16" if seconds["float32"] > GAIN * seconds["bfloat16"] else "float32"
    if report is not None:
        times = ", ".join(f"{name} {1e3 * value:.1f} ms" for name, value in seconds.items())
        report(f"compute dtype: {chosen} (probe products: {times})")
    return chosen


def measure_dots() -> dict[str, float]:
    """Seconds of one forward and backward pass of the probe layers for each operand type."""
    random = np.random.default_rng(0)
    cases = [
        (
            jnp.asarray(random.standard_normal((rows, width)), jnp.float32),
            jnp.asarray(random.standard_normal((width, out)), jnp.float32),
        )
        for rows, width, out in PROBE_SHAPES
    ]
    programs = {}
    for name in ("float32", "bfloat16"):

        def probe(cases, name=name):
            return [
                jax.grad(
                    lambda x, kernel: jnp.sum(jnp.square(dense(x, kernel, compute_dtype=name))),
                    argnums=(0, 1),
                )(x, kernel)
                for x, kernel in cases
            ]

        programs[name] = jax.jit(probe)
        jax.block_until_ready(programs[name](cases))
    best = dict.fromkeys(programs, float("inf"))
    for _ in range(5):  # in turn, so that a busy moment meets both
        for name, program in programs.items():
            start = time.perf_counter()
            jax.block_until_ready(program(cases))
            best[name] = min(best[name], time.perf_counter() - start)
    return best
