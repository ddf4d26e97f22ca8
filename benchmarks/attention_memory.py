"""Memory and speed of the attention kernels: a decoder of 8 layers and 8 heads at length 8,192.

    python benchmarks/attention_memory.py                        # every part that has no result yet
    python benchmarks/attention_memory.py --parts speed curve    # these parts, again
    python benchmarks/attention_memory.py --report               # only rewrite the tables

Parts, each a key of `result.json` in the output folder:

* `agree`: losses of both kernels over some steps at length 1,024, dropout on.
* `curve`: temporary memory of the compiled training step against the length (nothing is run).
* `speed`: seconds of one attention layer with its gradient against the length: where to change.
* `plain`, `blocked`: 20 training steps at length 8,192 in a process of its own that may hold 8 GiB.

Every measurement is a child process, so that one cannot lean on what another left in memory.
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import resource
import subprocess
import sys
import time

from seqgen.benchmarking.page import Block, to_markdown

os.environ.setdefault("JAX_PLATFORMS", "cpu")

HERE = pathlib.Path(__file__).resolve().parent
PARTS = ("agree", "curve", "speed", "plain", "blocked")
KERNELS = ("plain", "blocked")
GIB = 2**30


def limit_memory(gib: float) -> None:
    """What the system refuses: private writable memory (heap and anonymous maps) beyond `gib`."""
    limit = int(gib * GIB)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def build_step(kernel: str, length: int, options: argparse.Namespace):
    """(step, first state, batch) of a framework model; `step(params, state, batch, key)`."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from seqgen.losses import vocabulary_loss
    from seqgen.models import ModelConfig, build_model
    from seqgen.models.config import TransformerDecoderConfig, TransformerEncoderConfig
    from seqgen.training.config import OptimizerConfig
    from seqgen.training.optimizer import build_optimizer
    from seqgen.training.parameter_groups import ParameterGroups
    from seqgen.types import Batch, Sequences

    shared = {
        "num_heads": options.heads,
        "ff_dim": 2 * options.width,
        "norm_position": "pre",
        "attention_kernel": kernel,
    }
    config = ModelConfig(
        embed_dim=options.width,
        encoder=TransformerEncoderConfig(num_layers=1, **shared),
        decoder=TransformerDecoderConfig(num_layers=options.layers, scan_layers=True, **shared),
    )
    vocab = 64
    definition = build_model(config, source_vocab_size=vocab, target_vocab_size=vocab)
    cfg, axes = OptimizerConfig(), definition.axes
    groups = ParameterGroups.of(definition.abstract, axes, cfg)
    optimizer = build_optimizer(cfg, num_steps=options.steps, axes=axes, groups=groups)
    rng = np.random.default_rng(0)

    def rows(width: int) -> Sequences:
        ids = rng.integers(4, vocab, (1, width)).astype(np.int32)
        return Sequences(ids, np.ones_like(ids), np.arange(width, dtype=np.int32)[None])

    target = rows(length)
    labels = np.roll(target.ids, -1, axis=1)
    batch = Batch(rows(32), target, labels, np.ones(labels.shape, np.float32))

    def loss(params, batch, key):
        model = definition.bind(params)
        kernel, bias = model.output_kernel()
        hidden = model(batch, key=key)
        sums = vocabulary_loss(hidden, kernel, bias, batch.labels, batch.weights)
        return sums.loss / length

    def step(params, state, batch, key):
        value, grads = jax.value_and_grad(loss)(params, batch, key)
        updates, state = optimizer.update(grads, state, params)
        return jax.tree.map(jnp.add, params, updates), state, value

    def init():
        params = definition.init(jax.random.key(0))
        return params, optimizer.init(params)

    return jax.jit(step, donate_argnums=(0, 1)), init, batch


