"""What can be wrong with one line or one pair of a parallel corpus, and what mending does about it.

A line's defects are a bit set (one bit a kind), so that a corpus of any size needs four bytes a
line to remember them all.
"""

import dataclasses
import re

from seqgen.data.raw_lines import OverlongLine


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of finding.

    Attributes:
      severity: 'error' breaks training, 'warning' harms it, 'note' is only told.
      action: what `--fix` does: 'drop' in every split, 'drop_train' in train only (published test
        sets keep their lines), 'repair' the line, or 'keep'.
      text: what it means, for the report.
    """

    severity: str
    action: str
    text: str


LINE_KINDS = {
    "bad_utf8": Kind("error", "drop", "not UTF-8"),
    "nul": Kind("warning", "drop", "holds a NUL character"),
    "overlong": Kind("warning", "drop", "longer than max_line_bytes"),
    "empty": Kind("warning", "drop", "empty or only white space"),
    "bom": Kind("warning", "repair", "holds a byte-order mark"),
    "crlf": Kind("warning", "repair", "ends in CR LF"),
    "stray_cr": Kind("warning", "repair", "holds a CR inside"),
    "line_separator": Kind("warning", "repair", "holds U+2028, U+2029, NEL, VT, FF or FS-RS"),
    "control": Kind("warning", "repair", "holds another control character"),
    "tab": Kind("warning", "repair", "holds a tab, which splits a TSV field"),
    "replacement": Kind("warning", "keep", "holds U+FFFD: text was damaged earlier"),
}
PAIR_KINDS = {
    "unpaired": Kind("error", "drop", "has no partner: one file is shorter"),
    "misaligned": Kind("warning", "drop", "the two sides seem shifted against each other"),
    "cut_line": Kind("error", "drop", "the packed file ends inside this line"),
    "length_ratio": Kind("warning", "drop_train", "one side is far too long for the other"),
    "swapped": Kind("warning", "drop_train", "the two languages seem swapped"),
    "duplicate": Kind("warning", "drop_train", "the same pair stands earlier in the split"),
    "overlap_pair": Kind("warning", "drop_train", "the pair stands in the other split too"),
    "overlap_source": Kind(
        "warning", "drop_train", "the source stands in the other split too, with another target"
    ),
    "identical": Kind("note", "keep", "both sides are the same text"),
    "one_to_many": Kind("note", "keep", "the source stands earlier with another target"),
    "many_to_one": Kind("note", "keep", "the target stands earlier with another source"),
}
FILE_KINDS = {
    "missing_file": Kind("error", "keep", "one side of the split has no file"),
    "two_files": Kind("error", "keep", "both a plain and a .gz file of this name"),
    "truncated_gz": Kind("error", "drop", "the .gz file ends too early"),
    "corrupt_gz": Kind("error", "drop", "the .gz file is damaged from here on"),
    "unequal_lengths": Kind("error", "drop", "the two files differ in length"),
    "no_pairs": Kind("error", "keep", "the split holds no usable pair"),
}
KINDS = {**LINE_KINDS, **PAIR_KINDS, **FILE_KINDS}
BITS = {kind: 1 << place for place, kind in enumerate(LINE_KINDS)}
FATAL_BITS = sum(BITS[kind] for kind, facts in LINE_KINDS.items() if facts.action == "drop")
REPAIR_BITS = sum(BITS[kind] for kind, facts in LINE_KINDS.items() if facts.action == "repair")

# Almost every line has none of these bytes; only the others are looked at closely.
_RARE_BYTES = re.compile(
    rb"[\x00-\x1f\x7f]|\xc2[\x80-\x9f]|\xe2\x80[\xa8\xa9]|\xef\xbb\xbf|\xef\xbf\xbd"
)
_SEPARATORS = re.compile("[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")  # where str.splitlines cuts
_CONTROLS = re.compile("[\x01-\x08\x0e-\x1b\x1f\x7f-\x84\x86-\x9f]")


def inspect(line: bytes | OverlongLine) -> tuple[str, int]:
    """The mended text of a line and the bits of its defects.

    The text is "" where the line cannot be used (FATAL_BITS).
    """
    if isinstance(line, OverlongLine):
        return "", BITS["overlong"] | (0 if line.valid else BITS["bad_utf8"])
    try:
        text = line.decode("utf-8")
    except UnicodeDecodeError:
        return "", BITS["bad_utf8"] | (BITS["nul"] if b"\0" in line else 0)
    bits = 0
    if _RARE_BYTES.search(line):
        text, bits = _mend(text)
    if not text or text.isspace():
        bits |= BITS["empty"]
    return ("", bits) if bits & FATAL_BITS else (text, bits)


def _mend(text: str) -> tuple[str, int]:
    bits = 0
    if "\0" in text:
        bits |= BITS["nul"]
        text = text.replace("\0", "")
    if "\ufeff" in text:
        bits |= BITS["bom"]
        text = text.replace("\ufeff", "")
    if text.endswith("\r"):
        bits |= BITS["crlf"]
        text = text[:-1]
    if "\r" in text:
        bits |= BITS["stray_cr"]
        text = text.replace("\r", " ")
    if _SEPARATORS.search(text):
        bits |= BITS["line_separator"]
        text = _SEPARATORS.sub(" ", text)
    if _CONTROLS.search(text):
        bits |= BITS["control"]
        text = _CONTROLS.sub("", text)
    if "\t" in text:
        bits |= BITS["tab"]
        text = text.replace("\t", " ")
    if "\ufffd" in text:
        bits |= BITS["replacement"]
    return text, bits
