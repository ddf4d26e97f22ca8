"""Does a training in bfloat16 products lose quality against float32? Seeds in pairs on Multi30k.

    python benchmarks/dtype_quality.py --data=DIR --runs=runs/dtype_quality

Each run is `seqgen train` with the Transformer tiny recipe and differs from its twin in
`train.compute_dtype` alone; the same command goes on where it was stopped. All are scored alike, in
float32: loss of the whole val split, and BLEU of test_2016_flickr with beam 5 and the last
checkpoint, whose difference is bootstrapped over the same sentences for both. Writes result.json
and README.md to `--output`.
"""

import argparse
import dataclasses
import datetime
import json
import os
import pathlib
import platform
import shlex
import statistics
import sys

import jax

from seqgen import config, experiment, run_evaluation
from seqgen.benchmarking.page import Block, to_markdown
from seqgen.evaluation.significance import paired_bootstrap
from seqgen.training.writers import read_rows

HERE = pathlib.Path(__file__).resolve().parent
CONFIG = "configs/translation/transformer_tiny.py"
DTYPES = ("float32", "bfloat16")
LIMIT_PERCENT = 0.5


def train(dtype: str, seed: int, options: argparse.Namespace) -> pathlib.Path:
    """The run directory of a finished training."""
    workdir = options.runs / f"{dtype}-{seed}"
    settings = {
        "data.dir": options.data,
        "train.num_steps": options.steps,
        "train.seed": seed,
        "train.compute_dtype": dtype,
        "train.eval_every_steps": options.steps,
        "train.checkpoint_every_steps": options.steps // 5,
        "train.best_metric": "eval/loss",
    }
    words = [f"--config.{name}={value}" for name, value in settings.items()]
    experiment.train(config.load(CONFIG, words), workdir, overrides=words)
    return workdir


def measure(options: argparse.Namespace) -> dict:
    """Losses of all runs, and BLEU differences a seed."""
    losses: dict[str, list[float]] = {dtype: [] for dtype in DTYPES}
    comparisons = []
    for seed in options.seeds:
        texts, references = {}, []
        for dtype in DTYPES:
            workdir = train(dtype, seed, options)
            # The last evaluation is of the whole val split, in float32 however a run was trained.
            losses[dtype].append(read_rows(workdir / "metrics.jsonl")[-1]["eval/loss"])
            _, examples, texts[dtype] = run_evaluation.evaluate(
                workdir, split=options.test, checkpoint="last", overrides={"num_beams": 5}
            )
            references = [example["target"] for example in examples]
        compared = paired_bootstrap(texts["float32"], texts["bfloat16"], references)
        comparisons.append({"seed": seed, **dataclasses.asdict(compared)})
        print(f"seed {seed}: {losses}", file=sys.stderr)
    means = {dtype: statistics.mean(values) for dtype, values in losses.items()}
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "command": shlex.join(["python", "benchmarks/dtype_quality.py", *sys.argv[1:]]),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, jax {jax.__version__}",
        "steps": options.steps,
        "seeds": list(options.seeds),
        "validation_loss": losses,
        "mean_validation_loss": means,
        "difference_percent": 100 * (means["bfloat16"] / means["float32"] - 1),
        "bleu": comparisons,
    }


def page(result: dict) -> str:
    """README.md of the results folder."""
    means, change = result["mean_validation_loss"], result["difference_percent"]
    verdict = "holds" if change <= LIMIT_PERCENT else "MISSED"
    head = (
        "seed",
        *("val loss float32", "val loss bfloat16", "BLEU float32", "BLEU bfloat16"),
        *("difference", "interval", "p"),
    )
    table: list[tuple[str, ...]] = [head]
    for place, row in enumerate(result["bleu"]):
        difference = row["difference"]
        table.append(
            (
                str(row["seed"]),
                *(f"{result['validation_loss'][dtype][place]:.4f}" for dtype in DTYPES),
                *(f"{row[name]['score']:.2f}" for name in ("a", "b")),
                f"{difference['score']:+.2f}",
                f"{difference['low']:+.2f} to {difference['high']:+.2f}",
                f"{row['p_value']:.3f}",
            )
        )
    about = (
        f"Transformer tiny on Multi30k, {result['steps']:,} updates, "
        f"seeds {', '.join(map(str, result['seeds']))}; {result['date']}, {result['machine']}. "
        "Scored in float32, beam 5, last checkpoint. BLEU is sacrebleu's on test_2016_flickr; the "
        "interval is the middle 95 % of a paired bootstrap over its sentences."
    )
    found = (
        f"Mean validation loss: {means['float32']:.4f} and {means['bfloat16']:.4f}, "
        f"{change:+.2f} % (limit {LIMIT_PERCENT} %: {verdict}). Raw numbers: `result.json`."
    )
    return to_markdown(
        [
            Block("heading", "Quality of bfloat16 products", level=1),
            Block("text", about),
            Block("table", rows=tuple(table)),
            Block("text", found),
            Block("code", result["command"]),
        ]
    )


def main() -> None:
    """Train, score and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=pathlib.Path, required=True, help="Multi30k")
    parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs/dtype_quality"))
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument(
        "--seeds", type=lambda text: [int(word) for word in text.split(",")], default=[0, 1, 2]
    )
    parser.add_argument("--test", default="test_2016_flickr", help="split that BLEU is taken on")
    parser.add_argument("--output", type=pathlib.Path, default=HERE / "results/dtype_quality")
    options = parser.parse_args()
    result = measure(options)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    (options.output / "README.md").write_text(page(result), encoding="utf-8")


if __name__ == "__main__":
    main()
