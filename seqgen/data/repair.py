"""`seqgen data check --fix=OUT`: a clean copy of a corpus, and a ledger of all that was done to it.

Nothing in the input is touched. Rows are mended or dropped, never moved: row i of the copy's source
stays the partner of row i of its target, and kept + dropped = rows of the input for every split.
"""

import contextlib
import gzip
import itertools
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import numpy as np

from seqgen.data.alignment import BLOCK
from seqgen.data.defects import BITS, KINDS, LINE_KINDS, PAIR_KINDS, REPAIR_BITS, inspect
from seqgen.data.findings import SplitFix
from seqgen.data.raw_lines import RawLines
from seqgen.data.split_check import SplitCheck
from seqgen.errors import DataError, StorageError

LEDGER = "ledger.jsonl"
PARTIAL = ".partial"
# Of several reasons to drop a row the ledger names the first of these.
DROP_ORDER = (
    "unpaired",
    "cut_line",
    *(kind for kind, facts in LINE_KINDS.items() if facts.action == "drop"),
    "misaligned",
    *(kind for kind, facts in PAIR_KINDS.items() if facts.action == "drop_train"),
)


def write_clean_copy(
    checks: dict[str, SplitCheck], directory: Path, out: Path, *, max_line_bytes: int
) -> dict[str, SplitFix]:
    """Write the usable rows of every split that has both files into `out`, under the same names.

    `out/ledger.jsonl` gets a line {split, line, side, reason, action} for each dropped row and for
    each repair of a kept one.

    Args:
      checks: what `doctor.examine` found in `directory`, with the same `max_line_bytes`.

    Raises:
      DataError: if `out` lies in the input or one of its files exists, or the input has changed.
      StorageError: if writing fails; nothing of the copy is left then.
    """
    pairs = {name: check for name, check in checks.items() if check.pair is not None}
    names = [scan.path.name for check in pairs.values() for scan in check.pair or ()]
    _refuse(directory, out, [*names, LEDGER])
    created = [out / f"{name}{PARTIAL}" for name in (*names, LEDGER)]
    try:
        out.mkdir(parents=True, exist_ok=True)
        with (out / f"{LEDGER}{PARTIAL}").open("x", encoding="utf-8", newline="\n") as ledger:
            fixes = {
                name: _write_split(check, out, ledger, max_line_bytes=max_line_bytes)
                for name, check in pairs.items()
            }
        for path in created:
            path.rename(path.with_name(path.name.removesuffix(PARTIAL)))
    except OSError as error:
        raise StorageError(
            f"cannot write the clean copy to {out}", details=[error.strerror or str(error)]
        ) from error
    finally:
        for path in created:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
    return fixes


def drop_reasons(check: SplitCheck) -> np.ndarray:
    """Why each row is dropped, int [rows]: 0 = kept, else 1 + the place in DROP_ORDER."""
    reasons = np.zeros(check.rows, np.int64)
    bits = check.column("bits", 0) | check.column("bits", 1)
    for place, kind in reversed(list(enumerate(DROP_ORDER))):
        if KINDS[kind].action == "drop_train" and check.name != "train":
            continue
        if kind in LINE_KINDS:
            flags = (bits & BITS[kind]) != 0
        else:
            flags = check.flags.get(kind, np.zeros(check.rows, bool))
        if kind == "misaligned":
            flags = _widened(flags)
        reasons[flags] = place + 1
    return reasons


def _widened(flags: np.ndarray) -> np.ndarray:
    """The flags and BLOCK rows around each, for a drift is placed only to a few rows."""
    if not flags.any():
        return flags
    reach = np.convolve(flags, np.ones(2 * BLOCK + 1, np.int64))
    return reach[BLOCK : BLOCK + len(flags)] > 0


def _refuse(directory: Path, out: Path, names: list[str]) -> None:
    inside = out.resolve()
    if inside == directory.resolve() or directory.resolve() in inside.parents:
        raise DataError(
            f"the clean copy would be written into the input directory {directory}",
            details=["name another directory:  --fix=OUT"],
        )
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} exists and is not a directory")
    existing = [
        name for name in names if (out / name).exists() or (out / f"{name}{PARTIAL}").exists()
    ]
    if existing:
        raise DataError(
            f"the clean copy would overwrite {out / existing[0]}",
            details=["name an empty directory:  --fix=OUT"],
        )


@contextlib.contextmanager
def _writer(path: Path) -> Iterator[IO[bytes]]:
    with path.open("xb") as file:
        if path.name.removesuffix(PARTIAL).endswith(".gz"):
            # No name and no time inside: the same rows give the same bytes.
            with gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as packed:
                yield packed  # pyright: ignore[reportReturnType]
        else:
            yield file


def _write_split(check: SplitCheck, out: Path, ledger: IO[str], *, max_line_bytes: int) -> SplitFix:
    assert check.pair is not None
    scans = check.pair
    reasons = drop_reasons(check)
    dropped_by: Counter[str] = Counter()
    repaired_by: Counter[str] = Counter()
    kept = repaired = 0

    def record(row: int, reason: str, action: str, side: str) -> None:
        entry = {
            "split": check.name, "line": row + 1, "side": side, "reason": reason, "action": action
        }  # fmt: skip
        ledger.write(json.dumps(entry) + "\n")

    for scan in scans:
        stat = scan.path.stat()
        if (stat.st_size, stat.st_mtime_ns) != (scan.num_bytes, scan.modified):
            raise DataError(f"{scan.path} changed while it was checked", details=["check it again"])
    readers = [RawLines(scan.path, max_line_bytes=max_line_bytes) for scan in scans]
    paths = [out / f"{scan.path.name}{PARTIAL}" for scan in scans]
    with _writer(paths[0]) as source_file, _writer(paths[1]) as target_file:
        rows = itertools.zip_longest(*readers, fillvalue=b"")
        for row, lines in enumerate(rows):
            reason = int(reasons[row])
            inspected = [inspect(line) for line in lines]
            if reason:
                name = DROP_ORDER[reason - 1]
                bit = BITS.get(name, 0)
                sides = [lang for lang, (_, bits) in zip(check.langs, inspected) if bits & bit]
                record(row, name, "drop", sides[0] if len(sides) == 1 else "")
                dropped_by[name] += 1
                continue
            kept += 1
            repairs = [
                (kind, lang)
                for lang, (_, bits) in zip(check.langs, inspected)
                for kind in LINE_KINDS
                if bits & BITS[kind] & REPAIR_BITS
            ]
            repaired += bool(repairs)
            for kind, lang in repairs:
                record(row, kind, "repair", lang)
                repaired_by[kind] += 1
            for file, (text, _) in zip((source_file, target_file), inspected):
                file.write(text.encode("utf-8") + b"\n")
    return SplitFix(
        rows=check.rows,
        kept=kept,
        dropped=dropped_by.total(),
        repaired=repaired,
        dropped_by=dict(dropped_by),
        repaired_by=dict(repaired_by),
    )
