"""`seqgen doctor`: says in eight lines whether this machine is ready, and what to fix."""

import argparse
import importlib.metadata
import json
import os
import pathlib
import re
import shutil
import sys
import tempfile
from collections.abc import Callable
from typing import Any

from seqgen.cli.arguments import add_verb

EXAMPLES = """\
seqgen doctor
seqgen doctor --workdir=/data/runs"""

GIB = 1 << 30


def add_parser(verbs: Any) -> None:
    """Declare `doctor`."""
    parser = add_verb(
        verbs,
        "doctor",
        summary="Say in eight lines whether this machine is ready, and what to fix.",
        examples=EXAMPLES,
        run=run,
    )
    parser.add_argument(
        "--workdir", type=pathlib.Path, default=pathlib.Path(), help="where runs shall be written"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Look, print, and end with 0 (ready) or 2 (something must be fixed)."""
    checks: list[tuple[str, Callable[[], tuple[str, str]]]] = [
        ("python", _python),
        ("packages", _packages),
        ("devices", _devices),
        ("cpu", _cpu),
        ("memory", _memory),
        ("disk", lambda: _disk(args.workdir)),
        ("compile cache", _cache),
        ("extras", _extras),
    ]
    rows = []
    for name, check in checks:
        try:
            state, text = check()
        except Exception as error:  # a broken library must not hide the other lines
            state, text = "FIX", f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
        rows.append({"check": name, "state": state, "text": text})
        if not args.json:
            print(f"{state:<4} {name:<14} {text}")
    ready = all(row["state"] != "FIX" for row in rows)
    if args.json:
        print(json.dumps({"ready": ready, "checks": rows}))
    return 0 if ready else 2


def _python() -> tuple[str, str]:
    return "ok", f"{'.'.join(map(str, sys.version_info[:3]))} ({sys.executable})"


def _packages() -> tuple[str, str]:
    """Installed versions against those that seqgen declares."""
    wrong = []
    names = []
    for line in importlib.metadata.requires("seqgen") or []:
        if "extra ==" in line:
            continue
        match = re.match(r"([A-Za-z0-9._-]+)\s*(.*)", line)
        assert match is not None
        name, bounds = match.groups()
        names.append(name)
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{name} is missing")
            continue
        if not _within(version, bounds):
            wrong.append(f"{name} {version} is not {bounds}")
    if wrong:
        return "FIX", f"{'; '.join(wrong)}: pip install -e .  (in the checkout)"
    main = [f"{n} {importlib.metadata.version(n)}" for n in ("seqgen", "jax", "flax", "optax")]
    return "ok", f"{', '.join(main)}; all {len(names)} as declared"


def _within(version: str, bounds: str) -> bool:
    """Whether a version keeps bounds such as '<0.11,>=0.10' (only < and >= are used)."""
    here = _numbers(version)
    for bound in bounds.split(","):
        sign, limit = re.fullmatch(r"\s*(<|>=)?\s*(.*)", bound).groups()  # type: ignore[union-attr]
        other = _numbers(limit)
        if (sign == "<" and here >= other) or (sign == ">=" and here < other):
            return False
    return True


def _numbers(version: str) -> tuple[int, ...]:
    numbers = [int(n) for n in re.findall(r"\d+", version.partition("+")[0])[:3]]
    return (*numbers, *[0] * (3 - len(numbers)))


def _devices() -> tuple[str, str]:
    import jax

    devices = jax.devices()
    kinds = sorted({device.device_kind for device in devices})
    text = f"{len(devices)} x {jax.default_backend()} ({', '.join(kinds)})"
    if jax.default_backend() == "cpu" and shutil.which("nvidia-smi"):
        return "warn", f"{text}, but a GPU is here: pip install -e '.[cuda]'"
    threads = os.environ.get("NPROC", "")
    if jax.default_backend() == "cpu" and len(devices) > 1 and not threads.isdigit():
        return "warn", f"{text}; several CPU devices may hang: export NPROC=64"
    return "ok", text


def _cpu() -> tuple[str, str]:
    """Cores, and whether bfloat16 products run on matrix units."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    info = pathlib.Path("/proc/cpuinfo")
    if not info.is_file():
        return "ok", f"{cores} cores; train.compute_dtype=auto will measure what is fast"
    flags = set(re.findall(r"\w+", (re.findall(r"^flags.*$", info.read_text(), re.M) or [""])[0]))
    if "amx_bf16" in flags:
        return "ok", f"{cores} cores with AMX: bfloat16 products run 4-5 times as fast as float32"
    best = next((name for name in ("avx512_bf16", "avx512f", "avx2") if name in flags), "no AVX2")
    return "ok", f"{cores} cores, {best}; train.compute_dtype=auto measures which dtype is faster"


def _memory() -> tuple[str, str]:
    info = pathlib.Path("/proc/meminfo")
    if not info.is_file():
        return "ok", "unknown on this system"
    sizes = {
        name: int(size) * 1024
        for name, size in re.findall(r"^(\w+):\s+(\d+) kB", info.read_text(), re.M)
    }
    free, total = sizes.get("MemAvailable", 0), sizes.get("MemTotal", 0)
    limit = _cgroup_limit()
    if limit is not None:
        total, free = min(total, limit), min(free, limit)
    text = f"{free / GIB:.1f} of {total / GIB:.1f} GiB free"
    if free < 2 * GIB:
        return "warn", f"{text}; the quickstart wants 2: close programs"
    return "ok", text


def _cgroup_limit() -> int | None:
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        path = pathlib.Path("/sys/fs/cgroup") / name
        try:
            text = path.read_text().strip()
        except OSError:
            continue
        return int(text) if text.isdigit() and int(text) < 1 << 60 else None
    return None


def _disk(workdir: pathlib.Path) -> tuple[str, str]:
    place = workdir.resolve()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    text = f"{free / GIB:.1f} GiB free at {place}"
    if not os.access(place, os.W_OK):
        return "FIX", f"{place} cannot be written: choose another --workdir"
    return ("warn", f"{text}; runs keep several checkpoints") if free < 2 * GIB else ("ok", text)


def _cache() -> tuple[str, str]:
    """Whether compiled steps can be kept for the next start."""
    from seqgen.training.compilation import cache_directory

    place = cache_directory()
    try:
        place.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        return "warn", f"{place}: {error.strerror}; export SEQGEN_CACHE=DIR, or each start compiles"
    return "ok", f"{place} can be written"


def _extras() -> tuple[str, str]:
    """Optional packages: what each is for, and whether it is here."""
    purposes = {
        "torch": "parity tests: seqgen[parity]",
        "sacremoses": "Moses BLEU: seqgen[moses]",
        "pytest": "tests: seqgen[test]",
    }
    here, absent = [], []
    for name, purpose in purposes.items():
        try:
            here.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            absent.append(f"no {name} ({purpose})")
    return "ok", "; ".join([", ".join(here)] * bool(here) + absent)
