"""How much of a training step's time is waiting for data, with one core and with more.

    python benchmarks/data_wait.py --cpus=1,2 --config=FILE.py [--config.a.b=value ...]

A run is a process of `seqgen train`, bound to the first cores of this machine and ended after the
last step that is measured; rows of metrics.jsonl after the warm-up count. Batches are also made
alone, in this process: their CPU time is what a run without a spare core pays for its data, waiting
or not. Prints one JSON object. Options that are not listed here go to `seqgen train`.
"""

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

from seqgen import config, data
from seqgen.training.writers import read_rows

EVERY = 20  # steps between rows


def train(words: list[str], workdir: pathlib.Path, *, cpus: int, last_step: int) -> None:
    """Run `seqgen train` on so many cores until the row of `last_step` is written."""
    command = [sys.executable, "-m", "seqgen.cli.main", "train", *words, f"--workdir={workdir}"]
    for name, value in {
        "log_every_steps": EVERY,
        "eval_every_steps": 0,
        "checkpoint_every_steps": 0,
        "num_steps": 10 * last_step,
    }.items():
        command.append(f"--config.train.{name}={value}")
    cores = sorted(os.sched_getaffinity(0))[:cpus]
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores),
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith(f"train {last_step:,}/"):
                return
    finally:
        process.kill()
        process.wait()
    raise SystemExit(f"the training ended before step {last_step}; see {workdir}/train.log")


def make_alone(words: list[str], *, batches: int) -> float:
    """Milliseconds of CPU time that one batch takes, mean of many."""
    name, *overrides = words
    cfg = config.load(name.partition("=")[2], overrides)
    with tempfile.TemporaryDirectory() as folder:
        text = data.prepare(cfg.data, cfg.tokenizer, workdir=pathlib.Path(folder))
        stream = text.train_batches(0, seed=cfg.train.seed)
        next(stream)
        begun = time.process_time()
        for _ in range(batches):
            next(stream)
        seconds = time.process_time() - begun
        stream.close()
    return 1e3 * seconds / batches


def main() -> int:
    """Every number of cores in turn, round by round."""
    parser = argparse.ArgumentParser(description="The share of a step that waits for data")
    parser.add_argument("--steps", type=int, default=60, help="measured (default 60)")
    parser.add_argument("--warmup", type=int, default=40, help="steps before them (default 40)")
    parser.add_argument("--cpus", default="1,2", help="numbers of cores (default 1,2)")
    parser.add_argument("--rounds", type=int, default=3)
    arguments, words = parser.parse_known_args()
    if not words or not words[0].startswith("--config="):
        parser.error("the first option for seqgen train is --config=FILE.py")
    if arguments.warmup % EVERY or arguments.steps % EVERY:
        parser.error(f"--warmup and --steps are multiples of {EVERY}")
    last_step = arguments.warmup + arguments.steps
    runs = []
    for number in range(arguments.rounds):
        for cpus in map(int, arguments.cpus.split(",")):
            load = os.getloadavg()[0]
            with tempfile.TemporaryDirectory(prefix="seqgen-data-wait-") as folder:
                workdir = pathlib.Path(folder) / "run"
                train(words, workdir, cpus=cpus, last_step=last_step)
                rows = read_rows(workdir / "metrics.jsonl")
            rows = [row for row in rows if arguments.warmup < row["step"] <= last_step]
            names = ("step", "step_ms", "data_wait_ms", "data_wait")
            found = {
                "cpus": cpus,
                "load": round(load, 2),
                "step_ms": statistics.median(row["step_ms"] for row in rows),
                "data_wait": round(statistics.mean(row["data_wait"] for row in rows), 5),
                "rows": [{name: row[name] for name in names} for row in rows],
            }
            runs.append(found)
            print(f"round {number + 1}: {found}", file=sys.stderr)
    print(
        json.dumps(
            {
                "batch_cpu_ms": round(make_alone(words, batches=200), 3),
                "median_share": {
                    cpus: statistics.median(
                        run["data_wait"] for run in runs if run["cpus"] == int(cpus)
                    )
                    for cpus in arguments.cpus.split(",")
                },
                "runs": runs,
            },
            indent=1,
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
