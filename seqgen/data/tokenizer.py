"""Tokenizers of one piece a word, character or byte; making, saving and loading any kind.

Control ids are PAD 0, UNK 1, BOS 2, EOS 3 for every kind. They have no written form: no text given
to `encode` produces one (except UNK, where a character is neither known nor spelt in bytes), and
`decode` prints none.
"""

import collections
import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from seqgen.data import cache
from seqgen.data.config import TokenizerConfig
from seqgen.errors import DataError
from seqgen.types import BOS_ID, EOS_ID, NUM_CONTROL_IDS, PAD_ID, UNK_ID

TOKENIZER_JSON = "tokenizer.json"
NUM_BYTES = 256
_WORD = re.compile(r" ?[^ ]+| ")


class SavableTokenizer(Protocol):
    """What this package asks of its tokenizers beyond `types.Tokenizer`."""

    vocab_size: int
    fingerprint: str

    def encode(self, text: str) -> list[int]: ...

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]: ...

    def decode(self, ids: Any) -> str: ...

    def sample(self, text: str, *, seed: int) -> list[int]:
        """One of several segmentations, a pure function of text and seed; `encode` if not on."""
        ...

    def save(self, path: Path) -> None: ...


@dataclasses.dataclass(frozen=True)
class Tokenizers:
    """The tokenizers of the two sides: the same object if joint."""

    source: Any
    target: Any

    @property
    def joint(self) -> bool:
        """One vocabulary for both sides."""
        return self.source.fingerprint == self.target.fingerprint


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


class ByteTokenizer:
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

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Any) -> str:
        """Plain text; bytes that are no UTF-8 become U+FFFD."""
        top = self.vocab_size
        return bytes(i - NUM_CONTROL_IDS for i in real_ids(ids) if i < top).decode(
            "utf-8", "replace"
        )

    def sample(self, text: str, *, seed: int) -> list[int]:
        """`encode`: there is one segmentation."""
        del seed
        return self.encode(text)

    def save(self, path: Path) -> None:
        """Write the vocabulary as JSON."""
        cache.write_json(path, {"kind": self.kind, "lowercase": self.lowercase})


class TableTokenizer:
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

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text."""
        return [self.encode(text) for text in texts]

    def decode(self, ids: Any) -> str:
        """Plain text."""
        spelt = bytearray()
        for value in real_ids(ids):
            if value < self._first:
                spelt.append(value - NUM_CONTROL_IDS)
            elif value < self.vocab_size:
                spelt += utf8(self.pieces[value - self._first])
        text = spelt.decode("utf-8", "replace")
        return text.removeprefix(" ") if self.kind == "word" else text

    def sample(self, text: str, *, seed: int) -> list[int]:
        """`encode`: there is one segmentation."""
        del seed
        return self.encode(text)

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


def build_tokenizers(
    cfg: TokenizerConfig,
    *,
    source_texts: Callable[[], Iterable[str]],
    target_texts: Callable[[], Iterable[str]],
    lowercase: bool = False,
) -> Tokenizers:
    """Train (or take) the tokenizers that `cfg` asks for; the same texts give the same bytes.

    Args:
      source_texts, target_texts: give the training texts of a side, in a fixed order.

    Raises:
      DataError: if the vocabulary does not fit the texts, or a given file cannot be used.
    """
    from seqgen.data import sentencepiece_tokenizer as pieces

    def both() -> Iterator[str]:
        yield from source_texts()
        yield from target_texts()

    if cfg.kind == "byte":
        one = ByteTokenizer(lowercase=lowercase)
        return Tokenizers(one, one)
    if cfg.kind == "given":
        if not cfg.path:
            raise DataError(
                "tokenizer kind 'given' needs a file",
                details=["name it:  --config.tokenizer.path=FILE.model"],
            )
        one = pieces.load_model(Path(cfg.path), sampling=cfg, lowercase=lowercase)
        if cfg.joint or not cfg.target_path:
            return Tokenizers(one, one)
        other = pieces.load_model(Path(cfg.target_path), sampling=cfg, lowercase=lowercase)
        return Tokenizers(one, other)
    if cfg.kind in ("bpe", "unigram"):
        build: Callable[..., Any] = pieces.train_sentencepiece
    else:
        build = build_table
    if cfg.joint:
        one = build(both(), cfg, lowercase=lowercase)
        return Tokenizers(one, one)
    return Tokenizers(
        build(source_texts(), cfg, lowercase=lowercase),
        build(target_texts(), cfg, lowercase=lowercase),
    )


def save_tokenizers(tokenizers: Tokenizers, directory: Path, *, made_from: str) -> None:
    """Write both tokenizers and tokenizer.json into an existing directory.

    Args:
      made_from: digest of the settings and texts they were made from.
    """
    entries = {}
    sides = {"source": tokenizers.source, "target": tokenizers.target}
    for side, tokenizer in sides.items():
        stem = "joint" if tokenizers.joint else side
        suffix = ".model" if tokenizer.kind == "sentencepiece" else ".json"
        name = f"{stem}{suffix}"
        tokenizer.save(directory / name)
        entries[side] = {
            "kind": tokenizer.kind,
            "file": name,
            "file_digest": cache.digest_file(directory / name),
            "fingerprint": tokenizer.fingerprint,
            "vocab_size": tokenizer.vocab_size,
            "options": getattr(tokenizer, "options", {}),
        }
    cache.write_json(
        directory / TOKENIZER_JSON,
        {"version": 1, "joint": tokenizers.joint, "made_from": made_from, **entries},
    )


def load_tokenizers(directory: Path) -> Tokenizers:
    """The tokenizers that `save_tokenizers` wrote.

    Raises:
      DataError: if a file is missing or damaged.
    """
    record = read_record(directory)
    source = _load(Path(directory), record["source"])
    if record["joint"]:
        return Tokenizers(source, source)
    return Tokenizers(source, _load(Path(directory), record["target"]))


def read_record(directory: Path) -> dict[str, Any]:
    """tokenizer.json of a directory.

    Raises:
      DataError: if it is missing or damaged.
    """
    path = Path(directory) / TOKENIZER_JSON
    try:
        record = cache.read_json(path)
        if record["version"] != 1 or not {"joint", "source", "target"} <= set(record):
            raise ValueError("not a record of this version")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"cannot read the tokenizer record {path}", details=[str(error)]) from error
    return record


def _load(directory: Path, entry: dict[str, Any]) -> Any:
    from seqgen.data import sentencepiece_tokenizer as pieces

    try:
        name = entry["file"]
        if Path(name).name != name:
            raise ValueError(f"{name!r} is not a plain file name")
        path = directory / name
        if cache.digest_file(path) != entry["file_digest"]:
            raise ValueError(f"{path} was changed after it was saved")
        if entry["kind"] == "sentencepiece":
            return pieces.SentencePieceTokenizer(path.read_bytes(), **entry["options"])
        fields = cache.read_json(path)
        if entry["kind"] == "byte":
            return ByteTokenizer(lowercase=fields["lowercase"])
        return TableTokenizer(fields.pop("pieces"), **fields)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"cannot load a tokenizer of {directory}", details=[str(error)]) from error
