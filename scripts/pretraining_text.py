"""Plain text to pre-train on, out of corpora of several kinds: documents with blank lines between.

    python scripts/pretraining_text.py --data=../shared/data --output=runs/text

Reads the train files of what --data has of `CORPORA`: plain text as it is, dialogues as a turn a
line, of summaries the long texts alone. Every fiftieth document of a corpus goes to val.txt, the
others to train.txt; splits other than train, and synopses, are not read.
"""

import argparse
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from seqgen.data import cache
from seqgen.data.text_files import read_lines
from seqgen.errors import DataError, labelled

HELD_OUT = 50  # one document in so many

Document = list[str]  # its lines, none of them blank


def plain_documents(lines: Iterable[str]) -> Iterator[Document]:
    """What stands between lines of nothing but white space."""
    for is_text, group in itertools.groupby(lines, key=lambda line: bool(line.strip())):
        if is_text:
            yield [line.strip() for line in group]


def dialogue_documents(lines: Iterable[str]) -> Iterator[Document]:
    """The turns of each dialogue."""
    for line in lines:
        turns = (" ".join(turn["text"].split()) for turn in json.loads(line)["turns"])
        if document := [text for text in turns if text]:
            yield document


def source_documents(lines: Iterable[str]) -> Iterator[Document]:
    """The input text of each pair."""
    for line in lines:
        if text := " ".join(json.loads(line)["source"].split()):
            yield [text]


CORPORA: dict[str, Callable[[Iterable[str]], Iterator[Document]]] = {
    "wikitext2_small": plain_documents,
    "tinyshakespeare": plain_documents,
    "poetry_pd": plain_documents,
    "schema_guided": dialogue_documents,
    "debian_synopsis": source_documents,
}


def write_text(data: Path, output: Path) -> dict[str, Any]:
    """Make the directory `output` if it is not there.

    Args:
      data: directory of the corpora.
      output: gets train.txt, val.txt and facts.json.

    Returns:
      The facts: {corpus: {'documents', 'bytes'}} of both files together.

    Raises:
      DataError: there is none of the corpora.
      StorageError: it cannot be written.
    """
    cache.build_once(output, lambda folder: _write(data, folder))
    return cache.read_json(output / "facts.json")


def _write(data: Path, folder: Path) -> None:
    facts = {}
    with (
        (folder / "train.txt").open("w", encoding="utf-8", newline="\n") as train,
        (folder / "val.txt").open("w", encoding="utf-8", newline="\n") as val,
    ):
        for name, documents in CORPORA.items():
            found = sorted((data / name).glob("train.*"))
            if not found:
                continue
            count = size = 0
            for document in documents(read_lines(found[0])):
                text = "\n".join(document) + "\n\n"
                (train if count % HELD_OUT else val).write(text)
                count, size = count + 1, size + len(text.encode())
            facts[name] = {"documents": count, "bytes": size}
    if not facts:
        looked = labelled("looked for", ", ".join(CORPORA))
        raise DataError(f"no text to pre-train on in {data}", details=[looked])
    cache.write_json(folder / "facts.json", facts)


def main() -> None:
    """Write the text and print its sizes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="directory of the corpora")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    print(json.dumps(write_text(options.data, options.output), indent=1))


if __name__ == "__main__":
    main()
