"""Corpora in JSON lines: `<split>.jsonl` or `<split>.jsonl.gz`, one object a line, named fields."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seqgen.data.cache import digest_file, digest_json
from seqgen.data.config import DataConfig
from seqgen.data.prepared import RawSplit, prepare_corpus
from seqgen.data.sources import Pair, Source, make_pair
from seqgen.data.text_files import read_lines
from seqgen.errors import DataError
from seqgen.types import nearest


def open_jsonl(cfg: DataConfig) -> dict[str, Source]:
    """The splits of the directory `cfg.dir`, prepared on first use.

    Raises:
      DataError: if the directory is missing, or a line is not an object with both fields as text.
    """
    fields = (cfg.source_field or "source", cfg.target_field or "target")
    several = cfg.references_field
    named = (*fields, several) if several else fields
    labels = [cfg.targets] if cfg.labelled else []
    raw = {}
    for split, path in find_files(Path(cfg.dir)).items():
        raw[split] = RawSplit(
            fingerprint=digest_json([digest_file(path), named, *labels]),
            read=lambda path=path: read_objects(
                path, fields=fields, references_field=several, targets=cfg.targets
            ),
        )
    origin = {"kind": "jsonl", "fields": [*named, *labels]}
    return prepare_corpus(raw, origin=origin, cache_dir=cfg.cache_dir)


def find_files(directory: Path) -> dict[str, Path]:
    """The JSONL files of a directory by split.

    Raises:
      DataError: if there is none, or two for one split.
    """
    if not directory.is_dir() or str(directory) == ".":
        raise DataError(
            f"corpus directory {str(directory)!r} does not exist",
            details=["say where it is:  --config.data.dir=DIR"],
        )
    found: dict[str, Path] = {}
    for path in sorted(directory.iterdir()):
        split, dot, _ = path.name.removesuffix(".gz").rpartition(".jsonl")
        if not dot or not split or split.startswith(".") or not path.is_file():
            continue
        if split in found:
            raise DataError(f"two files for one split: {found[split].name} and {path.name}")
        found[split] = path
    if not found:
        raise DataError(f"no <split>.jsonl or <split>.jsonl.gz in {directory}")
    return found


def read_objects(
    path: Path,
    *,
    fields: tuple[str, str],
    references_field: str = "",
    targets: str = "text",
) -> Iterator[Pair]:
    """The pairs of a file in order.

    Args:
      fields: of the source, a text; of the target, a text or a list of texts: the first is the
        target, all are references.
      references_field: of more references, a list of texts, in objects that have it.
      targets: `data.targets`: a label may be a number, words and their labels may be lists.

    Raises:
      DataError: naming file and line, for anything but an object with both fields as text.
    """
    for where, item in read_items(path):
        source = _value(item, fields[0], where=where, option="source_field")
        target = _value(item, fields[1], where=where, option="target_field")
        if targets == "labels":
            number = type(target) in (int, bool)
            target = str(target).lower() if number else _text(target, fields[1], where=where)
        elif targets == "tags":
            source, target = (
                " ".join(_texts(side, field, where=where))
                for side, field in zip((source, target), fields)
            )
            words, tags = len(source.split()), len(target.split())
            if words != tags:
                raise DataError(f"{where} has {words} words and {tags} labels")
        more = item.get(references_field, []) if references_field else []
        texts = [
            *_texts(target, fields[1], where=where),
            *(_texts(more, references_field, where=where) if more else []),
        ]
        yield make_pair(_text(source, fields[0], where=where), list(dict.fromkeys(texts)))


def read_items(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a file in order, each with 'FILE line N' for errors.

    Raises:
      DataError: naming file and line, for anything but an object.
    """
    for number, line in enumerate(read_lines(path), start=1):
        if not line.strip():  # such as a blank line at the end
            continue
        where = f"{path.name} line {number}"
        try:
            item = json.loads(line, parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{where} is not JSON", details=[str(error)]) from error
        if not isinstance(item, dict):
            raise DataError(f"{where} is not a JSON object but {type(item).__name__}")
        yield where, item


def _value(item: dict[str, Any], field: str, *, where: str, option: str) -> Any:
    if field not in item:
        guess = nearest(field, item)
        raise DataError(
            f"{where} has no field {field!r}",
            details=[
                f"its fields     {', '.join(item)}",
                *([f"did you mean   {guess}"] if guess else []),
                f"name it with   --config.data.{option}=FIELD",
            ],
        )
    return item[field]


def _texts(value: Any, field: str, *, where: str) -> list[str]:
    """The texts of a list, or the one text."""
    if not isinstance(value, list):
        return [_text(value, field, where=where)]
    if not value:
        raise DataError(f"{where}: field {field!r} is an empty list")
    return [_text(text, field, where=where) for text in value]


def _text(value: Any, field: str, *, where: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{where}: field {field!r} is not text but {type(value).__name__}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: field {field!r} holds half of a surrogate pair") from error
    return value


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")