def train(kernel: str, length: int, options: argparse.Namespace) -> dict:
    """Losses, seconds and the peak of resident memory of a short training."""
    from seqgen.nn.dropout import make_key

    step, init, batch = build_step(kernel, length, options)
    params, state = init()
    losses, seconds = [], []
    for number in range(options.steps):
        start = time.perf_counter()
        params, state, value = step(params, state, batch, make_key(0, step=number))
        losses.append(float(value))
        seconds.append(round(time.perf_counter() - start, 2))
        print(f"step {number + 1}: loss {losses[-1]:.6f}, {seconds[-1]} s", file=sys.stderr)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"losses": losses, "seconds": seconds, "peak_resident_bytes": peak}


def temporary_bytes(kernel: str, length: int, options: argparse.Namespace) -> dict:
    """Temporary memory of the compiled training step, and seconds to compile it."""
    import jax

    from seqgen.nn.dropout import make_key
    from seqgen.training.compilation import program_memory

    step, init, batch = build_step(kernel, length, options)
    params, state = jax.eval_shape(init)
    start = time.perf_counter()
    compiled = step.lower(params, state, batch, make_key(0, step=0)).compile()
    seconds = round(time.perf_counter() - start, 1)
    return {"temp_bytes": program_memory(compiled)[1], "compile_seconds": seconds}


