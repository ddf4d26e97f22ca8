"""Corpora rewritten once as ArrayRecord in the cache, and read from there by index."""

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from seqgen.data import cache
from seqgen.data.sources import Pair, Source, make_pair
from seqgen.errors import DataError

VERSION = 2  # raise it when the same corpus would be written otherwise
REPORT = "report.json"


@dataclasses.dataclass(frozen=True)
class RawSplit:
    """A split as its author wrote it.

    Attributes:
      fingerprint: digest of the files it is read from.
      read: gives the pairs in order.
    """

    fingerprint: str
    read: Callable[[], Iterator[Pair]]


@dataclasses.dataclass(eq=False)
class PreparedSource:
    """A split kept as ArrayRecord; the reader is opened when the first pair is asked for.

    Attributes:
      directory: where the records are, with the data report.
      split: its name in the records.
      fingerprint: digest of the files it was made from.
      report: its counts: pairs, empty sides, characters, words.
    """

    directory: Path
    split: str
    fingerprint: str
    report: dict[str, Any]

    def __len__(self) -> int:
        return self.report["pairs"]

    def __getitem__(self, index: int) -> Pair:
        return decode_record(self._records[index])

    def __getitems__(self, indices: Sequence[int]) -> list[Pair]:
        return [decode_record(record) for record in self._records.__getitems__(list(indices))]

    @functools.cached_property
    def _records(self) -> Any:
        from seqgen.data import tfds_builder  # seconds to import, and not always needed

        return tfds_builder.open_records(self.directory, split=self.split)


def decode_record(record: Mapping[str, Any]) -> Pair:
    """An example of the bytes that TFDS hands out."""
    more = json.loads(record["references"]) if record["references"] else []
    return make_pair(record["source"].decode("utf-8"), [record["target"].decode("utf-8"), *more])


def encode_record(pair: Pair) -> dict[str, str]:
    """An example as text fields; 'references' holds those after the target as JSON, or nothing."""
    more = pair.get("references", [])[1:]
    return {
        "source": pair["source"],
        "target": pair["target"],
        "references": json.dumps(more) if more else "",
    }


def prepare_corpus(
    splits: Mapping[str, RawSplit], *, origin: Mapping[str, Any], cache_dir: str = ""
) -> dict[str, Source]:
    """Write `splits` as ArrayRecord unless the cache has them, and open them.

    Args:
      splits: the raw splits; their fingerprints name the copy, so a changed file gives a new one.
      origin: what they are, for the report.
      cache_dir: see `cache.cache_directory`.

    Raises:
      DataError: whatever reading the raw splits finds.
      StorageError: if the cache cannot be written.
    """
    key = cache.digest_json(
        {"version": VERSION, "splits": {name: raw.fingerprint for name, raw in splits.items()}}
    )
    target = cache.cache_directory(cache_dir) / "prepared" / key
    # TFDS reads some characters of a split's name as a slice of it.
    records = {name: f"split{number}" for number, name in enumerate(sorted(splits))}

    def build(directory: Path) -> None:
        from seqgen.data import tfds_builder

        counts = {name: Counts() for name in splits}
        readers = {
            records[name]: _counted(name, raw.read, counts[name]) for name, raw in splits.items()
        }
        tfds_builder.write_records(directory, splits=readers)
        report = {
            "version": VERSION,
            "origin": dict(origin),
            "splits": {
                name: {"fingerprint": raw.fingerprint, **dataclasses.asdict(counts[name])}
                for name, raw in splits.items()
            },
        }
        cache.write_json(directory / REPORT, report)

    report = _read_report(cache.build_once(target, build))
    if report is None or set(report["splits"]) != set(splits):
        cache.discard(target)
        report = _read_report(cache.build_once(target, build))
        if report is None:
            raise DataError(f"the data cache {target} is damaged", details=["remove it"])
    return {
        name: PreparedSource(target, records[name], raw.fingerprint, report["splits"][name])
        for name, raw in splits.items()
    }


@dataclasses.dataclass
class Counts:
    """The data report of a split."""

    pairs: int = 0
    references: int = 0
    empty_source: int = 0
    empty_target: int = 0
    source_characters: int = 0
    target_characters: int = 0
    source_words: int = 0
    target_words: int = 0

    def add(self, pair: Pair) -> None:
        """Count one more pair."""
        source, target = pair["source"], pair["target"]
        self.pairs += 1
        self.references += len(pair.get("references", [target]))
        self.empty_source += not source.strip()
        self.empty_target += not target.strip()
        self.source_characters += len(source)
        self.target_characters += len(target)
        self.source_words += len(source.split())
        self.target_words += len(target.split())


def _counted(
    name: str, read: Callable[[], Iterator[Pair]], counts: Counts
) -> Callable[[], Iterator[dict[str, str]]]:
    def records() -> Iterator[dict[str, str]]:
        for pair in read():
            counts.add(pair)
            yield encode_record(pair)
        if not counts.pairs:
            raise DataError(f"split {name!r} is empty", details=["remove its files, or fill them"])

    return records


def _read_report(directory: Path) -> dict[str, Any] | None:
    try:
        report = cache.read_json(directory / REPORT)
        return report if report["version"] == VERSION and "splits" in report else None
    except (OSError, json.JSONDecodeError, KeyError, TypeError):
        return None
