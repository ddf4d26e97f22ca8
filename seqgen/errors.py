"""Errors that a user can act on, each with the exit code of its kind.

The command line prints `error: <cause>` and the indented details, without a traceback (`-vv` shows
it). Details say what was typed, what was probably meant, and what to type next.
"""

from collections.abc import Sequence
from typing import NoReturn

_LABEL = 15  # width of the first column of an error's details


def labelled(label: str, text: str) -> str:
    """One detail line of an error: label column, then text."""
    return f"{label:<{_LABEL}}{text}"


class SeqgenError(Exception):
    """Base of all errors that are told on one screen.

    Attributes:
      cause: one line that states what is wrong.
      details: further short lines: what was given, the nearest valid name, the fix.
      exit_code: what the process ends with.
    """

    exit_code = 1

    def __init__(self, cause: str, *, details: Sequence[str] = ()):
        super().__init__("\n  ".join([cause, *details]))
        self.cause = cause
        self.details = list(details)


class ConfigError(SeqgenError, ValueError):
    """Bad usage or bad config value."""

    exit_code = 2


def refuse(cause: str, *details: tuple[str, str]) -> NoReturn:
    """Raise the ConfigError of a cause with (label, text) lines."""
    raise ConfigError(cause, details=[labelled(label, text) for label, text in details])


class DataError(SeqgenError, ValueError):
    """Bad or missing data."""

    exit_code = 2


class DivergedError(SeqgenError):
    """Training met non-finite values again and again."""

    exit_code = 3


class CheckpointError(SeqgenError):
    """Checkpoints exist, and none can be used."""

    exit_code = 4


class StorageError(SeqgenError):
    """The disk refused: full, read-only or broken."""

    exit_code = 5
