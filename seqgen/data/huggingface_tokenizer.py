"""WordPiece and byte-level BPE by the library `tokenizers`, an optional extra, behind our ids.

The library cuts text; ids become text here, so that the bytes of pieces and the text of their sum
agree. Its control tokens are no part of what it is given: no text gives one, and no text is read
as one.

* Byte-level BPE gives back every text as it was (but what a `normalizer` of its own changes).
* WordPiece gives back what it keeps: words with one space between them, punctuation and CJK
  characters as words of their own, lower-cased without accents if its maker did so. What it gives
  back is cut as the text was, where no word is unknown. To BERT a line end is a space; here it is
  one id more, behind the vocabulary, or plain text would have no lines.
"""

import json
from pathlib import Path
from typing import Any

from seqgen.data import cache
from seqgen.data.base_tokenizer import BaseTokenizer
from seqgen.data.huggingface_vocabulary import Vocabulary, byte_symbols
from seqgen.data.tokenizer import real_ids, utf8
from seqgen.errors import ConfigError, DataError
from seqgen.types import NUM_CONTROL_IDS


class HuggingFaceTokenizer(BaseTokenizer):
    """A vocabulary that the library cuts text by.

    Args:
      vocabulary: its pieces, with our ids.
      lowercase: text is lower-cased first.

    Attributes:
      origin: the vocabulary, with the ids that its pieces had.

    Raises:
      ConfigError: the library is not installed.
      DataError: it does not take the vocabulary.
    """

    def __init__(self, vocabulary: Vocabulary, *, lowercase: bool = False):
        self.origin = vocabulary
        self.kind = vocabulary.kind
        self.unknown_is_word = vocabulary.kind == "wordpiece"
        self.lowercase = lowercase
        self._library = _library_tokenizer(vocabulary)
        self._spelt = [b""] * NUM_CONTROL_IDS + _piece_bytes(vocabulary)
        if self.drops_line_space:
            self._line_end_id = len(self._spelt)
            self._spelt.append(b"\n")
        self._space_first = vocabulary.space_first
        self.vocab_size = len(self._spelt)
        self.fingerprint = cache.digest_json(
            [self.kind, vocabulary.settings, vocabulary.space_first, lowercase]
        )

    @property
    def drops_line_space(self) -> bool:
        """Where a line begins, decoding takes a space off its first piece."""
        return self.kind == "wordpiece"

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without BOS_ID and EOS_ID."""
        text = utf8(text.lower() if self.lowercase else text).decode("utf-8")
        if not self.drops_line_space:
            return self._cut(text)
        first, *others = text.split("\n")
        ids = self._cut(first)
        for line in others:
            ids += [self._line_end_id, *self._cut(line)]
        return ids

    def _cut(self, text: str) -> list[int]:
        if text and self._space_first:
            text = f" {text}"
        # Not a list of texts at once: for that the library makes a pool of threads.
        return self._library.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Any) -> str:
        """Plain text; bytes that are no UTF-8 become U+FFFD."""
        top = self.vocab_size
        spelt = b"".join(self._spelt[i] for i in real_ids(ids) if i < top)
        if self.drops_line_space:
            spelt = spelt.replace(b"\n ", b"\n")
        text = spelt.decode("utf-8", "replace")
        return text.removeprefix(" ") if self._space_first else text

    def piece_bytes(self, token_id: int) -> bytes:
        """The bytes that a piece is; those that begin a word of WordPiece have a space first."""
        return self._spelt[token_id]

    def save(self, path: Path) -> None:
        """Write the vocabulary as JSON."""
        record = {"vocabulary": vars(self.origin), "lowercase": self.lowercase}
        cache.write_json(path, record)


def _piece_bytes(vocabulary: Vocabulary) -> list[bytes]:
    model = vocabulary.settings["model"]
    ranked = sorted(model["vocab"].items(), key=lambda item: item[1])
    pieces = [piece for piece, number in ranked if number >= NUM_CONTROL_IDS]
    if vocabulary.kind == "wordpiece":
        mark = model["continuing_subword_prefix"]
        inside = [piece.startswith(mark) and piece != mark for piece in pieces]
        return [
            utf8(piece.removeprefix(mark) if continues else f" {piece}")
            for piece, continues in zip(pieces, inside, strict=True)
        ]
    bytes_of = byte_symbols()
    return [
        bytes(map(bytes_of.__getitem__, piece)) if bytes_of.keys() >= set(piece) else utf8(piece)
        for piece in pieces
    ]


def _library_tokenizer(vocabulary: Vocabulary) -> Any:
    try:
        import tokenizers  # an optional extra
    except ImportError as error:
        raise ConfigError(
            f"a {vocabulary.kind} vocabulary needs the package tokenizers",
            details=["install it     pip install 'seqgen[hf]'"],
        ) from error
    try:
        return tokenizers.Tokenizer.from_str(json.dumps(vocabulary.settings))
    except Exception as error:  # the library raises no narrower one
        raise DataError(
            "the library tokenizers does not take this vocabulary", details=[str(error)[:200]]
        ) from error
