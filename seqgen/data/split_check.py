"""One split of a corpus under examination: from the facts of two files to flags and findings."""

import dataclasses
from collections.abc import Mapping

import numpy as np

from seqgen.data.alignment import find_drifts, fit_lengths, outliers
from seqgen.data.corpus_scan import FileScan
from seqgen.data.defects import BITS, FATAL_BITS, KINDS, PAIR_KINDS
from seqgen.data.findings import Finding, SplitReport, find, ordered

OUTLIER_DEVIATIONS = 5.0
OUTLIER_FACTOR = 2.0
OUTLIER_MIN_PAIRS = 20
SWAP_NATS = 4.0  # by which EACH side must look like the other side's language


@dataclasses.dataclass
class SplitCheck:
    """The flags of one split's rows; filled in step by step by the doctor.

    Attributes:
      scans: (source, target); None where the file is missing.
      flags: bool [rows] for each kind of seqgen.data.defects.PAIR_KINDS that was looked for.
      notes: findings about the files themselves.
      detail: of a finding, {kind: words}; `others` likewise names other splits.
    """

    name: str
    langs: tuple[str, str]
    scans: tuple[FileScan | None, FileScan | None]
    flags: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    notes: list[Finding] = dataclasses.field(default_factory=list)
    others: dict[str, str] = dataclasses.field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Lines of the longer side."""
        return max(len(scan) if scan else 0 for scan in self.scans)

    @property
    def pair(self) -> tuple[FileScan, FileScan] | None:
        """Both scans, if both files exist."""
        source, target = self.scans
        return (source, target) if source is not None and target is not None else None

    @property
    def usable(self) -> np.ndarray:
        """Flags [rows] of pairs of two readable, non-empty, corresponding sides."""
        usable = np.zeros(self.rows, bool)
        if self.pair is None:
            return usable
        source, target = self.pair
        both = min(len(source), len(target))
        usable[:both] = ((source.bits[:both] | target.bits[:both]) & FATAL_BITS) == 0
        for kind in ("cut_line", "misaligned"):
            usable &= ~self.flags[kind]
        return usable

    def column(self, name: str, side: int) -> np.ndarray:
        """[rows] a column of one scan, 0 where that side has no line."""
        scan = self.scans[side]
        values = getattr(scan, name) if scan is not None else np.zeros(0, np.uint64)
        return np.pad(values, (0, self.rows - len(values)))

    def pair_keys(self) -> np.ndarray:
        """uint64 [rows]: one digest a pair."""
        # Sums of well-mixed digests under different odd factors: (a, b) and (b, a) differ.
        factors = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)
        return self.column("digests", 0) * factors[0] + self.column("digests", 1) * factors[1]

    def report(self) -> SplitReport:
        """Everything found so far, worst first."""
        found = list(self.notes)
        for kind, bit in BITS.items():
            for lang, scan in zip(self.langs, self.scans):
                if scan is not None and len(scan):
                    flags = (scan.bits & bit) != 0
                    wide = kind == "nul" and flags.mean() > 0.5
                    detail = f"{KINDS[kind].text}; the file looks like UTF-16" if wide else ""
                    found += find(kind, flags, side=lang, detail=detail)
        for kind in PAIR_KINDS:
            if kind in self.flags:
                found += find(kind, self.flags[kind], other=self.others.get(kind, ""))
        if self.pair is not None and not self.usable.any():
            found.append(Finding(kind="no_pairs", count=1))
        files = {
            lang: {
                "name": scan.path.name,
                "bytes": scan.num_bytes,
                "lines": len(scan),
                "characters": int(scan.lengths.sum(dtype=np.int64)),
            }
            for lang, scan in zip(self.langs, self.scans)
            if scan is not None
        }
        return SplitReport(name=self.name, rows=self.rows, files=files, findings=ordered(found))


def judge_split(check: SplitCheck) -> None:
    """Set every flag that needs no other split."""
    if check.pair is None:
        return
    _judge_files(check)
    _judge_correspondence(check)
    usable = check.usable
    check.flags["length_ratio"] = _length_outliers(check, usable)
    source_scores, target_scores = (check.column("scores", side) for side in (0, 1))
    check.flags["swapped"] = usable & (source_scores < -SWAP_NATS) & (target_scores > SWAP_NATS)
    digests = [check.column("digests", side) for side in (0, 1)]
    check.flags["identical"] = usable & (digests[0] == digests[1])
    check.flags["duplicate"] = _later_copies(check.pair_keys(), usable)
    single = usable & ~check.flags["duplicate"]
    check.flags["one_to_many"] = _later_copies(digests[0], single)
    check.flags["many_to_one"] = _later_copies(digests[1], single)


def judge_overlap(train: SplitCheck, held_out: Mapping[str, SplitCheck]) -> None:
    """Set 'overlap_pair' and 'overlap_source' in train and in every held-out split."""
    usable = train.usable
    masks = {kind: np.zeros(train.rows, bool) for kind in ("overlap_pair", "overlap_source")}
    others: dict[str, list[str]] = {kind: [] for kind in masks}
    for name, check in held_out.items():
        mine = check.usable
        seen: dict[str, np.ndarray] = {}
        for kind, keys, theirs in (
            ("overlap_pair", train.pair_keys(), check.pair_keys()),
            ("overlap_source", train.column("digests", 0), check.column("digests", 0)),
        ):
            check.flags[kind] = mine & np.isin(theirs, keys[usable])
            check.others[kind] = "train"
            seen[kind] = usable & np.isin(keys, theirs[mine])
        # A shared pair shares its source as well: tell each row once.
        check.flags["overlap_source"] &= ~check.flags["overlap_pair"]
        for kind, mask in seen.items():
            masks[kind] |= mask
            others[kind] += [name] if mask.any() else []
    masks["overlap_source"] &= ~masks["overlap_pair"]
    for kind, mask in masks.items():
        train.flags[kind] = mask
        train.others[kind] = ", ".join(others[kind])


def _judge_files(check: SplitCheck) -> None:
    check.flags["cut_line"] = np.zeros(check.rows, bool)
    for lang, scan in zip(check.langs, check.scans):
        if scan is not None and scan.problem:
            # The last line that came out is cut, or at least nobody can say that it is whole.
            last = max(0, len(scan) - 1)
            check.flags["cut_line"][last : len(scan)] = True
            check.notes.append(Finding(kind=scan.problem, count=1, lines=(last + 1,), side=lang))


def _judge_correspondence(check: SplitCheck) -> None:
    assert check.pair is not None
    source, target = check.pair
    both = min(len(source), len(target))
    check.flags["unpaired"] = np.arange(check.rows) >= both
    check.flags["misaligned"] = np.zeros(check.rows, bool)
    drifts = find_drifts(source.lengths.astype(np.float64), target.lengths.astype(np.float64))
    for drift in drifts or ():
        check.flags["misaligned"][drift.start : drift.stop] = True
    if len(source) == len(target):
        return
    names = [f"{scan.path.name} {len(scan)} lines" for scan in (source, target)]
    first = drifts[0].start if drifts else both
    if drifts is None and (source if len(source) < len(target) else target).problem:
        where = "the shorter one is damaged at its end"
    elif drifts is None:
        # Better no pair than strangers called translations.
        check.flags["misaligned"][:both] = True
        where = "the lengths of the lines do not tell where a line is missing, so no pair is sure"
    elif drifts:
        where = (
            f"they first drift apart near line {first + 1} "
            f"({source.lengths[first]} characters against {target.lengths[first]})"
        )
    else:
        where = "the lines correspond as far as the shorter one goes"
    check.notes.append(
        Finding(
            kind="unequal_lengths",
            count=abs(len(source) - len(target)),
            lines=(first + 1,),
            detail=f"{KINDS['unequal_lengths'].text}: {', '.join(names)}; {where}",
        )
    )


def _length_outliers(check: SplitCheck, usable: np.ndarray) -> np.ndarray:
    flags = np.zeros(check.rows, bool)
    if usable.sum() >= OUTLIER_MIN_PAIRS:
        source, target = (check.column("lengths", side)[usable].astype(float) for side in (0, 1))
        model = fit_lengths(source, target)
        flags[usable] = outliers(
            source, target, model, deviations=OUTLIER_DEVIATIONS, factor=OUTLIER_FACTOR
        )
    return flags


def _later_copies(keys: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Flags [rows] of the rows of `among` whose key an earlier one of them has."""
    flags = among.copy()
    rows = np.flatnonzero(among)
    flags[rows[np.unique(keys[rows], return_index=True)[1]]] = False
    return flags
