"""Lines of a text file as they are on disk: bytes between LFs, whatever else stands in them.

Only LF ends a line here, so line i of one file stays the partner of line i of the other even where
`str.splitlines` would cut at CR, U+2028 or NEL. Memory is bounded by the longest permitted line,
not by the file: what is longer is measured and passed over.
"""

import codecs
import dataclasses
import zlib
from collections.abc import Iterator
from pathlib import Path

CHUNK_BYTES = 1 << 16
GZIP_MAGIC = b"\x1f\x8b"


@dataclasses.dataclass(frozen=True)
class OverlongLine:
    """Stands for a line of more bytes than permitted.

    Attributes:
      num_bytes: its length without the LF.
      valid: whether it is UTF-8 from end to end.
    """

    num_bytes: int
    valid: bool


class RawLines:
    """Iterates once over the lines of a plain or gzipped file.

    Attributes, complete when the iteration has ended:
      num_lines: lines seen so far; a last line without LF counts.
      problem: '' | 'truncated_gz' | 'corrupt_gz': why a gzipped file ended before its end. The
        lines before it have been given, the last of them perhaps cut.
    """

    def __init__(self, path: Path, *, max_line_bytes: int):
        self.path = path
        self.max_line_bytes = max_line_bytes
        self.num_lines = 0
        self.problem = ""

    def __iter__(self) -> Iterator[bytes | OverlongLine]:
        pending = _PendingLine(self.max_line_bytes)
        for chunk in self._chunks():
            *complete, rest = chunk.split(b"\n")
            for piece in complete:
                self.num_lines += 1
                if pending.is_empty and len(piece) <= self.max_line_bytes:
                    yield piece
                else:
                    pending.add(piece)
                    yield pending.finish()
            pending.add(rest)
        if not pending.is_empty:
            self.num_lines += 1
            yield pending.finish()

    def _chunks(self) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            if self.path.suffix != ".gz":
                while chunk := file.read(CHUNK_BYTES):
                    yield chunk
                return
            # zlib by hand: gzip.open throws away what it has unpacked before a truncation.
            member = zlib.decompressobj(wbits=31)
            packed = file.read(CHUNK_BYTES)
            if not packed:
                self.problem = "truncated_gz"
            while packed:
                try:
                    chunk = member.decompress(packed, CHUNK_BYTES)
                except zlib.error:
                    self.problem = "corrupt_gz"
                    return
                if chunk:
                    yield chunk
                if not member.eof:
                    packed = member.unconsumed_tail or file.read(CHUNK_BYTES)
                    continue
                packed = member.unused_data or file.read(CHUNK_BYTES)
                while packed and not packed.strip(b"\0"):  # zero padding is legal
                    packed = file.read(CHUNK_BYTES)
                if packed:
                    member = zlib.decompressobj(wbits=31)
            if not member.eof:
                self.problem = "truncated_gz"


class _PendingLine:
    """A line that arrives in pieces; beyond the limit only its length and validity are kept."""

    def __init__(self, max_bytes: int):
        self._max_bytes = max_bytes
        self._reset()

    @property
    def is_empty(self) -> bool:
        return self._num_bytes == 0

    def _reset(self) -> None:
        self._kept = bytearray()
        self._num_bytes = 0
        self._valid = True
        self._decoder = codecs.getincrementaldecoder("utf-8")("strict")

    def add(self, piece: bytes) -> None:
        overlong_before = self._num_bytes > self._max_bytes
        self._num_bytes += len(piece)
        if not overlong_before:
            self._kept += piece
            if self._num_bytes > self._max_bytes:
                self._check(bytes(self._kept))
                self._kept.clear()
        else:
            self._check(piece)

    def finish(self) -> bytes | OverlongLine:
        if self._num_bytes <= self._max_bytes:
            line: bytes | OverlongLine = bytes(self._kept)
        else:
            self._check(b"", final=True)
            line = OverlongLine(num_bytes=self._num_bytes, valid=self._valid)
        self._reset()
        return line

    def _check(self, piece: bytes, *, final: bool = False) -> None:
        if self._valid:
            try:
                self._decoder.decode(piece, final)
            except UnicodeDecodeError:
                self._valid = False
