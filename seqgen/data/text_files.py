"""Parallel corpora in a directory: `<split>.<language>` or `<split>.<language>.gz`, line by line.

Line i of one file belongs to line i of the other, and only LF ends a line: not CR, not U+2028, not
any other of the characters at which `str.splitlines` cuts. A CR right before an LF is part of a
Windows line end and is left out; so is a byte order mark at the start of a file.
"""

import dataclasses
import gzip
import itertools
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from seqgen.data.alignment import find_drifts
from seqgen.data.cache import digest_file, digest_json
from seqgen.data.config import DataConfig
from seqgen.data.prepared import RawSplit, prepare_corpus
from seqgen.data.reference_files import find_references, zip_references
from seqgen.data.sources import Pair, Source, make_pair
from seqgen.errors import DataError
from seqgen.types import nearest

UTF8_BOM = b"\xef\xbb\xbf"
EXPECTED_SPLITS = ("train", "val", "dev", "validation")  # and test*


@dataclasses.dataclass(frozen=True)
class PairedFiles:
    """The two files of a split, and those of further references (see `reference_files`)."""

    split: str
    source: Path
    target: Path
    references: tuple[Path, ...] = ()


def open_text(cfg: DataConfig) -> dict[str, Source]:
    """The splits of the directory `cfg.dir`, prepared on first use.

    Raises:
      DataError: if the directory or a language is missing, or a file is damaged.
    """
    files = find_pairs(Path(cfg.dir), source_lang=cfg.source_lang, target_lang=cfg.target_lang)
    raw = {}
    for split, pair in files.items():
        names = (pair.source, pair.target, *pair.references)
        fingerprint = digest_json([digest_file(name) for name in names])
        raw[split] = RawSplit(
            fingerprint=fingerprint, read=lambda pair=pair: read_pairs(pair, directory=cfg.dir)
        )
    origin = {
        "kind": "text",
        "source_lang": cfg.source_lang,
        "target_lang": cfg.target_lang,
        "files": {
            split: [path.name for path in (pair.source, pair.target, *pair.references)]
            for split, pair in files.items()
        },
    }
    return prepare_corpus(raw, origin=origin, cache_dir=cfg.cache_dir)


def find_pairs(directory: Path, *, source_lang: str, target_lang: str) -> dict[str, PairedFiles]:
    """Every split of which both languages are there, by name.

    Raises:
      DataError: if there is none; the languages and splits found are named.
    """
    if not str(directory) or str(directory) == ".":
        raise DataError(
            "no corpus directory given",
            details=["say where it is:  --config.data.dir=DIR"],
        )
    if not directory.is_dir():
        raise DataError(f"corpus directory {directory} does not exist")
    if source_lang == target_lang:
        raise DataError(f"source_lang and target_lang are both {source_lang!r}")
    found: dict[str, dict[str, Path]] = {}
    for path in sorted(directory.iterdir()):
        stem, _, lang = path.name.removesuffix(".gz").rpartition(".")
        if not stem or not path.is_file() or path.name.startswith("."):
            continue
        known = found.setdefault(lang, {})
        if stem in known and lang in (source_lang, target_lang):
            raise DataError(
                f"two files for one split: {known[stem].name} and {path.name}",
                details=["remove one of them"],
            )
        known[stem] = path
    missing = [lang for lang in (source_lang, target_lang) if lang not in found]
    if missing:
        guess = nearest(missing[0], found)
        raise DataError(
            f"no files for language {missing[0]!r} in {directory}",
            details=[
                f"expected   <split>.{missing[0]} or <split>.{missing[0]}.gz",
                f"endings    {', '.join(sorted(found)) or 'none'}",
                *([f"did you mean   {guess}"] if guess else []),
            ],
        )
    shared = sorted(set(found[source_lang]) & set(found[target_lang]))
    if not shared:
        raise DataError(
            f"no split in {directory} has both languages",
            details=[
                f"{lang}   {', '.join(sorted(found[lang]))}" for lang in (source_lang, target_lang)
            ],
        )
    for split in sorted(set(found[source_lang]) ^ set(found[target_lang])):
        if is_expected_split(split):
            lang = source_lang if split in found[target_lang] else target_lang
            raise DataError(
                f"split {split!r} in {directory} has no file of language {lang!r}",
                details=[f"expected       {split}.{lang} or {split}.{lang}.gz"],
            )
    return {
        split: PairedFiles(
            split,
            found[source_lang][split],
            found[target_lang][split],
            find_references(found[target_lang][split]),
        )
        for split in shared
    }


def is_expected_split(split: str) -> bool:
    """Whether training or scoring looks for a split of this name."""
    return split in EXPECTED_SPLITS or split.startswith("test")


def read_lines(path: Path, *, remedy: str = "") -> Iterator[str]:
    """The lines of a UTF-8 file, gzip by its ending, one at a time.

    Args:
      remedy: a line that tells how to mend bytes that are not UTF-8.

    Raises:
      DataError: naming file and line, for bad UTF-8 or a truncated archive.
    """
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, raw in enumerate(file, start=1):  # binary files end lines at LF alone
                line = raw.removesuffix(b"\n").removesuffix(b"\r")
                if number == 1:
                    line = line.removeprefix(UTF8_BOM)
                yield line.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path.name} line {number} is not UTF-8",
            details=[
                f"byte {error.start + 1} of the line: {error.reason}",
                *([remedy] if remedy else []),
            ],
        ) from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path.name} is a damaged gzip file, after line {number}",
            details=[str(error), "copy or download it again"],
        ) from error
    except OSError as error:
        raise DataError(f"cannot read {path}", details=[error.strerror or str(error)]) from error


def read_pairs(files: PairedFiles, *, directory: str = "") -> Iterator[Pair]:
    """The pairs of a split in order.

    Raises:
      DataError: if the files differ in length; the line where they drift apart is named.
    """
    remedy = check_command(files, directory)
    others = [(path, read_lines(path)) for path in files.references]
    targets = zip_references(read_lines(files.target, remedy=remedy), others, target=files.target)
    both = itertools.zip_longest(read_lines(files.source, remedy=remedy), targets)
    for source, references in both:
        if source is None or references is None:
            raise _unequal(files, remedy)
        yield make_pair(source, references)


def check_command(files: PairedFiles, directory: str) -> str:
    """The line of an error message that says how to mend a corpus."""
    langs = [
        path.name.removesuffix(".gz").rpartition(".")[2] for path in (files.source, files.target)
    ]
    return (
        f"fix the data, or drop bad pairs:  seqgen data check --dir={directory or 'DIR'} "
        f"--source_lang={langs[0]} --target_lang={langs[1]} --fix=clean/"
    )


def _unequal(files: PairedFiles, remedy: str) -> DataError:
    lengths, words = [], []
    for path in (files.source, files.target):
        lines = list(read_lines(path, remedy=remedy))
        lengths.append(np.array([len(line) for line in lines]))
        words.append([len(line.split()) for line in lines])
    counts = [len(side) for side in words]
    drifts = find_drifts(*lengths) if min(counts) else []
    details = []
    if drifts and drifts[0].start < min(counts):
        line = drifts[0].start
        details.append(
            f"they first drift apart near line {line + 1} "
            f"({words[0][line]} words against {words[1][line]})"
        )
    else:
        details.append(f"they seem to go together as far as line {min(counts)}")
    return DataError(
        f"parallel files differ in length: {files.source.name} {counts[0]} lines, "
        f"{files.target.name} {counts[1]}",
        details=[*details, remedy],
    )
