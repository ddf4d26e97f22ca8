"""Evaluation values as lines of text."""

from collections.abc import Mapping, Sequence
from typing import Any

_DIGITS = {
    "loss": 4,
    "perplexity": 3,
    "token_accuracy": 4,
    "exact_match": 4,
    "bits_per_byte": 4,
    "bits_per_char": 4,
}


def format_value(name: str, value: float) -> str:
    """A metric's value with as many digits as mean something."""
    return f"{value:.{_DIGITS.get(name.rpartition('/')[2], 2)}f}"


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
