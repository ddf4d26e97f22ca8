"""Which operand type makes matrix products fast here, measured once a machine."""

import contextlib
import datetime
import hashlib
import json
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqgen.nn.dense import dense
from seqgen.training.environment import environment
from seqgen.training.run_directory import write_atomically

DTYPES = ("float32", "bfloat16")
# (rows, in, out): a feed-forward layer, a recurrent step, an output layer.
PROBE_SHAPES = ((1024, 256, 1024), (204, 256, 1024), (512, 256, 4096))
MACHINE = ("processor", "cpus", "nproc", "devices", "jaxlib", "xla_flags")
GAIN = 1.15  # bfloat16 must be this much faster to be worth its rounding


def resolve_compute_dtype(
    wanted: str,
    *,
    report: Callable[[str], None] | None = None,
    folder: pathlib.Path | None = None,
) -> str:
    """'float32' or 'bfloat16'; 'auto' measures (about a second). Call it once, write it down.

    Args:
      wanted: a choice, or 'auto'.
      report: receives one line with the measurement.
      folder: where measurements are kept for later starts, a file a machine (see `machine_facts`);
        it is measured anew without one, or where the file cannot be used.
    """
    if wanted != "auto":
        return wanted
    record = folder / _file_name(machine_facts()) if folder is not None else None
    found = _read(record) if record is not None else None
    if found is None:
        found = {"measured": datetime.date.today().isoformat(), "seconds": measure_dots()}
        when = "probe products"
        if record is not None:
            _write(record, {**machine_facts(), **found})
    else:
        when = f"probe products of {found['measured']}, kept in {record}"
    seconds = found["seconds"]
    chosen = "bfloat16" if seconds["float32"] > GAIN * seconds["bfloat16"] else "float32"
    if report is not None:
        times = ", ".join(f"{name} {1e3 * value:.1f} ms" for name, value in seconds.items())
        report(f"compute dtype: {chosen} ({when}: {times})")
    return chosen


def machine_facts() -> dict[str, Any]:
    """What a measurement holds for: processor, threads, devices, library, flags, probes."""
    here = environment()
    return {name: here[name] for name in MACHINE} | {"probes": [list(s) for s in PROBE_SHAPES]}


def _file_name(facts: dict[str, Any]) -> str:
    digest = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=8)
    return f"compute-dtype-{digest.hexdigest()}.json"


def _read(record: pathlib.Path) -> dict[str, Any] | None:
    """The measurement in a file; None if there is none that can be used."""
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
        seconds = {name: float(found["seconds"][name]) for name in DTYPES}
        usable = all(0 < value < float("inf") for value in seconds.values())
        return {"measured": str(found["measured"]), "seconds": seconds} if usable else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _write(record: pathlib.Path, found: dict[str, Any]) -> None:
    """Keep a measurement; where nothing can be written the next start measures again."""
    with contextlib.suppress(OSError):
        record.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(record, json.dumps(found, indent=2) + "\n")


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
    for name in DTYPES:

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
