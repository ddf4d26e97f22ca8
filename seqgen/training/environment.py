"""What the bits of a run may depend on: versions, machine, devices, threads, flags, code."""

import functools
import importlib.metadata
import os
import pathlib
import platform
import subprocess
import sys
from typing import Any

import jax

VERSIONED = ("seqgen", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def environment() -> dict[str, Any]:
    """What bits may depend on: versions, machine, devices, threads, flags."""
    versions = {}
    for name in VERSIONED:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "none"
    return {
        **versions,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processor": processor(),
        "devices": [device.device_kind for device in jax.devices()],
        "cpus": len(os.sched_getaffinity(0)),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "nproc": os.environ.get("NPROC", ""),
        "code": code_version(),
    }


def processor() -> str:
    """The name of the CPU."""
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor()


@functools.cache  # asked for by the environment, the checkpoints and the events of a start
def code_version() -> str:
    """The git commit of the source, or the version of the installed package."""
    folder = pathlib.Path(__file__).resolve().parent
    try:
        found = subprocess.run(
            ["git", "rev-parse", "--short=12", "HEAD"],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
        if found.returncode == 0:
            return found.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        pass
    return importlib.metadata.version("seqgen") if "seqgen" in sys.modules else "unknown"
