"""The report of what was measured: tables of every row, figures, what became worse."""

import pathlib
from collections.abc import Sequence
from typing import Any

from seqgen.benchmarking import answers, plots
from seqgen.benchmarking.curves import AXES, SHARES, at_equal, common_budget
from seqgen.benchmarking.page import FIGURES, Block, to_html, to_markdown
from seqgen.benchmarking.results import FILE_NAME, Change, Results, Row
from seqgen.training.run_directory import write_atomically

PARTS = {
    "train": "Training step",
    "decode": "Decoding",
    "memory": "Memory of a training step",
}
NOTES = """\
Times are milliseconds of one call as median (minimum to maximum) of the repeats; warm-up and
compilation are left out, compilation has a column of its own. Tokens are target tokens. FLOPs are
those that the model needs (`seqgen/benchmarking/flops.py` has the formula); use is their rate
against that of the product above. Temporary memory is what the compiled program allocates,
resident memory the most that the process held, libraries included. A process each."""


def write(
    results: Results,
    *,
    changes: Sequence[Change] = (),
    against: str = "",
    note: str = "",
) -> pathlib.Path:
    """Write report.md, report.html and the figures beside results.json.

    Args:
      results: what was measured.
      changes: against an older file (see `results.compare`).
      against: that file.
      note: one line for the head, such as that the suite was interrupted.

    Returns:
      The path of report.html.
    """
    folder = results.path.parent
    rows = list(results.rows.values())
    figures = [*plots.speed_figures(rows), *plots.quality_figures(rows)]
    drawn = plots.is_available()
    if drawn:
        plots.draw(figures, folder / FIGURES)
    blocks = _head(results, note=note, drawn=drawn)
    if against:
        blocks += _change_blocks(changes, against)
    blocks += answers.answer_blocks(rows)
    shown = figures if drawn else []
    for part, title in PARTS.items():
        found = [row for row in rows if row["what"] == part]
        if found:
            blocks += [Block("heading", title), _cell_table(part, rows)]
            blocks += [
                Block("figure", f.title, name=f.name) for f in shown if f.name.startswith(part)
            ]
    blocks += _quality_blocks(rows, shown)
    write_atomically(folder / "report.md", to_markdown(blocks))
    write_atomically(folder / "report.html", to_html(blocks, folder / FIGURES))
    return folder / "report.html"


def _head(results: Results, *, note: str, drawn: bool) -> list[Block]:
    blocks = [Block("heading", "seqgen bench", level=1)]
    if note:
        blocks.append(Block("text", note))
    blocks.append(Block("code", results.command))
    blocks.append(Block("text", f"The raw numbers are in {FILE_NAME} beside. {NOTES}"))
    if not drawn:
        blocks.append(
            Block("text", "No plots: matplotlib is not installed. pip install 'seqgen[plots]'")
        )
    rates = [row for row in results.rows.values() if row["what"] == "gemm"]
    lines = [("operands", "size", "GFLOP/s", "ms")]
    for row in rates:
        if "error" in row:
            lines.append((row["key"], "-", f"failed: {row['error']}", "-"))
            continue
        rate = f"{row['flops_per_second'] / 1e9:,.4g}"
        lines.append((row["key"], str(row["size"]), rate, _milliseconds(row["seconds"])))
    blocks += [Block("heading", "The machine"), Block("table", rows=tuple(lines))]
    facts = [("fact", "value"), *((k, str(v)) for k, v in results.environment.items())]
    loads = [row["load"] for row in results.rows.values() if "load" in row]
    if loads:
        facts.append(("load while measuring", f"{min(loads)} to {max(loads)}"))
    return [*blocks, Block("table", rows=tuple(facts))]


def _change_blocks(changes: Sequence[Change], against: str) -> list[Block]:
    worse = [change.line() for change in changes if change.is_worse]
    better = [change.line() for change in changes if change.is_better]
    blocks = [Block("heading", f"Against {against}")]
    blocks.append(
        Block("text", f"{len(changes)} values compared: {len(worse)} worse, {len(better)} better.")
    )
    for title, lines in (("worse", worse), ("better", better)):
        if lines:
            blocks.append(Block("table", rows=((title,), *((line,) for line in lines))))
    return blocks


