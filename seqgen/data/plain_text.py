"""Plain text for language models: `<split>.txt` or `<split>.txt.gz` in a directory.

A split is one text. Its items are lines that end with LF, as targets of pairs without a source, so
that preparation and token cache are those of every corpus. What ends a line is said in
`text_files`; a last line without LF gets one.
"""

from collections.abc import Iterator
from pathlib import Path

from seqgen.data.cache import digest_file, digest_json
from seqgen.data.config import DataConfig
from seqgen.data.prepared import RawSplit, prepare_corpus
from seqgen.data.sources import Pair, Source
from seqgen.data.text_files import read_lines
from seqgen.errors import DataError

ENDINGS = (".txt", ".txt.gz")


def open_plain_text(cfg: DataConfig) -> dict[str, Source]:
    """The splits of the directory `cfg.dir`, prepared on first use.

    Raises:
      DataError: if the directory is missing, holds no text, or a file is damaged.
    """
    files = find_texts(cfg.dir)
    raw = {
        split: RawSplit(
            fingerprint=digest_json(["plain_text", digest_file(path)]),
            read=lambda path=path: read_text(path),
        )
        for split, path in files.items()
    }
    origin = {"kind": "plain_text", "files": {split: path.name for split, path in files.items()}}
    return prepare_corpus(raw, origin=origin, cache_dir=cfg.cache_dir)


def find_texts(directory: str) -> dict[str, Path]:
    """The file of every split, by name.

    Raises:
      DataError: if there is none, or two for one split.
    """
    if not directory:
        raise DataError(
            "no corpus directory given", details=["say where it is:  --config.data.dir=DIR"]
        )
    if not Path(directory).is_dir():
        raise DataError(f"corpus directory {directory} does not exist")
    found: dict[str, Path] = {}
    for path in sorted(Path(directory).iterdir()):
        split, dot, ending = path.name.partition(".")
        if not split or f"{dot}{ending}" not in ENDINGS or not path.is_file():
            continue
        if split in found:
            raise DataError(
                f"two files for one split: {found[split].name} and {path.name}",
                details=["remove one of them"],
            )
        found[split] = path
    if not found:
        raise DataError(
            f"no plain text in {directory}",
            details=["expected   train.txt, val.txt and perhaps test.txt, each perhaps with .gz"],
        )
    return found


def read_text(path: Path) -> Iterator[Pair]:
    """The lines of a file in order, each with its LF."""
    for line in read_lines(path):
        yield {"source": "", "target": f"{line}\n"}
