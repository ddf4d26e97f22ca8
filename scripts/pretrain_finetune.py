"""Does it pay to pre-train? Fine-tuning against training from scratch, quality and time.

    python scripts/pretrain_finetune.py --data=../shared/data --runs=runs/pretrain_finetune

Pre-trains BERT (masked tokens and next sentences) and GPT on the text of
scripts/pretraining_text.py, once. Then each task is learnt with every seed by twins that have the
same vocabulary, sizes, data and steps: one begins with the pre-trained parameters, one is random.
With --equal_time a third one is random, too, and goes on for as long as pre-training and
fine-tuning took together. All is `seqgen train`: the same command goes on where it was stopped, and
what is finished and scored is read. Writes result.json and README.md to --output.
"""

import argparse
import dataclasses
import datetime
import json
import math
import os
import platform
import shlex
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from seqgen import config, experiment
from seqgen.benchmarking.curves import make_curve
from seqgen.run_evaluation import evaluate
from seqgen.training.run_directory import write_atomically
from seqgen.training.writers import read_rows, total_step_seconds

sys.path.insert(0, str(Path(__file__).resolve().parent))
from pretrain_finetune_page import LONGER, PRETRAINED, SCRATCH, page
from pretraining_text import write_text

ROOT = Path(__file__).resolve().parent.parent
PARTS = {"bert": "masked_lm/bert_small", "gpt": "language_model/wikitext2_gpt"}
SIDES = {"bert": ("encoder",), "gpt": ("decoder",)}
SPOKEN = {"model.decoder.positions": "learned", "model.scale_embeddings": "false"}

Settings = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Task:
    """What both twins learn.

    Attributes:
      recipe: config, below configs/.
      corpus: directory, below --data.
      parts: pre-trained runs that the model is made of.
      settings: of both.
      pretrained, scratch: of one of them; '{runs}' in them is the directory of all runs.
      score: of a finished run, by name.
      headline: the score that tells, and whether less of it is better.
    """

    recipe: str
    corpus: str
    parts: tuple[str, ...]
    settings: Settings
    pretrained: Settings
    scratch: Settings
    score: Callable[[Path], dict[str, Any]]
    headline: tuple[str, bool]


def reply_perplexity(workdir: Path) -> dict[str, Any]:
    """Of the replies of the val split, by the best evaluation of the training."""
    loss = min(row["eval/loss"] for row in read_rows(workdir / "metrics.jsonl") if _scored(row))
    return {"perplexity": math.exp(loss), "loss": loss}


def rouge(workdir: Path) -> dict[str, Any]:
    """ROUGE of greedy answers to the val split with 95 % intervals, by the best checkpoint."""
    names = ("rouge1", "rouge2", "rougeL")
    report, _, _ = evaluate(workdir, split="val", overrides={"num_beams": 1}, metrics=names)
    return {name: report[name] for name in names} | {"intervals": report["intervals"]}


def label_f1(workdir: Path) -> dict[str, Any]:
    """F1 and accuracy of the labels told to the val split, by the best checkpoint."""
    report, _, _ = evaluate(workdir, split="val")
    return {name: report[name] for name in ("macro_f1", "accuracy", "f1")}


def _dialogue(recipe: str, corpus: str) -> Task:
    return Task(
        recipe=f"dialogue/{recipe}",
        corpus=corpus,
        parts=("gpt",),
        settings=SPOKEN,
        pretrained={"init.runs": "{runs}/gpt", "init.fresh": r"target_embedding/table\[.*\]"},
        scratch={},
        score=reply_perplexity,
        headline=("perplexity", True),
    )


