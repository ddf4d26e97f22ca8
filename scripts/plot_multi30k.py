"""Draw what `scripts/multi30k.py report` wrote: learning curves, and BLEU by sentence length.

    pip install -e '.[plots]'
    python scripts/plot_multi30k.py benchmarks/results/multi30k

Reads `<model>.csv` and `<model>.json` in the folder and writes `curves.svg` and `by_length.svg`
beside them.
"""

import argparse
import csv
import json
import pathlib
from typing import Any

import matplotlib.pyplot as plt


def read_reports(folder: pathlib.Path) -> list[dict[str, Any]]:
    """The JSON reports in the folder, the highest test BLEU first."""
    reports = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")]
    return sorted(reports, key=lambda report: -report["test"]["bleu"])


def column(path: pathlib.Path, name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one column of a curve, where it has values."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row[name]]
    return [int(row["step"]) for row in rows], [float(row[name]) for row in rows]


def draw_curves(folder: pathlib.Path, reports: list[dict[str, Any]]) -> None:
    """Validation loss and greedy validation BLEU against updates."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for axis, name, label in (
        (axes[0], "eval/loss", "validation loss (nats a token)"),
        (axes[1], "eval/bleu", "validation BLEU (greedy, 13a)"),
    ):
        for report in reports:
            axis.plot(*column(folder / f"{report['model']}.csv", name), label=report["model"])
        axis.set(xlabel="updates", ylabel=label)
        axis.grid(alpha=0.3)
    axes[1].legend()
    save(figure, folder / "curves.svg")


def draw_by_length(folder: pathlib.Path, reports: list[dict[str, Any]]) -> None:
    """Test BLEU in groups of sources of like length."""
    figure, axis = plt.subplots(figsize=(6, 3.4), layout="constrained")
    for report in reports:
        groups = report["test"]["by_length"]
        spans = [f"{group['min_words']}-{group['max_words']}" for group in groups]
        axis.plot(spans, [group["bleu"] for group in groups], marker="o", label=report["model"])
    axis.set(xlabel="words in the source", ylabel="BLEU (13a)")
    axis.grid(alpha=0.3)
    axis.legend()
    save(figure, folder / "by_length.svg")


def save(figure: Any, path: pathlib.Path) -> None:
    """Write and close a figure, without the date of drawing."""
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    """Parse and draw."""
    parser = argparse.ArgumentParser(description="Plots of the Multi30k report")
    parser.add_argument("folder", type=pathlib.Path)
    folder = parser.parse_args().folder
    plt.switch_backend("svg")
    plt.rcParams["svg.hashsalt"] = "seqgen"  # equal input gives an equal file
    reports = read_reports(folder)
    draw_curves(folder, reports)
    draw_by_length(folder, reports)


if __name__ == "__main__":
    main()
