"""A small sound corpus to break, and shorthands to examine and mend it."""

import gzip
import pathlib

from seqgen.data.doctor import examine, report_of
from seqgen.data.number_words import spell
from seqgen.data.repair import write_clean_copy

ROWS = 200
LANGS = {"source_lang": "en", "target_lang": "de"}


def sound_lines(lang, *, rows=ROWS, first=0):
    """Different numbers, so different lines; row i is number 101 + 4271 * (first + i)."""
    numbers = (101 + 4271 * row for row in range(first, first + rows))
    return [spell(number % 999_983, lang).encode() for number in numbers]


def write(directory: pathlib.Path, name, lines, *, last_newline=True):
    """Bytes as they are, LF between them; gzipped if the name says so."""
    directory.mkdir(parents=True, exist_ok=True)
    data = b"\n".join(lines) + (b"\n" if last_newline else b"")
    path = directory / name
    path.write_bytes(gzip.compress(data, mtime=0) if name.endswith(".gz") else data)
    return path


def write_sound(directory):
    """train of ROWS pairs, val and test of 30, all different."""
    for lang in ("en", "de"):
        write(directory, f"train.{lang}", sound_lines(lang))
        write(directory, f"val.{lang}", sound_lines(lang, rows=30, first=ROWS))
        write(directory, f"test.{lang}", sound_lines(lang, rows=30, first=ROWS + 30))
    return directory


def damage(directory, name, changes):
    """Replace lines (numbered from 1) of a file by what functions make of them."""
    path = directory / name
    lines = path.read_bytes().split(b"\n")
    for number, change in changes.items():
        lines[number - 1] = change(lines[number - 1])
    path.write_bytes(b"\n".join(lines))


def check(directory, **more):
    """The report of a directory."""
    return report_of(examine(directory, **LANGS, **more), directory, **LANGS)


def found(report, split="train", *, notes=False):
    """{(kind, side): (count, first line)} of a split."""
    for part in report.splits:
        if part.name == split:
            return {
                (finding.kind, finding.side): (
                    finding.count,
                    finding.lines[0] if finding.lines else None,
                )
                for finding in part.findings
                if notes or finding.severity != "note"
            }
    raise AssertionError(f"no split {split}")


def fix(directory, out, *, max_line_bytes=1 << 16):
    """What `--fix` did, {split: SplitFix}."""
    checks = examine(directory, **LANGS, max_line_bytes=max_line_bytes)
    return write_clean_copy(checks, directory, out, max_line_bytes=max_line_bytes)