TASKS = {
    "topical_chat": _dialogue("topical_chat_gpt", "topical_chat"),
    "coffee": _dialogue("coffee_gpt", "taskmaster4_coffee"),
    "synopsis": Task(
        recipe="summarisation/debian_synopsis_warm",
        corpus="debian_synopsis",
        parts=("bert", "gpt"),
        settings={},
        pretrained={"init.runs": "bert={runs}/bert,gpt={runs}/gpt"},
        scratch=dict.fromkeys(("init.runs", "init.map", "init.fresh", "optimizer.groups"), "()"),
        score=rouge,
        headline=("rougeL", False),
    ),
    "toxicity": Task(
        recipe="classification/toxicity",
        corpus="toxicity_davidson",
        parts=("bert",),
        settings={},
        pretrained={
            "init.runs": "{runs}/bert",
            "init.fresh": "head/.*",
            "optimizer.layer_decay": 0.8,
        },
        scratch={},
        score=label_f1,
        headline=("macro_f1", False),
    ),
}


def geometry(options: argparse.Namespace, sides: Sequence[str]) -> dict[str, Any]:
    """Sizes that all models share."""
    stack = {
        "num_layers": options.layers,
        "num_heads": options.heads,
        "ff_dim": 4 * options.width,
        "max_positions": options.block_len,
    }
    sizes = {f"model.{side}.{name}": value for side in sides for name, value in stack.items()}
    return {"model.embed_dim": options.width, **sizes}


