"""Text of several lines as ids: each line by itself, one id for every line end."""

import functools
from collections.abc import Sequence
from typing import Any

from seqgen.data.base_tokenizer import BaseTokenizer, WrappedTokenizer
from seqgen.data.tokenizer import utf8
from seqgen.errors import DataError
from seqgen.types import EOS_ID

LINE_END = "\n"


class MultilineTokenizer(WrappedTokenizer):
    """A tokenizer of lines that reads and writes whole texts.

    A word has the same pieces at the start of a line as inside one, a line end is one id, and the
    ids of a text are those of its lines one after the other.

    Args:
      inner: cuts one line; the last id that it gives for a line end stands for it.

    Raises:
      DataError: if `inner` cannot write a line end.
    """

    def __init__(self, inner: BaseTokenizer):
        super().__init__(inner, "multiline")
        found = inner.encode(LINE_END)
        if inner.decode(found[-1:]) != LINE_END:
            raise DataError(
                "the tokenizer has no piece for a line end, which plain text is full of",
                details=["take one that knows it, or spells unknown characters in bytes"],
            )
        self.multiline, self.line_end_id = True, found[-1]

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without BOS_ID and EOS_ID."""
        return self.encode_many([text])[0]

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text."""
        lines = [text.split(LINE_END) for text in texts]
        encoded = iter(self.inner.encode_many([line for text in lines for line in text]))
        found = []
        for text in lines:
            ids = list(next(encoded))
            for _ in text[1:]:
                ids += [self.line_end_id, *next(encoded)]
            found.append(ids)
        return found

    def decode(self, ids: Any) -> str:
        """Plain text; stops at EOS_ID, skips other control ids."""
        lines: list[list[int]] = [[]]
        for value in ids:
            if value == EOS_ID:
                break
            if value == self.line_end_id:
                lines.append([])
            else:
                lines[-1].append(int(value))
        return LINE_END.join(self.inner.decode(line) for line in lines)

    def piece_bytes(self, token_id: int) -> bytes:
        """What a token adds to a line, or the line end that it is, in UTF-8."""
        if token_id == self.line_end_id:
            return utf8(LINE_END)
        return self.inner.piece_bytes(token_id)

    @functools.cached_property
    def drops_line_space(self) -> bool:
        """Where a line begins, decoding takes a space off its first piece."""
        spelt = map(self.inner.piece_bytes, range(self.vocab_size))
        spaced = [i for i, piece in enumerate(spelt) if piece.startswith(b" ")]
        # A space alone may be a byte, which stays where it is.
        words = [i for i in spaced if len(self.inner.piece_bytes(i)) > 1]
        return any(self.inner.decode([i])[:1] != " " for i in (words or spaced)[:1])

    def sample(self, text: str, *, seed: int) -> list[int]:
        """`encode`: contiguous text is cut once."""
        del seed
        return self.encode(text)
