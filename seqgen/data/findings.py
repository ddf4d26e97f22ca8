"""What a check of a corpus found, as data, as strict JSON and as a page of text."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from seqgen.data.defects import KINDS

REPORT_VERSION = 1
LISTED_LINES = 5
UNFIXABLE = ("missing_file", "two_files", "no_pairs")


@dataclasses.dataclass(frozen=True)
class Finding:
    """One kind of defect in one split.

    Attributes:
      kind: a key of seqgen.data.defects.KINDS.
      count: how many lines (or pairs) have it.
      lines: the first few line numbers, counted from 1.
      side: the language whose file has it; '' = the pair.
      other: the split that it concerns as well, or ''.
      detail: more in words, or ''.
    """

    kind: str
    count: int
    lines: tuple[int, ...] = ()
    side: str = ""
    other: str = ""
    detail: str = ""

    @property
    def severity(self) -> str:
        """'error' | 'warning' | 'note'."""
        return KINDS[self.kind].severity

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "kind": self.kind,
            "severity": self.severity,
            "side": self.side,
            "count": self.count,
            "first_line": self.lines[0] if self.lines else None,
            "lines": list(self.lines),
            "other_split": self.other,
            "text": KINDS[self.kind].text,
            "detail": self.detail,
        }


@dataclasses.dataclass(frozen=True)
class SplitReport:
    """One split.

    Attributes:
      rows: lines of the longer side.
      files: {language: {'name', 'bytes', 'lines', 'characters'}} of the files that exist.
    """

    name: str
    rows: int
    files: dict[str, dict[str, Any]]
    findings: tuple[Finding, ...]


@dataclasses.dataclass(frozen=True)
class SplitFix:
    """What became of one split: rows = kept + dropped; repaired rows are among the kept."""

    rows: int
    kept: int
    dropped: int
    repaired: int
    dropped_by: dict[str, int]
    repaired_by: dict[str, int]


@dataclasses.dataclass(frozen=True)
class Report:
    """A whole check; `fix` and `fix_dir` are filled in where a clean copy was written."""

    directory: str
    source_lang: str
    target_lang: str
    splits: tuple[SplitReport, ...]
    fix_dir: str = ""
    fix: dict[str, SplitFix] = dataclasses.field(default_factory=dict)

    def count(self, severity: str) -> int:
        """Number of findings of a severity."""
        return sum(
            finding.severity == severity for split in self.splits for finding in split.findings
        )

    @property
    def exit_code(self) -> int:
        """2 if training on this corpus (on the clean copy, if one was written) would fail."""
        kinds = {
            finding.kind
            for split in self.splits
            for finding in split.findings
            if finding.severity == "error"
        }
        if self.fix_dir:
            empty = any(not split.kept for split in self.fix.values())
            return 2 if empty or kinds & set(UNFIXABLE) else 0
        return 2 if kinds else 0

    def as_json(self) -> dict[str, Any]:
        """Plain values; `json.dumps(..., allow_nan=False)` takes them."""
        return {
            "version": REPORT_VERSION,
            "dir": self.directory,
            "source_lang": self.source_lang,
            "target_lang": self.target_lang,
            "errors": self.count("error"),
            "warnings": self.count("warning"),
            "exit_code": self.exit_code,
            "splits": {
                split.name: {
                    "rows": split.rows,
                    "files": split.files,
                    "findings": [finding.as_json() for finding in split.findings],
                }
                for split in self.splits
            },
            "fix_dir": self.fix_dir,
            "fix": {name: dataclasses.asdict(split) for name, split in self.fix.items()},
        }

    def dumps(self) -> str:
        """Strict JSON."""
        return json.dumps(self.as_json(), indent=2, ensure_ascii=False, allow_nan=False)

    def as_text(self) -> str:
        """The page that a person reads."""
        lines = [f"{self.directory}   {self.source_lang} -> {self.target_lang}"]
        for split in self.splits:
            files = "   ".join(
                f"{facts['name']} {facts['lines']:,} lines" for facts in split.files.values()
            )
            lines += ["", f"{split.name}   {files}"]
            lines += [f"  {_sentence(finding)}" for finding in split.findings] or ["  clean"]
        lines += ["", f"{_number(self.count('error'), 'error')}, "
                      f"{_number(self.count('warning'), 'warning')}"]  # fmt: skip
        if self.fix_dir:
            lines += ["", f"clean copy in {self.fix_dir}   ledger.jsonl says what was done"]
            lines += [_fix_sentence(name, split) for name, split in self.fix.items()]
        elif self.count("error") + self.count("warning"):
            lines.append(
                f"write a clean copy:  seqgen data check --dir={self.directory} --source_lang="
                f"{self.source_lang} --target_lang={self.target_lang} --fix=OUT"
            )
        return "\n".join(lines)


def find(kind: str, flags: np.ndarray, **more: str) -> list[Finding]:
    """The finding of a bool array over rows: none, or one."""
    rows = np.flatnonzero(flags)
    if not len(rows):
        return []
    lines = tuple(int(row) + 1 for row in rows[:LISTED_LINES])
    return [Finding(kind=kind, count=len(rows), lines=lines, **more)]


def ordered(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Errors first, then warnings, then notes; otherwise as given."""
    ranks = ("error", "warning", "note")
    return tuple(sorted(findings, key=lambda finding: ranks.index(finding.severity)))


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _sentence(finding: Finding) -> str:
    where = f", line {finding.lines[0]}" if finding.lines else ""
    if finding.count > 1 and finding.lines:
        where = f", first line {finding.lines[0]}"
    side = f" {finding.side}" if finding.side else ""
    other = f" (other split: {finding.other})" if finding.other else ""
    text = finding.detail or KINDS[finding.kind].text
    return f"{finding.severity:<8} {finding.kind}{side}: {finding.count:,}{where}{other}   {text}"


def _fix_sentence(name: str, split: SplitFix) -> str:
    reasons = ", ".join(f"{reason} {count:,}" for reason, count in split.dropped_by.items())
    return (
        f"  {name}   {split.rows:,} = {split.kept:,} kept ({split.repaired:,} repaired) + "
        f"{split.dropped:,} dropped" + (f"   {reasons}" if reasons else "")
    )
