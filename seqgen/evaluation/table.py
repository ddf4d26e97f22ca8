"""Evaluation values as lines of text."""

from collections.abc import Mapping, Sequence
from typing import Any

from seqgen.evaluation.config import NGRAM_METRICS

_DIGITS = dict.fromkeys(
    (
        *("loss", "perplexity", "token_accuracy", "exact_match", "bits_per_byte", "bits_per_char"),
        *("next_sentence_loss", "next_sentence_accuracy"),
        *NGRAM_METRICS,
    ),
    4,
)
_DIGITS["perplexity"] = 3


def format_value(name: str, value: float) -> str:
    """A metric's value with as many digits as mean something."""
    return f"{value:.{_DIGITS.get(name.rpartition('/')[2], 2)}f}"


def format_interval(name: str, span: Sequence[float] | None) -> str:
    """What stands behind a value whose 95 % interval [low, high] is known."""
    if span is None:
        return ""
    low, high = (format_value(name, value) for value in span)
    return f"  (95 %: {low} to {high})"


def length_table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The rows of `by_length.scores_by_length` as a table."""
    unit = "characters" if rows and "min_characters" in rows[0] else "words"
    head = (f"source {unit}", "examples", "bleu", "chrf", "exact_match")
    body = [
        (
            f"{row[f'min_{unit}']}-{row[f'max_{unit}']}",
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
