"""results.json: what was measured, where, by which command; and what became worse since another."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from seqgen.errors import ConfigError, labelled
from seqgen.training.run_directory import write_atomically

SCHEMA = 1
FILE_NAME = "results.json"
REGRESSED = 10  # exit code
THRESHOLD = 0.10  # a median must be worse by more than this share
# What may not change between measurements that stand in one file.
SAME_MACHINE = (
    *("processor", "cpus", "device_kind", "platform", "jax", "jaxlib", "xla_flags", "malloc"),
)
# name in the row -> what it is called; lower is better for all of them
COMPARED = {
    "seconds": "time of a call",
    "first_token_seconds": "latency of the first token",
    "temp_bytes": "temporary memory",
}

Row = dict[str, Any]


class Results:
    """The rows of one output folder, written after every measurement.

    Attributes:
      path: of results.json.
      command: as typed, for the report.
      environment: of the process that measured first (see `machine.facts`), {} before.
      rows: by their key, in the order in which they were measured.
    """

    def __init__(self, folder: pathlib.Path, *, command: str):
        """Reads what an earlier run of the same command left in `folder`.

        Raises:
          ConfigError: the file there is none of ours.
        """
        self.path = folder / FILE_NAME
        self.command = command
        self.environment: dict[str, Any] = {}
        self.rows: dict[str, Row] = {}
        if self.path.exists():
            stored = read(self.path)
            self.environment = stored["environment"]
            self.rows = {row["key"]: row for row in stored["rows"]}

    def is_measured(self, key: str, *, repeats: int) -> bool:
        """Whether a row without error is there, of at least so many repeats."""
        row = self.rows.get(key)
        return row is not None and "error" not in row and row.get("repeats", repeats) >= repeats

    def add(self, row: Row) -> None:
        """Put a row in its place and write the file; its 'environment' moves to the file's own.

        Raises:
          ConfigError: it was measured on another machine than the rows before.
        """
        environment = row.pop("environment", None)
        if environment is not None:
            self._check_machine(environment)
            self.environment = self.environment or environment
            row["code"] = environment.get("code", "")
        self.rows[row["key"]] = row
        self.save()

    def save(self) -> None:
        """Write the file; readers see the old or the new one."""
        content = {
            "schema": SCHEMA,
            "command": self.command,
            "environment": self.environment,
            "rows": list(self.rows.values()),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, json.dumps(content, indent=1, allow_nan=False) + "\n")

    def _check_machine(self, environment: Mapping[str, Any]) -> None:
        before = self.environment
        changed = [
            f"{name} was {before[name]!r}, is {environment.get(name)!r}"
            for name in SAME_MACHINE
            if name in before and before[name] != environment.get(name)
        ]
        if changed:
            raise ConfigError(
                f"{self.path} was measured elsewhere",
                details=[*changed, "take another --output"],
            )


def read(path: pathlib.Path) -> dict[str, Any]:
    """The content of a results file.

    Raises:
      ConfigError: it is not there, no JSON, or not such a file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}",
            details=[str(error), labelled("make one", "seqgen bench --quick --output=DIR")],
        ) from error
    except ValueError as error:
        raise ConfigError(f"{path} is not valid JSON", details=[str(error)]) from error
    known = isinstance(content, dict) and isinstance(content.get("rows"), list)
    if not known or content.get("schema") != SCHEMA or "environment" not in content:
        raise ConfigError(
            f"{path} holds no results of seqgen bench",
            details=[labelled("expected", f"an object with schema {SCHEMA}, environment, rows")],
        )
    if not all(
        isinstance(row, dict) and isinstance(row.get("key"), str) for row in content["rows"]
    ):
        raise ConfigError(f"{path} has rows without a key")
    return content


@dataclasses.dataclass(frozen=True)
class Change:
    """One value that two files have of equal cells.

    Attributes:
      key: of the cell.
      name: of the value, a key of `COMPARED`.
      old, new: medians.
      is_worse: by more than the threshold, and beyond the whole range of the old one.
      is_better: the same the other way.
    """

    key: str
    name: str
    old: float
    new: float
    is_worse: bool
    is_better: bool

    def line(self) -> str:
        """One line for people."""
        share = self.new / self.old - 1.0 if self.old else 0.0
        unit = "MiB" if self.name.endswith("bytes") else "ms"
        scale = 1 / 2**20 if unit == "MiB" else 1e3
        return (
            f"{self.key}: {COMPARED[self.name]} {self.old * scale:.4g} -> "
            f"{self.new * scale:.4g} {unit} ({share:+.0%})"
        )


def compare(
    old: Mapping[str, Row], new: Mapping[str, Row], *, threshold: float = THRESHOLD
) -> list[Change]:
    """What equal cells of two files say, in the order of `new`; cells that failed say nothing.

    A value is worse if its median is by more than `threshold`, and all its samples lie above all
    the old ones: a busy moment that met some samples is no regression.
    """
    changes = []
    for key, row in new.items():
        before = old.get(key, {})
        for name in COMPARED:
            there, here = _spread(before.get(name)), _spread(row.get(name))
            if there is None or here is None:
                continue
            (low, middle, high), (new_low, new_middle, new_high) = there, here
            changes.append(
                Change(
                    key=key,
                    name=name,
                    old=middle,
                    new=new_middle,
                    is_worse=new_middle > middle * (1 + threshold) and new_low > high,
                    is_better=new_middle < middle * (1 - threshold) and new_high < low,
                )
            )
    return changes


def _spread(value: Any) -> tuple[float, float, float] | None:
    """(min, median, max) of a timing, or of a number that has no spread."""
    if isinstance(value, Mapping):
        return value["min"], value["median"], value["max"]
    return None if value is None else (value, value, value)
