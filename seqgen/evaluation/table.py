"""Evaluation values as lines of text, with the change to the best so far."""

from collections.abc import Mapping, Sequence
from typing import Any

from seqgen.evaluation.evaluators import Sample

LOWER_IS_BETTER = ("loss", "perplexity", "ter")
_DIGITS = {"loss": 4, "perplexity": 3, "token_accuracy": 4, "exact_match": 4}


def is_better(name: str, value: float, than: float) -> bool:
    """Whether `value` of the metric `name` ('eval/loss', 'bleu') beats `than`."""
    return value < than if name.rpartition("/")[2] in LOWER_IS_BETTER else value > than


def format_value(name: str, value: float) -> str:
    """A metric's value with as many digits as mean something."""
    return f"{value:.{_DIGITS.get(name.rpartition('/')[2], 2)}f}"


def evaluation_table(values: Mapping[str, float], best: Mapping[str, float]) -> list[str]:
    """One line a value: name, value, change to the best so far (`best` may lack names)."""
    rows = []
    for name, value in values.items():
        if name not in best:
            change = "first"
        elif is_better(name, value, best[name]):
            change = f"{value - best[name]:+.4g}  new best"
        else:
            change = f"{value - best[name]:+.4g}  best {format_value(name, best[name])}"
        rows.append((name.rpartition("/")[2], format_value(name, value), change))
    return aligned(rows)


def update_best(best: Mapping[str, float], values: Mapping[str, float]) -> dict[str, float]:
    """`best` with each value that beats it or is new."""
    better = {n: v for n, v in values.items() if n not in best or is_better(n, v, best[n])}
    return {**best, **better}


def sample_lines(samples: Sequence[Sample]) -> list[str]:
    """Source, reference and hypothesis of each sample, one under the other."""
    lines = []
    for sample in samples:
        lines += [
            f"  source      {printable(sample.source)}",
            f"  reference   {printable(sample.reference)}",
            f"  hypothesis  {printable(sample.hypothesis)}",
            "",
        ]
    return lines[:-1]


def printable(text: str) -> str:
    """Text in which control characters (a terminal would obey them) are written as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def length_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The rows of `by_length.scores_by_length` as a table."""
    head = ("source words", "examples", "bleu", "chrf", "exact_match")
    body = [
        (
            f"{row['min_words']}-{row['max_words']}",
            str(row["examples"]),
            *(format_value(name, row[name]) for name in head[2:]),
        )
        for row in rows
    ]
    return aligned([head, *body])


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as lines: first column to the left, the others to the right."""
    widths = (
        [max(len(row[column]) for row in rows) for column in range(len(rows[0]))] if rows else []
    )
    return [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
