"""Tokenizers of one piece a word, character or byte.

Control ids are PAD 0, UNK 1, BOS 2, EOS 3 for every kind. They have no written form: no text given
to `encode` produces one (except UNK, where a character is neither known nor spelt in bytes), and
`decode` prints none.
"""

import collections
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from seqgen.data import cache
from seqgen.data.base_tokenizer import BaseTokenizer
from seqgen.data.config import TokenizerConfig
from seqgen.types import BOS_ID, EOS_ID, NUM_CONTROL_IDS, PAD_ID, UNK_ID

NUM_BYTES = 256
_WORD = re.compile(r" ?[^ ]+| ")


def real_ids(ids: Any) -> Iterator[int]:
    """The ids before the first EOS that are not control ids."""
    for value in ids:
        if value == EOS_ID:
            return
        if value not in (PAD_ID, UNK_ID, BOS_ID):
            yield int(value)


def utf8(text: str) -> bytes:
    """UTF-8 bytes; halves of surrogate pairs, which no encoding knows, become U+FFFD."""
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode("utf-8")


class ByteTokenizer(BaseTokenizer):
    """UTF-8 bytes: id = byte + 4. Nothing is unknown to it."""

    kind = "byte"

    def __init__(self, *, lowercase: bool = False):
        self.lowercase = lowercase
        self.vocab_size = NUM_CONTROL_IDS + NUM_BYTES
        self.fingerprint = cache.digest_json(["byte", lowercase])

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without BOS_ID and EOS_ID."""
        if self.lowercase:
            text = text.lower()
        return [byte + NUM_CONTROL_IDS for byte in utf8(text)]

    def decode(self, ids: Any) -> str:
        """Plain text; bytes that are no UTF-8 become U+FFFD."""
        top = self.vocab_size
        return bytes(i - NUM_CONTROL_IDS for i in real_ids(ids) if i < top).decode(
            "utf-8", "replace"
        )

    def piece_bytes(self, token_id: int) -> bytes:
        """The byte that a token is."""
        return bytes([token_id - NUM_CONTROL_IDS]) if token_id >= NUM_CONTROL_IDS else b""

    def save(self, path: Path) -> None:
        """Write the vocabulary as JSON."""
        cache.write_json(path, {"kind": self.kind, "lowercase": self.lowercase})


class TableTokenizer(BaseTokenizer):
    """Pieces looked up in a table: characters, or words with the space before them.

    Args:
      pieces: the vocabulary in the order of ids, after the control ids and the bytes.
      kind: 'char' or 'word'. Words end at U+0020 alone, and joining pieces gives the text back.
      byte_fallback: unknown pieces are spelt in bytes (ids 4..259) instead of UNK.
      lowercase: text is lower-cased first.
    """

    def __init__(
        self, pieces: Sequence[str], *, kind: str, byte_fallback: bool, lowercase: bool = False
    ):
        self.kind = kind
        self.unknown_is_word = kind == "word"
        self.pieces = list(pieces)
        self.byte_fallback = byte_fallback
        self.lowercase = lowercase
        self._first = NUM_CONTROL_IDS + (NUM_BYTES if byte_fallback else 0)
        self._ids = {piece: self._first + i for i, piece in enumerate(self.pieces)}
        self.vocab_size = self._first + len(self.pieces)
        self.fingerprint = cache.digest_json([kind, self.pieces, byte_fallback, lowercase])

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without BOS_ID and EOS_ID."""
        if self.lowercase:
            text = text.lower()
        ids: list[int] = []
        for piece in split_pieces(text, kind=self.kind):
            known = self._ids.get(piece)
            if known is not None:
                ids.append(known)
            elif self.byte_fallback:
                ids.extend(byte + NUM_CONTROL_IDS for byte in utf8(piece))
            else:
                ids.append(UNK_ID)
        return ids

    def decode(self, ids: Any) -> str:
        """Plain text."""
        spelt = b"".join(self.piece_bytes(i) for i in real_ids(ids) if i < self.vocab_size)
        text = spelt.decode("utf-8", "replace")
        return text.removeprefix(" ") if self.kind == "word" else text

    def piece_bytes(self, token_id: int) -> bytes:
        """A piece in UTF-8 (words with the space before them), or the byte that a token is."""
        if token_id < NUM_CONTROL_IDS:
            return b""
        if token_id < self._first:
            return bytes([token_id - NUM_CONTROL_IDS])
        return utf8(self.pieces[token_id - self._first])

    def save(self, path: Path) -> None:
        """Write the vocabulary as JSON."""
        cache.write_json(
            path,
            {
                "kind": self.kind,
                "pieces": self.pieces,
                "byte_fallback": self.byte_fallback,
                "lowercase": self.lowercase,
            },
        )


def split_pieces(text: str, *, kind: str) -> Iterable[str]:
    """Characters, or words that carry the space before them (the first gets one, too)."""
    if kind == "char":
        return text
    return _WORD.findall(f" {text}") if text else ()


def build_table(texts: Iterable[str], cfg: TokenizerConfig, *, lowercase: bool) -> TableTokenizer:
    """The most frequent characters or words that fit into the vocabulary, ties by code point."""
    counts: collections.Counter[str] = collections.Counter()
    for text in texts:
        counts.update(split_pieces(text.lower() if lowercase else text, kind=cfg.kind))
    first = NUM_CONTROL_IDS + (NUM_BYTES if cfg.byte_fallback else 0)
    room = max(0, cfg.vocab_size - first)
    ranked = sorted(counts, key=lambda piece: (-counts[piece], piece))[:room]
    return TableTokenizer(
        ranked, kind=cfg.kind, byte_fallback=cfg.byte_fallback, lowercase=lowercase
    )
