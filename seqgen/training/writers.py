"""Where metrics go: metrics.jsonl (one strict-JSON row a logged step) and TensorBoard events."""

import json
import math
import os
import pathlib
from collections.abc import Mapping
from typing import Any

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

    Args:
      path: of the file.
      last_step: rows of later steps, which a resumed run will write again, are cut off.
    """

    def __init__(self, path: pathlib.Path, *, last_step: int):
        rows = [row for row in read_rows(path) if row["step"] <= last_step]
        draft = path.with_name(path.name + ".tmp")
        draft.write_text("".join(encode_row(row) for row in rows), encoding="utf-8")
        os.replace(draft, path)
        self._last: dict[str, Any] = rows[-1] if rows else {}
        self._file = path.open("r+b")
        size = self._file.seek(0, os.SEEK_END)
        self._start_of_last = size - len(encode_row(rows[-1]).encode()) if rows else 0

    def write(self, step: int, values: Values) -> None:
        """Write the row of `step`, or add values to it if it is the last one. Flushed."""
        if self._last.get("step") == step:
            self._last = {**self._last, **values}
        else:
            self._start_of_last = self._file.seek(0, os.SEEK_END)
            self._last = {"step": step, **values}
        self._file.seek(self._start_of_last)
        self._file.write(encode_row(self._last).encode())
        self._file.truncate()
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class TensorBoardWriter:
    """Scalars as TensorBoard events; a resumed run hides the events that it will write again."""

    def __init__(self, folder: pathlib.Path, *, last_step: int):
        from tensorboardX import SummaryWriter

        purge = {"purge_step": last_step + 1} if last_step else {}
        self._writer = SummaryWriter(str(folder), flush_secs=30, **purge)

    def write(self, step: int, values: Values) -> None:
        """Add every finite number."""
        for name, value in values.items():
            if isinstance(value, (int, float)) and math.isfinite(value):
                self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close."""
        self._writer.close()


class Writers:
    """All writers of a run as one."""

    def __init__(self, folder: pathlib.Path, *, last_step: int, tensorboard: bool):
        self._members: list[JsonlWriter | TensorBoardWriter] = [
            JsonlWriter(folder / "metrics.jsonl", last_step=last_step)
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
