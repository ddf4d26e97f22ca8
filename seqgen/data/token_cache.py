"""A split tokenised once: ids in two flat memory-mapped arrays with offsets."""

import dataclasses
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from seqgen.data import cache
from seqgen.data.sources import Pair, Source
from seqgen.data.tokenizer_store import Tokenizers
from seqgen.errors import DataError

VERSION = 2  # raise it when the same split would be written otherwise
MANIFEST = "manifest.json"
_ARRAYS = ("source_ids", "source_offsets", "target_ids", "target_offsets", "blank")
_CHUNK = 2048


@dataclasses.dataclass(frozen=True, eq=False)
class TokenizedSplit:
    """Ids of example i: `source_ids[source_offsets[i]:source_offsets[i + 1]]`, without BOS, EOS.

    Attributes:
      source_ids, target_ids: uint16 or int32, flat.
      source_offsets, target_offsets: int64 [examples + 1].
      blank: bool [examples]; a side of the pair, or a line of text without sources, is empty or
        white space.
      fingerprint: digest of the ids.
    """

    source_ids: np.ndarray
    source_offsets: np.ndarray
    target_ids: np.ndarray
    target_offsets: np.ndarray
    blank: np.ndarray
    fingerprint: str

    def __len__(self) -> int:
        return len(self.blank)

    @property
    def source_lens(self) -> np.ndarray:
        """int64 [examples]: source tokens, EOS included."""
        return np.diff(self.source_offsets) + 1

    @property
    def target_lens(self) -> np.ndarray:
        """int64 [examples]: target tokens, EOS included."""
        return np.diff(self.target_offsets) + 1


def read_all(source: Source, count: int) -> Iterator[list[Pair]]:
    """The first `count` pairs in order, in lists of moderate length."""
    many = getattr(source, "__getitems__", None)
    for start in range(0, count, _CHUNK):
        indices = range(start, min(start + _CHUNK, count))
        yield many(indices) if many else [source[i] for i in indices]


def tokenize_split(
    source: Source,
    tokenizers: Tokenizers,
    *,
    num_examples: int,
    cache_dir: str = "",
    report: Callable[[str], None] | None = None,
) -> TokenizedSplit:
    """Tokenise the first `num_examples` pairs unless the cache has them, and open the result.

    A cached copy that does not match its digests is made again.

    Raises:
      StorageError: if the cache cannot be written.
      DataError: if it stays damaged, or a target has a label that training does not have.
    """
    key = cache.digest_json(
        [
            VERSION,
            source.fingerprint,
            tokenizers.source.fingerprint,
            tokenizers.target.fingerprint,
            num_examples,
        ]
    )
    target = cache.cache_directory(cache_dir) / "tokens" / key

    def build(directory: Path) -> None:
        if report:
            report(f"tokenising {num_examples:,} pairs")
        _write(directory, _tokenize(source, tokenizers, num_examples))

    cache.build_once(target, build)
    try:
        return _open(target)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        if report:
            report(f"token cache {target.name} is damaged ({error}); making it again")
        cache.discard(target)
    cache.build_once(target, build)
    try:
        return _open(target)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"the token cache {target} is damaged", details=[str(error)]) from error


def _tokenize(source: Source, tokenizers: Tokenizers, count: int) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    flat: dict[str, list[np.ndarray]] = {"source": [], "target": []}
    lengths: dict[str, list[int]] = {"source": [], "target": []}
    blank = np.zeros(count, bool)
    position = 0
    sides = (("source", tokenizers.source), ("target", tokenizers.target))
    alone = tokenizers.multiline
    for pairs in read_all(source, count):
        for offset, pair in enumerate(pairs):
            sides_of = (pair["target"],) if alone else (pair["source"], pair["target"])
            blank[position + offset] = not all(side.strip() for side in sides_of)
        position += len(pairs)
        for side, tokenizer in sides:
            encoded = tokenizer.encode_many([pair[side] for pair in pairs])
            lengths[side].extend(map(len, encoded))
            kind = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.int32
            flat[side].append(
                np.fromiter((i for ids in encoded for i in ids), kind, sum(map(len, encoded)))
            )
    for side, tokenizer in sides:
        kind = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.int32
        arrays[f"{side}_ids"] = np.concatenate([np.zeros(0, kind), *flat[side]])
        arrays[f"{side}_offsets"] = np.concatenate([[0], np.cumsum(lengths[side])]).astype(np.int64)
    return {**arrays, "blank": blank}


def _write(directory: Path, arrays: dict[str, np.ndarray]) -> None:
    files: dict[str, Any] = {}
    for name in _ARRAYS:
        path = directory / f"{name}.npy"
        np.save(path, arrays[name], allow_pickle=False)
        files[path.name] = {"size": path.stat().st_size, "digest": cache.digest_file(path)}
    cache.write_json(directory / MANIFEST, {"version": VERSION, "files": files})


def _open(directory: Path) -> TokenizedSplit:
    """Map the arrays; ValueError if a file does not match the manifest."""
    manifest = cache.read_json(directory / MANIFEST)
    arrays = {}
    for name in _ARRAYS:
        path = directory / f"{name}.npy"
        expected = manifest["files"][path.name]
        if path.stat().st_size != expected["size"]:
            raise ValueError(f"{path.name} has the wrong size")
        if cache.digest_file(path) != expected["digest"]:
            raise ValueError(f"{path.name} does not match its digest")
        # As a plain array: every slice of a np.memmap costs a microsecond more.
        arrays[name] = np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    fingerprint = cache.digest_json({name: f["digest"] for name, f in manifest["files"].items()})
    return TokenizedSplit(**arrays, fingerprint=fingerprint)
