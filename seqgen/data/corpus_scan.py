"""One pass over one file of a corpus: twenty bytes of facts a line, however long the line."""

import dataclasses
import hashlib
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from seqgen.data.defects import inspect
from seqgen.data.language_profile import LanguageProfile, fit_profile
from seqgen.data.raw_lines import OverlongLine, RawLines

BLOCK_LINES = 4096
BLOCK_BYTES = 1 << 22
PROFILE_LINES = 20_000
PROFILE_BYTES = 1 << 23
PROFILE_MIN_LINES = 20


@dataclasses.dataclass(frozen=True)
class FileScan:
    """The facts of n lines.

    Attributes:
      problem: '' | 'truncated_gz' | 'corrupt_gz'.
      bits: uint16 [n], the defects (seqgen.data.defects.BITS).
      lengths: int32 [n], characters of the mended text; 0 where it cannot be used.
      digests: uint64 [n], BLAKE2 of the mended text.
      scores: float32 [n], nats by which the line looks like the source side's language.
      num_bytes: size of the file on disk.
      modified: time of its last change, in ns.
    """

    path: Path
    problem: str
    bits: np.ndarray
    lengths: np.ndarray
    digests: np.ndarray
    scores: np.ndarray
    num_bytes: int
    modified: int

    def __len__(self) -> int:
        return len(self.bits)


def scan_file(path: Path, *, max_line_bytes: int, profile: LanguageProfile | None) -> FileScan:
    """Read a file once.

    Raises:
      OSError: if it cannot be read.
    """
    stat = path.stat()
    reader = RawLines(path, max_line_bytes=max_line_bytes)
    blocks = [_scan_block(block, profile) for block in _blocks(reader)]
    if not blocks:
        blocks = [_scan_block([], None)]
    bits, lengths, digests, scores = (np.concatenate(column) for column in zip(*blocks))
    return FileScan(
        path=path,
        problem=reader.problem,
        bits=bits,
        lengths=lengths,
        digests=digests,
        scores=scores,
        num_bytes=stat.st_size,
        modified=stat.st_mtime_ns,
    )


def fit_corpus_profile(
    source: Path, target: Path, *, max_line_bytes: int
) -> LanguageProfile | None:
    """Learn the two languages from the heads of two files; None if there is too little text."""
    heads = []
    for path in (source, target):
        head, size = [], 0
        reader = RawLines(path, max_line_bytes=max_line_bytes)
        for line in itertools.islice(reader, PROFILE_LINES):
            text = inspect(line)[0].encode()
            if text and size < PROFILE_BYTES:
                head.append(text)
                size += len(text)
        heads.append(head)
    if min(len(head) for head in heads) < PROFILE_MIN_LINES:
        return None
    return fit_profile(*heads)


def _blocks(lines: Iterable[bytes | OverlongLine]) -> Iterator[list[bytes | OverlongLine]]:
    block, size = [], 0
    for line in lines:
        block.append(line)
        size += len(line) if isinstance(line, bytes) else 0
        if len(block) == BLOCK_LINES or size > BLOCK_BYTES:
            yield block
            block, size = [], 0
    if block:
        yield block


def _scan_block(
    lines: list[bytes | OverlongLine], profile: LanguageProfile | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    inspected = [inspect(line) for line in lines]
    raw = [text.encode() for text, _ in inspected]
    digests = b"".join(hashlib.blake2b(line, digest_size=8).digest() for line in raw)
    scores = profile.scores(raw) if profile and raw else np.zeros(len(raw))
    return (
        np.array([bits for _, bits in inspected], np.uint16),
        np.array([len(text) for text, _ in inspected], np.int32),
        np.frombuffer(digests, "<u8").astype(np.uint64),
        scores.astype(np.float32),
    )