def layer_seconds(kernel: str, length: int, options: argparse.Namespace) -> dict:
    """Best and median seconds of causal attention with its gradient, 8 heads of 64, one row."""
    import jax
    import numpy as np

    from seqgen.nn.attention_kernels import attention
    from seqgen.nn.attention_plain import KeyValues
    from seqgen.nn.masks import AttentionMask

    rng = np.random.default_rng(0)
    query, keys, values = (
        jax.device_put(rng.standard_normal((1, 8, length, 64), np.float32)) for _ in range(3)
    )

    @jax.jit
    @jax.grad
    def gradient(arrays):
        query, keys, values = arrays
        mask = AttentionMask(causal=True)
        return attention(query, KeyValues(keys, values), mask, implementation=kernel).sum()

    seconds = []
    for _ in range(options.repeats + 1):  # the first run compiles
        start = time.perf_counter()
        jax.block_until_ready(gradient((query, keys, values)))
        seconds.append(time.perf_counter() - start)
    seconds = sorted(seconds[1:])
    return {"min_seconds": seconds[0], "median_seconds": seconds[len(seconds) // 2]}


MEASURE = {"train": train, "memory": temporary_bytes, "speed": layer_seconds}


def in_child(what: str, kernel: str, length: int, options: argparse.Namespace, **extra) -> dict:
    """One measurement in a fresh process, and how it ended."""
    command = [sys.executable, __file__, "--child", what, kernel, str(length)]
    settings = {**vars(options), **extra}
    for name in ("layers", "heads", "width", "steps", "repeats", "gib"):
        if settings[name] is not None:
            command += [f"--{name}", str(settings[name])]
    ended = subprocess.run(command, capture_output=True, text=True)
    result = {"length": length, "kernel": kernel, "exit_code": ended.returncode}
    if ended.returncode == 0:
        return result | json.loads(ended.stdout.splitlines()[-1])
    return result | {"error": ended.stderr.strip().splitlines()[-1][:300]}


def measure(part: str, options: argparse.Namespace) -> list[dict]:
    """The rows of one part."""
    if part == "agree":
        few = {"steps": 3, "gib": None}
        return [in_child("train", kernel, 1024, options, **few) for kernel in KERNELS]
    if part == "curve":
        lengths = [512 * 2**n for n in range(6)]
        return [in_child("memory", k, n, options, gib=None) for n in lengths for k in KERNELS]
    if part == "speed":
        lengths = [128 * 2**n for n in range(6)]
        return [in_child("speed", k, n, options, gib=None) for n in lengths for k in KERNELS]
    return [in_child("train", part, options.length, options)]


def by_length(rows: list[dict], field: str) -> dict[int, list[float]]:
    """Length -> `field` of the plain and of the blocked kernel, where both have it."""
    lengths = sorted({row["length"] for row in rows})
    found = {
        length: [row[field] for row in rows if row["length"] == length and field in row]
        for length in lengths
    }
    return {length: values for length, values in found.items() if len(values) == len(KERNELS)}


def training_line(row: dict) -> str:
    """How one of the limited trainings went."""
    what = f"`{row['kernel']}` at length {row['length']:,}"
    if "error" in row:
        return f"- {what}: refused. `{row['error']}`"
    first, last, peak = row["losses"][0], row["losses"][-1], row["peak_resident_bytes"] / 2**20
    return (
        f"- {what}: {len(row['losses'])} steps, loss {first:.4f} to {last:.4f}, "
        f"{sorted(row['seconds'])[len(row['seconds']) // 2]} s a step (median), "
        f"peak resident memory {peak:,.0f} MiB."
    )


def sweep(title: str, rows: list[dict], field: str, scale: float, digits: int) -> list[Block]:
    """Both kernels side by side, by length, with their ratio."""
    lines: list[tuple[str, ...]] = [("length", *KERNELS, "plain / blocked")]
    for length, values in by_length(rows, field).items():
        shown = (f"{scale * value:,.{digits}f}" for value in values)
        lines.append((f"{length:,}", *shown, f"{values[0] / values[1]:.2f}"))
    return [Block("heading", title), Block("table", rows=tuple(lines))]


def report(results: dict) -> str:
    """README.md of the results folder."""
    blocks = [
        Block("heading", "Attention kernels: memory and speed", level=1),
        Block("code", "python benchmarks/attention_memory.py"),
    ]
    for entry in list(results.values())[:1]:
        machine = entry["machine"].partition(", load")[0]
        facts = f"{entry['date'][:10]}, {machine}, float32. Raw numbers: `result.json`."
        blocks.append(Block("text", facts))
    if "curve" in results:
        title = "Temporary memory of the training step (8 layers, 8 heads, one row), MiB"
        blocks += sweep(title, results["curve"]["rows"], "temp_bytes", 2**-20, 0)
    if "speed" in results:
        title = "One causal layer with its gradient (8 heads of 64, one row), median, ms"
        blocks += sweep(title, results["speed"]["rows"], "median_seconds", 1e3, 1)
    limited = [row for kernel in KERNELS if kernel in results for row in results[kernel]["rows"]]
    if limited:
        blocks.append(Block("heading", "Training in a process that may hold 8 GiB"))
        blocks.append(Block("text", "\n".join(training_line(row) for row in limited)))
    if "agree" in results:
        both = [row["losses"] for row in results["agree"]["rows"]]
        gap = max(abs(a - b) for a, b in zip(*both, strict=True))
        about = f"Losses of {len(both[0])} steps at length 1,024, dropout on: "
        blocks.append(Block("text", f"{about}they differ by {gap:.1e} at most."))
    return to_markdown(blocks)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="measure these, even again")
    parser.add_argument("--report", action="store_true", help="only rewrite README.md")
    parser.add_argument("--output", type=pathlib.Path, default=HERE / "results/attention_memory")
    parser.add_argument("--length", type=int, default=8192, help="of the limited trainings")
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--heads", type=int, default=8)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--gib", type=float, help="memory limit of a training (8 by default)")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure what is missing, part by part, and keep each as soon as it is there."""
    options = parse()
    if options.child is not None:
        if options.gib is not None:
            limit_memory(options.gib)
        what, kernel, length = options.child
        print(json.dumps(MEASURE[what](kernel, int(length), options)))
        return
    options.gib = 8.0 if options.gib is None else options.gib
    path = options.output / "result.json"
    options.output.mkdir(parents=True, exist_ok=True)
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    missing = [part for part in PARTS if part not in results]
    for part in [] if options.report else (options.parts or missing):
        results[part] = {
            "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "command": " ".join(["python benchmarks/attention_memory.py", *sys.argv[1:]]),
            "machine": f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]}",
            "limit_gib": options.gib if part in KERNELS else None,
            "rows": measure(part, options),
        }
        path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    ordered = {part: results[part] for part in PARTS if part in results}
    (options.output / "README.md").write_text(report(ordered), encoding="utf-8")


if __name__ == "__main__":
    main()
