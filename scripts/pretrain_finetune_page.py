"""The page of scripts/pretrain_finetune.py, out of what it measured."""

import statistics
from collections.abc import Mapping
from typing import Any

from seqgen.benchmarking.page import Block, to_markdown

PRETRAINED, SCRATCH, LONGER = "pre-trained", "from scratch", "from scratch, in the whole time"


def page(result: Mapping[str, Any]) -> str:
    """README.md of the results folder."""
    first: list[tuple[str, ...]] = [("pre-trained", "recipe", "steps", "min", "val loss")]
    for part, row in result["pretraining"].items():
        cells = (f"{row['steps']:,}", f"{row['seconds'] / 60:.1f}", f"{row['loss']:.4f}")
        first.append((part, f"`{row['recipe']}`", *cells))
    sizes = (f"{name} {row['bytes'] / 1e6:.1f} MB" for name, row in result["text"].items())
    about = (
        f"{result['date']}, {result['machine']}. Twins have the same vocabulary, sizes, data, "
        "steps and seed; what is pre-trained learns slower where its recipe says so. Times are "
        "those of the steps alone, without compilation and evaluation; pre-training is counted "
        "whole for each task. Scores are of the val split, which also chose the checkpoint."
    )
    title = "Pre-training, then fine-tuning, against training from scratch"
    return to_markdown(
        [
            Block("heading", title, level=1),
            Block("text", about),
            Block("text", f"Text of the pre-training: {', '.join(sizes)}."),
            Block("table", rows=tuple(first)),
            *(block for task in result["tasks"] for block in task_blocks(task)),
            Block("text", "Scores of every run, intervals and learning curves: `result.json`."),
            Block("code", result["command"]),
        ]
    )


def task_blocks(result: Mapping[str, Any]) -> list[Block]:
    """A task's part of the page."""
    score, less, spent = result["score"], result["less_is_better"], result["pretraining_seconds"]
    table: list[tuple[str, ...]] = [
        ("", f"{score}, mean", "each seed", "steps", "training min", "with pre-training min")
    ]
    for arm, found in result["arms"].items():
        values = [run["scores"][score] for run in found]
        alone = statistics.mean(run["seconds"] for run in found)
        whole = alone + (spent if arm == PRETRAINED else 0)
        table.append(
            (
                arm,
                f"{statistics.mean(values):.4g}",
                ", ".join(f"{value:.4g}" for value in values),
                f"{found[0]['steps']:,}",
                f"{alone / 60:.1f}",
                f"{whole / 60:.1f}",
            )
        )
    pairs = list(zip(result["arms"][PRETRAINED], result["arms"][SCRATCH], strict=True))
    gains = [(a["scores"][score] - b["scores"][score]) * (-1 if less else 1) for a, b in pairs]
    text = (
        f"`{result['recipe']}` on {result['corpus']}. The pre-trained twin is better with "
        f"{sum(gain > 0 for gain in gains)} of {len(gains)} seeds "
        f"({'less' if less else 'more'} is better). {_reached(caught_up(result), spent)}"
    )
    return [
        Block("heading", result["task"]),
        Block("text", text),
        Block("table", rows=tuple(table)),
    ]


def caught_up(result: Mapping[str, Any]) -> list[float | None]:
    """Seconds of fine-tuning until a loss is the best of the twin from scratch; None = never."""
    found: list[float | None] = []
    for fine, plain in zip(result["arms"][PRETRAINED], result["arms"][SCRATCH], strict=True):
        best = min(point["loss"] for point in plain["curve"])
        reached = [point["seconds"] for point in fine["curve"] if point["loss"] <= best]
        found.append(min(reached, default=None))
    return found


def _reached(seconds: list[float | None], spent: float) -> str:
    times = [value for value in seconds if value is not None]
    if len(times) < len(seconds):
        return f"It reached the best loss of the other with {len(times)} of {len(seconds)} seeds."
    alone = statistics.mean(times)
    return (
        f"It reached the best loss of the other after {alone / 60:.1f} min of fine-tuning, "
        f"{(alone + spent) / 60:.1f} with pre-training."
    )
