"""The Markdown page of measured rows: rates, ratios, and whether each bar is met."""

import json
import os
import pathlib
import platform
from collections.abc import Iterator, Mapping
from typing import Any

from bars import ROWS, Row

BUSY_SHARE = 0.1  # CPUs of other work during the passes, above which a row counts as disturbed


def verdicts(row: Row, found: Mapping[str, Any]) -> Iterator[str]:
    """One cell of text a bar: the figure, what was asked, and whether it is met."""
    rates = {key: values["tokens_per_s"] for key, values in found["programs"].items()}
    for bar in row.bars:
        ours = max((key for key in bar.ours if key in rates), key=rates.__getitem__, default=None)
        theirs = max(
            (key for key in bar.theirs if key in rates), key=rates.__getitem__, default=None
        )
        asked = f"{bar.factor} x {' / '.join(bar.theirs)}"
        if ours is None or theirs is None:
            yield f"not measured ({asked})"
            continue
        figure = found["ratios"][ours][theirs]
        word = "met" if figure >= bar.factor else "**missed**"
        yield f"{figure:.2f} by {ours.removeprefix('seqgen ')}, {word} ({asked})"
        if row.name.startswith("train") and theirs == "torch float32":
            peak, limit = (found["programs"][key]["peak_mib"] for key in (ours, theirs))
            word = "met" if peak <= limit else "**missed**"
            yield f"peak memory {peak:,.0f} MiB, {word} (at most {theirs}'s {limit:,.0f})"


def report(label: pathlib.Path, versions: Mapping[str, str], command: str) -> str:
    """The Markdown page of a folder of results."""
    lines = [
        f"# seqgen beside PyTorch, Hugging Face and CTranslate2 ({label.name})",
        "",
        "Written by `benchmarks/peers/measure.py`; the rules of measurement stand in",
        "`benchmarks/peers/README.md`. Programs of a row ran in turn; rates are medians, a ratio",
        "is the median of the ratios of single rounds. CPU s are of one pass, peak memory of the",
        "whole process, warm-up included. A row is disturbed where other work took more than",
        f"{BUSY_SHARE:.0%} of a CPU.",
        "",
        f"- machine: {describe_machine()}",
        f"- command: `{command}`",
        f"- versions: {', '.join(f'{name} {version}' for name, version in versions.items())}",
        "",
    ]
    for row in ROWS:
        path = label / f"{row.name}.json"
        if not path.exists():
            continue
        found = json.loads(path.read_text(encoding="utf-8"))
        lines += [f"## {row.name}", "", *table(row, found), ""]
    return "\n".join(lines)


def table(row: Row, found: Mapping[str, Any]) -> Iterator[str]:
    """The lines of one row's section."""
    if not found["programs"]:
        yield "not measured: " + "; ".join(found["missing"].values())
        return
    share = max(values["foreign_cpu_share"] for values in found["programs"].values())
    state = f"disturbed by other work ({share:.0%} of a CPU)" if share > BUSY_SHARE else "quiet"
    commit = found.get("versions", {}).get("seqgen", "as above")
    yield (
        f"{found['date']}, seqgen {commit}, {found['rounds']} rounds, malloc "
        f"`{found['malloc']}`, {state}, load {found['load_before']} before."
    )
    yield ""
    references = [key for key in found["programs"] if not key.startswith("seqgen")]
    heads = ["program", row.unit, "min-max", "CPU s", "peak MiB", "warm-up s"]
    heads += [f"x {key}" for key in references]
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    for key, values in found["programs"].items():
        rates = [values[name] / row.per_unit for name in ("tokens_per_s", "min", "max")]
        cells = [
            key,
            f"{rates[0]:,.4g}" if rates[0] < 1000 else f"{rates[0]:,.0f}",
            f"{rates[1]:.4g}-{rates[2]:.4g}"
            if rates[2] < 1000
            else f"{rates[1]:,.0f}-{rates[2]:,.0f}",
            f"{values['cpu_s']:.3g}",
            f"{values['peak_mib']:,.0f}",
            f"{sum(values['warmup_s']):.1f}",
            *(
                "1" if other == key else f"{found['ratios'][key][other]:.2f}"
                for other in references
            ),
        ]
        yield f"| {' | '.join(cells)} |"
    yield ""
    for text in verdicts(row, found):
        yield f"- bar: {text}"
    for key, message in found["missing"].items():
        yield f"- {key}: {message}"


def describe_machine() -> str:
    """CPU, cores and system in a line."""
    from seqgen.training.environment import processor

    system = f"{platform.system()} {platform.machine()}"
    return f"{processor()}, {os.cpu_count()} logical CPUs, {system}"
