"""Where metrics go: metrics.jsonl (one strict-JSON row a logged step) and TensorBoard events."""

import contextlib
import json
import math
import os
import pathlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from seqgen.training.run_directory import write_atomically

Values = Mapping[str, float | int | str]


def read_rows(path: pathlib.Path) -> list[dict[str, Any]]:
    """The complete rows of a metrics file; a torn last line is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def total_step_seconds(rows: Sequence[Mapping[str, Any]]) -> float:
    """Seconds of all steps in rows of metrics.jsonl: each row's median times its steps."""
    seconds, last = 0.0, 0
    for row in rows:
        if "step_ms" in row:
            seconds += row["step_ms"] / 1e3 * (row["step"] - last)
            last = row["step"]
    return seconds


def encode_row(values: Values) -> str:
    """One line of strict JSON: a non-finite number becomes null and a flag '<name>_nonfinite'."""
    row: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            row[name] = None
            row[f"{name}_nonfinite"] = str(value)
        else:
            row[name] = value
    return json.dumps(row, allow_nan=False, ensure_ascii=False) + "\n"


class JsonlWriter:
    """Appends rows; a second row of the last step (an evaluation) joins the first.

    What a full disk refuses waits in memory and is written with the next row.

    Args:
      path: of the file.
      last_step: rows of later steps, which a resumed run will write again, are cut off.
      report: receives a line when a write fails.
    """

    def __init__(
        self, path: pathlib.Path, *, last_step: int, report: Callable[[str], None] = print
    ):
        rows = [row for row in read_rows(path) if row["step"] <= last_step]
        write_atomically(path, "".join(encode_row(row) for row in rows))
        self._path = path
        self._report = report
        self._file = path.open("r+b", buffering=0)
        self._size = self._file.seek(0, os.SEEK_END)
        # Rows that are not in the file for good: the last one, which may still grow, and what
        # could not be written before it.
        self._tail = rows[-1:]
        self._size -= sum(len(encode_row(row).encode()) for row in self._tail)

    def write(self, step: int, values: Values) -> None:
        """Write the row of `step`, or add values to it if it is the last one."""
        if self._tail and self._tail[-1]["step"] == step:
            self._tail[-1] = {**self._tail[-1], **values}
        else:
            self._tail.append({"step": step, **values})
        content = [encode_row(row).encode() for row in self._tail]
        try:
            self._file.seek(self._size)
            written = self._file.write(b"".join(content))
            if written != sum(map(len, content)):
                raise OSError("the disk took only a part of the row")
            self._file.truncate()
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(self._size)
            self._report(f"{self._path.name} was NOT written: {error}; trying again with the next")
            return
        self._size += sum(map(len, content[:-1]))
        self._tail = self._tail[-1:]

    def close(self) -> None:
        """Close the file."""
        self._file.close()


@contextlib.contextmanager
def _torch_hidden() -> Iterator[None]:
    """Spare seconds: tensorboardX imports torch where it is installed, to accept its tensors."""
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]  # makes `import torch` fail
    try:
        yield
    finally:
        del sys.modules["torch"]


class TensorBoardWriter:
    """Scalars as TensorBoard events; a resumed run hides the events that it will write again."""

    def __init__(self, folder: pathlib.Path, *, last_step: int):
        with _torch_hidden():
            from tensorboardX import SummaryWriter
        purge_step = last_step + 1 if last_step else None
        self._writer = SummaryWriter(str(folder), purge_step=purge_step, flush_secs=30)

    def write(self, step: int, values: Values) -> None:
        """Add every finite number."""
        for name, value in values.items():
            if isinstance(value, (int, float)) and math.isfinite(value):
                with contextlib.suppress(OSError):
                    self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close."""
        self._writer.close()


class Writers:
    """All writers of a run as one."""

    def __init__(
        self,
        folder: pathlib.Path,
        last_step: int,
        *,
        tensorboard: bool,
        report: Callable[[str], None],
    ):
        self._members: list[JsonlWriter | TensorBoardWriter] = [
            JsonlWriter(folder / "metrics.jsonl", last_step=last_step, report=report)
        ]
        if tensorboard:
            self._members.append(TensorBoardWriter(folder / "tensorboard", last_step=last_step))

    def write(self, step: int, values: Values) -> None:
        """Give the values to every writer."""
        for member in self._members:
            member.write(step, values)

    def close(self) -> None:
        """Close every writer."""
        for member in self._members:
            member.close()
