"""Where the time of a training step goes: matrix products, and what is not a product.

    python benchmarks/step_profile.py [--model transformer-small] [--dtype bfloat16]

The model is one of `benchmarks/peers`, on random ids (204 rows of 17 source and 20 target tokens;
a GPT has its own shape). A few steps are traced by the profiler; each instruction of the compiled
program is put into a group by what it computes. Its time is that of the thread that runs it, which
works or waits for the others that help; several instructions may run at a time, so that all times
together may be more than the step takes. Writes result.json and README.md to `--output`, a row a
model.
"""

import argparse
import collections
import datetime
import glob
import json
import os
import pathlib
import platform
import re
import statistics
import sys
import tempfile
import time
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "peers"))

import train_seqgen  # noqa: E402
import work  # noqa: E402

from seqgen.benchmarking import machine  # noqa: E402
from seqgen.benchmarking.page import Block, to_markdown  # noqa: E402
from seqgen.training.compilation import CompileReport  # noqa: E402
from seqgen.types import NUM_CONTROL_IDS, Batch  # noqa: E402

ROWS, SOURCE_LEN, TARGET_LEN = 204, 17, 20
GROUPS = {
    "products of dense layers": "forward, input and kernel gradients",
    "loops": "vocabulary loss by chunks, recurrences over time, attention by slices",
    "products of attention": "scores, mixtures and their gradients",
    "transposes and copies": "layouts that products ask for",
    "reductions": "of normalisation, softmax, biases, gradient norm",
    "elementwise": "residual sums, activations, dropout, conversions, optimiser",
    "gather and scatter": "embeddings and their gradient",
}
STEPS = 3


def make_step(name: str, dtype: str) -> tuple[Any, Any, Batch, list[Any], list[CompileReport]]:
    """(step, state, batch, programs, reports); the last two grow as shapes are compiled."""
    programs: list[Any] = []
    reports: list[CompileReport] = []
    compile_lowered = jax.stages.Lowered.compile

    def keep(self: Any, *args: Any, **options: Any) -> Any:
        programs.append(compile_lowered(self, *args, **options))
        return programs[-1]

    jax.stages.Lowered.compile = keep
    setup = train_seqgen.make_setup(name, dtype=dtype)
    step = setup.make_step(report=reports.append)
    return step, setup.init(), make_batch(name), programs, reports


def make_batch(name: str) -> Batch:
    """Full rows of random ids."""
    _, vocab = train_seqgen.model_config(name)
    rng = np.random.default_rng(0)
    gpt = name in work.GPT_SHAPES
    rows, length = work.GPT_SHAPES[name] if gpt else (ROWS, TARGET_LEN)

    def sequences(width: int) -> Any:
        ids = rng.integers(0 if gpt else NUM_CONTROL_IDS, vocab, (rows, width)).astype(np.int32)
        return train_seqgen.to_rows(ids, np.ones(ids.shape, bool))

    target = sequences(length)
    weights = np.ones((rows, length), np.float32)
    labels = np.roll(target.ids, -1, axis=1)
    return Batch(None if gpt else sequences(SOURCE_LEN), target, labels, weights)


def group_of(name: str, text: str) -> str:
    """The group of an instruction, by its name and its line of the compiled program."""
    origin = re.search(r'op_name="([^"]*)"', text)
    path = origin[1] if origin else ""
    shape = re.search(r"= \(?\w+\[([\d,]*)\]", text)
    rank = len(shape[1].split(",")) if shape else 0
    if "/while/body" in path:
        return "loops"
    if path.endswith("dot_general"):
        return "products of attention" if rank > 3 else "products of dense layers"
    if any(word in name or word in path.rpartition("/")[2] for word in ("gather", "scatter")):
        return "gather and scatter"
    if any(word in name for word in ("transpose", "copy")):
        return "transposes and copies"
    if "reduce" in name or path.endswith(("reduce_sum", "reduce_max")):
        return "reductions"
    return "elementwise"


