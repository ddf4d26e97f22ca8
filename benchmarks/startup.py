"""How long `seqgen train` takes from its start to the end of its first step, cold and warm.

    python benchmarks/startup.py --config=configs/quickstart.py [--config.a.b=value ...]

The first start finds empty caches (prepared data, tokenizer, compiled programs); each further one
is a new run of the same config with what the starts before it left there. Every start is a process
of its own, ended once the line of step 1 has come. Prints one JSON object: seconds and CPU seconds
of each start, and when each line of its talk came. Options that are not listed here go to
`seqgen train`.
"""

import argparse
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any


def start(words: list[str], workdir: pathlib.Path, cache: pathlib.Path) -> dict[str, Any]:
    """Start a training, wait for its first step, end it.

    Raises:
      SystemExit: it ended before, with its last words.
    """
    command = [sys.executable, "-m", "seqgen.cli.main", "train", *words]
    command += ["--config.train.log_every_steps=1", f"--workdir={workdir}"]
    talk: list[tuple[float, str]] = []
    load, used, begun = os.getloadavg()[0], cpu_of_children(), time.perf_counter()
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, "SEQGEN_CACHE": str(cache)}
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            seconds = round(time.perf_counter() - begun, 3)
            talk.append((seconds, line.strip().replace(str(cache), "CACHE")))
            if line.startswith("train 1/"):
                break
        else:
            raise SystemExit("\n".join(text for _, text in talk[-5:]))
    finally:
        process.kill()
        process.wait()
    cpu = round(cpu_of_children() - used, 3)
    return {"seconds": seconds, "cpu_seconds": cpu, "load": round(load, 2), "talk": talk}


def cpu_of_children() -> float:
    """CPU seconds of all processes that were started here and have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> int:
    """One cold start, then the warm ones."""
    parser = argparse.ArgumentParser(description="From the start to the first step, cold and warm")
    parser.add_argument("--rounds", type=int, default=3, help="warm starts (default 3)")
    parser.add_argument(
        "--cache", type=pathlib.Path, help="keep the caches there; no cold start if there are any"
    )
    arguments, words = parser.parse_known_args()
    with tempfile.TemporaryDirectory(prefix="seqgen-startup-") as folder:
        place = pathlib.Path(folder)
        cache = arguments.cache or place / "cache"
        cold = not cache.is_dir() or not any(cache.iterdir())
        starts = []
        for number in range(cold + arguments.rounds):
            starts.append(start(words, place / str(number), cache))
            kind = "cold" if cold and not number else "warm"
            print(f"{kind} start: {starts[-1]['seconds']:.2f} s", file=sys.stderr)
    warm = starts[cold:]
    medians = {
        f"warm_median_{name}": statistics.median(found[name] for found in warm)
        for name in ("seconds", "cpu_seconds")
    }
    facts = {"cpus": len(os.sched_getaffinity(0)), **medians}
    print(json.dumps({**facts, "cold": starts[0] if cold else None, "warm": warm}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
