"""Figures as data, made from rows, and drawn as SVG and PNG where matplotlib is installed."""

import dataclasses
import importlib.util
import pathlib
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence

from seqgen.benchmarking.cells import FACTORS, Cell, varied
from seqgen.benchmarking.curves import AXES
from seqgen.benchmarking.results import Row

Marks = list[tuple[float, float, float, float]]  # x, lowest, middle, highest

FACTOR_LABELS = {
    "length": "tokens a sequence (equal tokens a batch)",
    "tokens": "target tokens a batch",
    "parameters": "parameters",
    "devices": "devices",
    "beams": "beams",
}


@dataclasses.dataclass(frozen=True)
class Figure:
    """One diagram.

    Attributes:
      name: file stem.
      title, x_label, y_label: words.
      lines: label -> marks; the error bar goes from the lowest to the highest.
      log_x, log_y: logarithmic axes.
    """

    name: str
    title: str
    x_label: str
    y_label: str
    lines: Mapping[str, Marks]
    log_x: bool = True
    log_y: bool = True


def is_available() -> bool:
    """Whether matplotlib (the extra `plots`) is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def cell_rows(rows: Iterable[Row], part: str) -> list[tuple[Row, Cell]]:
    """The rows of a part with their cells."""
    return [(row, Cell.from_dict(row["cell"])) for row in rows if row["what"] == part]


def base_cells(found: Sequence[tuple[Row, Cell]]) -> dict[str, Cell]:
    """Model -> its base point: the first cell that was planned for it."""
    bases: dict[str, Cell] = {}
    for _, cell in found:
        bases.setdefault(cell.model, cell)
    return bases


def speed_figures(rows: Sequence[Row]) -> list[Figure]:
    """Diagrams of the measured cells: one value against one factor, a line a model."""
    figures = []
    for part, name, label, read in (
        ("train", "throughput", "training tokens / s", _throughput),
        ("train", "compile", "seconds to compile", _number("compile_seconds", 1.0)),
        ("train", "utilisation", "model FLOPs / product rate", _number("utilisation", 1.0)),
        ("decode", "throughput", "decoded tokens / s", _throughput),
        ("decode", "latency", "seconds of a batch", _spread("seconds")),
        ("decode", "first_token", "seconds to the first token", _spread("first_token_seconds")),
        ("memory", "temporary", "temporary MiB of a step", _number("temp_bytes", 2**-20)),
        ("memory", "resident", "MiB of the process at most", _number("peak_rss_bytes", 2**-20)),
    ):
        for factor in FACTORS:
            lines = _lines(cell_rows(rows, part), factor, read)
            if lines:
                title = f"{part}: {label.split(' (')[0]}"
                figures.append(
                    Figure(f"{part}_{name}_by_{factor}", title, FACTOR_LABELS[factor], label, lines)
                )
    return figures


def _lines(
    found: Sequence[tuple[Row, Cell]], factor: str, read: Callable[[Row], Marks | None]
) -> dict[str, Marks]:
    """The lines of one factor: base points and cells that differ in nothing else."""
    bases = base_cells(found)
    lines: dict[str, Marks] = {}
    for row, cell in found:
        marks = None if "error" in row else read(row)
        if marks is not None and set(varied(cell, bases[cell.model])) <= {factor}:
            _, low, middle, high = marks[0]
            lines.setdefault(cell.model, []).append((getattr(cell, factor), low, middle, high))
    lines = {label: sorted(marks) for label, marks in lines.items()}
    return {label: marks for label, marks in lines.items() if len(marks) > 1}


def _throughput(row: Row) -> Marks | None:
    if "seconds" not in row:
        return None
    work = row["tokens_per_second"] * row["seconds"]["median"]
    seconds = row["seconds"]
    return [(0.0, work / seconds["max"], work / seconds["median"], work / seconds["min"])]


def _spread(name: str) -> Callable[[Row], Marks | None]:
    def read(row: Row) -> Marks | None:
        value = row.get(name)
        return value and [(0.0, value["min"], value["median"], value["max"])]

    return read


def _number(name: str, scale: float) -> Callable[[Row], Marks | None]:
    def read(row: Row) -> Marks | None:
        value = row.get(name)
        return None if value is None else [(0.0, *(value * scale,) * 3)]

    return read


def quality_figures(rows: Sequence[Row]) -> list[Figure]:
    """Learning curves against each budget, and the score by distance."""
    found = [row for row in rows if row["what"] == "compare" and "curve" in row]
    figures = []
    for task in dict.fromkeys(row["task"] for row in found):
        members = [row for row in found if row["task"] == task]
        for axis, label in AXES.items():
            lines = {}
            for model in dict.fromkeys(row["model"] for row in members):
                curves = [row["curve"] for row in members if row["model"] == model]
                marks = _loss_marks(curves, axis)
                if len(marks) > 1:
                    lines[model] = marks
            if lines:
                title = f"{task}: validation loss"
                name = f"compare_{task}_loss_by_{axis}"
                figures.append(Figure(name, title, label, "nats a token", lines, log_x=False))
        figures += _distance_figure(task, members)
    return figures


def _loss_marks(curves: Sequence[Sequence[Mapping[str, float]]], axis: str) -> Marks:
    """Losses at the steps that all seeds have; the middle and the range over seeds."""
    by_step = [{point["step"]: point for point in curve} for curve in curves]
    marks = []
    for step in sorted(set.intersection(*(set(points) for points in by_step))):
        losses = [points[step]["loss"] for points in by_step]
        place = statistics.fmean(points[step][axis] for points in by_step)
        marks.append((place, min(losses), statistics.median(losses), max(losses)))
    return marks


def _distance_figure(task: str, members: Sequence[Row]) -> list[Figure]:
    """Exact match by source length: the middle and the range over seeds."""
    values: dict[str, dict[float, list[float]]] = {}
    for row in members:
        for group in row.get("test", {}).get("by_length", []):
            place = values.setdefault(row["model"], {}).setdefault(group["max_words"], [])
            place.append(group["exact_match"])
    lines = {
        model: [(x, min(v), statistics.median(v), max(v)) for x, v in sorted(groups.items())]
        for model, groups in values.items()
    }
    if not lines:
        return []
    title = f"{task}: exact match by distance"
    name = f"compare_{task}_by_distance"
    return [Figure(name, title, "longest source (words)", "exact match", lines, False, False)]


def draw(figures: Sequence[Figure], folder: pathlib.Path) -> None:
    """Write `<name>.svg` and `<name>.png` of each figure; equal input gives equal files."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure as Canvas

    folder.mkdir(parents=True, exist_ok=True)
    for figure in figures:
        with rc_context({"svg.hashsalt": "seqgen"}):
            canvas = Canvas(figsize=(7.6, 4.0), layout="constrained")
            axis = canvas.subplots()
            for label, marks in figure.lines.items():
                x, low, middle, high = zip(*marks, strict=True)
                below = [m - v for m, v in zip(middle, low, strict=True)]
                above = [v - m for m, v in zip(middle, high, strict=True)]
                axis.errorbar(
                    x, middle, yerr=(below, above), label=label, marker="o", markersize=3, capsize=3
                )
            axis.set(title=figure.title, xlabel=figure.x_label, ylabel=figure.y_label)
            if figure.log_x:
                axis.set_xscale("log", base=2)
            if figure.log_y:
                axis.set_yscale("log")
            axis.grid(alpha=0.3, which="both")
            canvas.legend(fontsize="small", loc="outside right upper")
            canvas.savefig(folder / f"{figure.name}.svg", metadata={"Date": None})
            canvas.savefig(folder / f"{figure.name}.png", dpi=120)
