"""What `seqgen train --malloc=tuned` saves a training step: page faults, CPU time, wall time.

    python benchmarks/allocator.py --config=configs/quickstart.py [--config.a.b=value ...]

Trains with the allocator's default and with `tuned` in turn, each time in a process of its own,
and reads what the kernel counts for it (proc(5), /proc/PID/stat: Linux alone) when the line of step
--warmup comes and when that of step --steps does. Prints one JSON object. With
`--config.data.num_buckets=1` no batch shape is compiled in between. Options that are not listed
here go to `seqgen train`.
"""

import argparse
import itertools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any

CHOICES = ("default", "tuned")


def read_counts(process_id: int) -> dict[str, float]:
    """Page faults and CPU seconds of a process since it began, and the time now."""
    fields = pathlib.Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    tick = os.sysconf("SC_CLK_TCK")
    return {
        "page_faults": int(fields[7]),  # minflt, the tenth field; the third is the first here
        "user_seconds": int(fields[11]) / tick,
        "system_seconds": int(fields[12]) / tick,
        "seconds": time.perf_counter(),
    }


def train(choice: str, words: list[str], *, warmup: int, steps: int) -> dict[str, Any]:
    """Counts a step between the lines of two steps; the training is ended then.

    Raises:
      SystemExit: it ended before, with its last words.
    """
    load = os.getloadavg()[0]
    found: list[dict[str, float]] = []
    talk: list[str] = []
    with tempfile.TemporaryDirectory(prefix="seqgen-allocator-") as folder:
        command = [sys.executable, "-m", "seqgen.cli.main", "train", f"--malloc={choice}", *words]
        command += ["--config.train.log_every_steps=1", f"--workdir={folder}/run"]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            assert process.stderr is not None
            for line in process.stderr:
                talk.append(line)
                if line.startswith((f"train {warmup:,}/", f"train {steps:,}/")):
                    found.append(read_counts(process.pid))
                if len(found) == 2:
                    break
            else:
                raise SystemExit("".join(talk[-5:]))
        finally:
            process.kill()
            process.wait()
    first, last = found
    counts = {name: round((last[name] - first[name]) / (steps - warmup), 4) for name in first}
    return {"malloc": choice, "load": round(load, 2), **counts}


def main() -> int:
    """Both in turn, round by round."""
    parser = argparse.ArgumentParser(description="A training step with and without --malloc=tuned")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warmup", type=int, default=10, help="steps before counting")
    parser.add_argument("--steps", type=int, default=40, help="the step that ends it")
    arguments, words = parser.parse_known_args()
    runs = []
    for _, choice in itertools.product(range(arguments.rounds), CHOICES):
        runs.append(train(choice, words, warmup=arguments.warmup, steps=arguments.steps))
        print(runs[-1], file=sys.stderr)
    names = ("page_faults", "user_seconds", "system_seconds", "seconds")
    medians = {
        choice: {
            name: round(statistics.median(r[name] for r in runs if r["malloc"] == choice), 4)
            for name in names
        }
        for choice in CHOICES
    }
    print(
        json.dumps(
            {"cpus": len(os.sched_getaffinity(0)), "a step": medians, "runs": runs}, indent=1
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