def _cell_table(part: str, rows: Sequence[Row]) -> Block:
    """Every row of a part."""
    header = (
        *("model", "varied", "length", "batch", "parameters", "width", "devices", "beams", "dtype"),
        *("ms", "tokens/s", "use", "compile s", "temp MiB", "resident MiB"),
        *(("first token ms", "sentences/s") if part == "decode" else ()),
    )
    found = plots.cell_rows(rows, part)
    bases = plots.base_cells(found)
    lines: list[tuple[str, ...]] = [header]
    for row, cell in found:
        factors = ", ".join(plots.varied(cell, bases[cell.model])) or "base"
        head = (cell.model, factors, str(cell.length), str(cell.batch))
        shape = (str(cell.devices), str(cell.beams), cell.dtype)
        if "error" in row:
            wanted = f"{cell.parameters:,}"
            line = (*head, wanted, "-", *shape, f"failed: {row['error']}")
            lines.append((*line, *("-",) * (len(header) - len(line))))
            continue
        first = ()
        if part == "decode":
            first = (_milliseconds(row["first_token_seconds"]), _short(row["sentences_per_second"]))
        lines.append(
            (
                *head,
                f"{row['parameters']:,}",
                str(row["width"]),
                *shape,
                _milliseconds(row.get("seconds")),
                _short(row.get("tokens_per_second")),
                f"{row['utilisation']:.1%}" if "utilisation" in row else "-",
                f"{row['compile_seconds']:.2f}",
                _mebibytes(row["temp_bytes"]),
                _mebibytes(row["peak_rss_bytes"]),
                *first,
            )
        )
    return Block("table", rows=tuple(lines))


def _quality_blocks(rows: Sequence[Row], figures: Sequence[plots.Figure]) -> list[Block]:
    """Each task: all trainings, equal budgets, distance."""
    found = [row for row in rows if row["what"] == "compare"]
    blocks = []
    for task in dict.fromkeys(row["task"] for row in found):
        members = [row for row in found if row["task"] == task]
        whole = [row for row in members if "error" not in row]
        blocks += [Block("heading", f"Quality: {task}"), _training_table(members)]
        curves: dict[str, list[Any]] = {}
        for row in whole:
            curves.setdefault(row["model"], []).append(row["curve"])
        for axis, label in AXES.items():
            blocks += _equal_blocks(curves, axis, label, whole[0]["score"] if whole else "")
        blocks += _distance_blocks(whole)
        prefix = f"compare_{task}_"
        blocks += [
            Block("figure", f.title, name=f.name) for f in figures if f.name.startswith(prefix)
        ]
    return blocks


def _training_table(members: Sequence[Row]) -> Block:
    lines: list[tuple[str, ...]] = [
        (
            "model",
            "seed",
            "parameters",
            "steps",
            "ms a step",
            "training s",
            "ended",
            "split",
            "its loss",
            "its score",
        )
    ]
    for row in members:
        head = (row["model"], str(row["seed"]))
        if "error" in row:
            lines.append((*head, *("-",) * 4, f"failed: {row['error']}", *("-",) * 3))
            continue
        test = row["test"]
        lines.append(
            (
                *head,
                f"{row['parameters']:,}",
                f"{row['steps']:,}",
                f"{1e3 * row['step_seconds']:.4g}",
                f"{row['train_seconds']:,.0f}",
                row["status"],
                test["split"],
                f"{test['loss']:.4f}",
                f"{row['score']} {test[row['score']]:.4g}",
            )
        )
    return Block("table", rows=tuple(lines))


def _equal_blocks(curves: dict[str, list[Any]], axis: str, label: str, score: str) -> list[Block]:
    """Loss and score of all models at shares of the budget that all of them reached."""
    budget = common_budget([curve for seeds in curves.values() for curve in seeds], axis)
    if not budget:
        return []
    header, columns = ["model"], []
    for share in SHARES:
        for value, name in (("loss", "loss"), ("score", score)):
            header.append(f"{name} at {budget * share:.3g}")
            columns.append(at_equal(curves, axis, budget * share, value))
    lines = [tuple(header)]
    for model in curves:
        lines.append((model, *(_range(column[model]) for column in columns)))
    return [
        Block("heading", f"Equal {label}", level=3),
        Block("table", rows=tuple(lines)),
    ]


def _distance_blocks(whole: Sequence[Row]) -> list[Block]:
    groups = [row for row in whole if row["test"].get("by_length")]
    if not groups:
        return []
    spans = [f"{g['min_words']} to {g['max_words']}" for g in groups[0]["test"]["by_length"]]
    lines = [("model", "seed", *spans)]
    for row in groups:
        scores = (f"{group['exact_match']:.3f}" for group in row["test"]["by_length"])
        lines.append((row["model"], str(row["seed"]), *scores))
    return [
        Block("heading", "Exact match by words in the source", level=3),
        Block("table", rows=tuple(lines)),
    ]


def _milliseconds(timing: Any) -> str:
    if timing is None:
        return "-"
    low, middle, high = (f"{1e3 * timing[name]:.4g}" for name in ("min", "median", "max"))
    return f"{middle} ({low} to {high})"


def _mebibytes(count: float) -> str:
    return f"{count / 2**20:,.4g}"


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:,.4g}"


def _range(value: dict[str, float] | None) -> str:
    if value is None:
        return "-"
    if value["min"] == value["max"]:
        return f"{value['median']:.4g}"
    return f"{value['median']:.4g} ({value['min']:.4g} to {value['max']:.4g})"