def self_times(trace: str) -> collections.Counter[str]:
    """Nanoseconds of every event, less those of the events inside it on the same thread."""
    from jax.profiler import ProfileData

    own: collections.Counter[str] = collections.Counter()
    for plane in ProfileData.from_file(trace).planes:
        for line in plane.lines:
            inside: list[tuple[float, str]] = []
            events = sorted((e.start_ns, -e.duration_ns, e.name) for e in line.events)
            for start, minus, name in events:
                while inside and inside[-1][0] <= start:
                    inside.pop()
                if inside:
                    own[inside[-1][1]] += minus
                own[name] -= minus
                inside.append((start - minus, name))
    return own


def profile(name: str, dtype: str) -> dict[str, Any]:
    """One model's row."""
    step, state, batch, programs, reports = make_step(name, dtype)
    metrics: dict[str, Any] = {}
    seconds = []
    for _ in range(10):
        start = time.perf_counter()
        state, metrics = step(state, [batch])
        float(metrics["loss"])
        seconds.append(time.perf_counter() - start)
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(STEPS):
                state, metrics = step(state, [batch])
                float(metrics["loss"])
        own = self_times(glob.glob(f"{folder}/**/*.xplane.pb", recursive=True)[0])
    program = max((p.as_text() for p in programs), key=len)
    lines = {m[1]: m[0] for m in re.finditer(r"^ *(?:ROOT )?%?([\w.-]+) = .*$", program, re.M)}
    groups: collections.Counter[str] = collections.Counter()
    for event, spent in own.items():
        if event in lines and not event.startswith(("while", "call", "conditional")):
            groups[group_of(event, lines[event])] += spent
    step_ms = 1e3 * statistics.median(seconds[3:])
    found = {group: groups[group] / STEPS / 1e6 for group in GROUPS if groups[group]}
    return {
        "model": name,
        "dtype": dtype,
        "step_ms": step_ms,
        "flops": reports[0].flops,
        "product_rate": machine.measure_gemm(dtype, repeats=5)["flops_per_second"],
        "groups_ms": found,
    }


def page(result: dict[str, Any]) -> str:
    """README.md of the results folder."""
    blocks = [
        Block("heading", "Where the time of a training step goes", level=1),
        Block("code", "python benchmarks/step_profile.py --model=MODEL"),
        Block("text", "Raw numbers: `result.json`."),
    ]
    for row in result["rows"]:
        rate, flops = row["product_rate"], row["flops"]
        about = (
            f"{row['date']}, {row['machine']}. A step takes {row['step_ms']:.0f} ms (median of 7) "
            f"and multiplies {flops / 1e9:,.0f} GFLOP; at the rate of the best square product "
            f"here, {rate / 1e9:,.0f} GFLOP/s, these need {1e3 * flops / rate:.0f} ms, "
            f"{1e5 * flops / rate / row['step_ms']:.0f} % of the step."
        )
        lines = [("part", "ms", "share", "what it is")]
        for group, spent in sorted(row["groups_ms"].items(), key=lambda item: -item[1]):
            share = spent / sum(row["groups_ms"].values())
            lines.append((group, f"{spent:.1f}", f"{share:.0%}", GROUPS[group]))
        blocks += [
            Block("heading", f"{row['model']}, {row['dtype']}"),
            Block("text", about),
            Block("table", rows=tuple(lines)),
        ]
    return to_markdown(blocks)


def main() -> None:
    """Profile one model and add its row."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=train_seqgen.MODELS, default="transformer-small")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--output", type=pathlib.Path, default=HERE / "results/step_profile")
    options = parser.parse_args()
    row = profile(options.model, options.dtype)
    path = options.output / "result.json"
    options.output.mkdir(parents=True, exist_ok=True)
    result = json.loads(path.read_text()) if path.exists() else {"rows": []}
    others = [
        old
        for old in result["rows"]
        if (old["model"], old["dtype"]) != (options.model, options.dtype)
    ]
    row |= {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, jax {jax.__version__}",
    }
    result["rows"] = [*others, row]
    path.write_text(json.dumps(result, indent=1) + "\n")
    (options.output / "README.md").write_text(page(result), encoding="utf-8")


if __name__ == "__main__":
    main()