def pace(steps: int) -> dict[str, Any]:
    """A training of `steps` updates, evaluated and saved ten times."""
    return {
        "train.num_steps": steps,
        "optimizer.warmup_steps": max(1, steps // 10),
        "train.eval_every_steps": max(1, steps // 10),
        "train.checkpoint_every_steps": max(1, steps // 10),
        "train.log_every_steps": max(1, min(50, steps // 10)),
        "train.best_metric": "eval/loss",
        "evaluation.metrics": "()",
        "evaluation.max_examples": 0,
        "evaluation.num_samples": 0,
    }


def train(recipe: str, workdir: Path, settings: Settings, options: argparse.Namespace) -> None:
    """Train to `train.num_steps`, or go on, or do nothing if `workdir` is there already.

    Raises:
      SystemExit: it was stopped by a signal.
    """
    path = workdir / "STATUS"
    status = json.loads(path.read_text()) if path.exists() else {}
    if (status.get("state"), status.get("step")) == ("finished", settings["train.num_steps"]):
        return
    print(f"training {workdir.name}", file=sys.stderr)
    settings = {**settings, **dict(word.split("=", 1) for word in options.set)}
    words = [f"--config.{name}={value}" for name, value in settings.items()]
    cfg = config.load(str(ROOT / f"configs/{recipe}.py"), words)
    outcome = experiment.train(cfg, workdir, overrides=words)
    if outcome.status != "finished":
        raise SystemExit(f"{workdir.name}: {outcome.status}; the same command goes on")


def pretrain(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """The parts that the tasks need, and BERT, whose vocabulary all have."""
    rows = max(1, options.batch_tokens // options.block_len)
    found = {}
    needed = {"bert", *(part for name in options.tasks for part in TASKS[name].parts)}
    for part, recipe in PARTS.items():
        if part not in needed:
            continue
        vocabulary = (
            {"tokenizer.vocab_size": options.vocab_size}
            if part == "bert"
            else {"tokenizer.kind": "run", "tokenizer.path": options.runs / "bert"}
        )
        settings = {
            "data.dir": options.runs / "text",
            "data.block_len": options.block_len,
            "data.num_rows": rows,
            **vocabulary,
            **geometry(options, SIDES[part]),
            **pace(options.pretrain_steps),
        }
        train(recipe, options.runs / part, settings, options)
        logged = read_rows(options.runs / part / "metrics.jsonl")
        found[part] = {
            "recipe": recipe,
            "steps": options.pretrain_steps,
            "seconds": total_step_seconds(logged),
            "loss": min(row["eval/loss"] for row in logged if _scored(row)),
        }
    return found


def learn(
    name: str, arm: str, seed: int, steps: int, options: argparse.Namespace
) -> dict[str, Any]:
    """One training of a task, its scores and times."""
    task = TASKS[name]
    sides = [side for part in task.parts for side in SIDES[part]]
    longest = options.block_len
    source, target = (longest - 2, min(48, longest))  # a classifier's rows have BOS and EOS, too
    if "encoder" not in sides:  # both stand in one row
        source, target = (longest * 5 // 8, longest * 3 // 8)
    lengths = {"data.max_source_len": source, "data.max_target_len": target}
    own = task.pretrained if arm == PRETRAINED else task.scratch
    settings = {
        "data.dir": options.data / task.corpus,
        "data.tokens_per_batch": options.batch_tokens,
        **lengths,
        "tokenizer.kind": "run",
        "tokenizer.path": options.runs / "bert",
        **geometry(options, sides),
        **pace(steps),
        **task.settings,
        **{key: str(value).replace("{runs}", str(options.runs)) for key, value in own.items()},
        "train.seed": seed,
    }
    workdir = options.runs / f"{name}-{arm.replace(', ', '-').replace(' ', '-')}-{seed}"
    train(task.recipe, workdir, settings, options)
    kept = workdir / f"scores-{steps}.json"
    if not kept.exists():
        write_atomically(kept, json.dumps(task.score(workdir)))
    logged = read_rows(workdir / "metrics.jsonl")
    seconds = total_step_seconds(logged)
    return {
        "seed": seed,
        "steps": steps,
        "seconds": seconds,
        "scores": json.loads(kept.read_text()),
        "curve": make_curve(logged, score="loss", flops_per_token=0, step_seconds=seconds / steps),
    }


def compare(name: str, before: Mapping[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """All arms of a task, seeds in pairs."""
    task = TASKS[name]
    spent = sum(before[part]["seconds"] for part in task.parts)
    arms: dict[str, list[dict[str, Any]]] = {PRETRAINED: [], SCRATCH: []}
    for seed in options.seeds:
        for arm, found in arms.items():
            found.append(learn(name, arm, seed, options.steps, options))
    if options.equal_time:
        plan = options.runs / f"{name}-steps.json"
        if not plan.exists():
            alone = statistics.mean(run["seconds"] for run in arms[SCRATCH])
            write_atomically(plan, json.dumps(round(options.steps * (1 + spent / alone))))
        steps = json.loads(plan.read_text())
        arms[LONGER] = [learn(name, LONGER, seed, steps, options) for seed in options.seeds]
    score, less = task.headline
    return {
        "task": name,
        "recipe": task.recipe,
        "corpus": task.corpus,
        "score": score,
        "less_is_better": less,
        "pretraining_seconds": spent,
        "arms": arms,
    }


def _scored(row: Mapping[str, Any]) -> bool:
    return row.get("eval/loss") is not None


def arguments() -> argparse.ArgumentParser:
    """What may be said on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="directory of the corpora")
    parser.add_argument("--runs", type=Path, default=Path("runs/pretrain_finetune"))
    parser.add_argument(
        "--output", type=Path, default=ROOT / "benchmarks/results/pretrain_finetune"
    )
    parser.add_argument("--tasks", type=lambda text: text.split(","), default=list(TASKS))
    parser.add_argument(
        "--seeds", type=lambda text: [int(word) for word in text.split(",")], default=[0, 1, 2]
    )
    parser.add_argument("--pretrain_steps", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=2_000, help="of each task")
    parser.add_argument("--equal_time", action="store_true", help="the third twin, too")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--vocab_size", type=int, default=8_000)
    parser.add_argument("--block_len", type=int, default=256, help="tokens that a model sees")
    parser.add_argument("--batch_tokens", type=int, default=4_096)
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="config of all trainings"
    )
    return parser


def main(words: Sequence[str] | None = None) -> None:
    """Train, score and write."""
    options = arguments().parse_args(words)
    options.runs = options.runs.resolve()
    options.runs.mkdir(parents=True, exist_ok=True)
    text = write_text(options.data, options.runs / "text")
    before = pretrain(options)
    result = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "command": shlex.join(["python", "scripts/pretrain_finetune.py", *(words or sys.argv[1:])]),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, jax {jax.__version__}",
        "text": text,
        "pretraining": before,
        "tasks": [compare(name, before, options) for name in options.tasks],
    }
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    (options.output / "README.md").write_text(page(result), encoding="utf-8")


if __name__ == "__main__":
    main()
