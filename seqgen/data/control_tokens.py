"""Named control tokens beside those of `types`: ids after the vocabulary of any tokenizer.

They have names, for code, and no written form: no text gives them, and no text comes of them.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seqgen.data import cache
from seqgen.data.tokenizer import SavableTokenizer


class ControlTokenizer:
    """A tokenizer with further control ids.

    Args:
      inner: cuts and joins text; its ids keep their numbers.
      names: of the control tokens, in the order of their ids.

    Attributes:
      control_ids: the id of every name; they begin at `inner.vocab_size`.
      mark_ids: those ids in order.
      record: what `tokenizer_store` keeps of them.

    Raises:
      ValueError: a name comes twice.
    """

    def __init__(self, inner: SavableTokenizer, names: Sequence[str]):
        if len(set(names)) != len(names):
            raise ValueError(f"control tokens need names of their own: {', '.join(names)}")
        self.inner: Any = inner
        self.kind = inner.kind
        self.multiline = getattr(inner, "multiline", False)
        self.options = getattr(inner, "options", {})
        self.control_ids = {name: inner.vocab_size + i for i, name in enumerate(names)}
        self.vocab_size = inner.vocab_size + len(names)
        self.mark_ids = range(inner.vocab_size, self.vocab_size)
        self.fingerprint = cache.digest_json(["controls", list(names), inner.fingerprint])
        self.record: dict[str, Any] = {"controls": list(names)}

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without BOS_ID and EOS_ID, all below `inner.vocab_size`."""
        return self.inner.encode(text)

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text."""
        return self.inner.encode_many(texts)

    def decode(self, ids: Any) -> str:
        """Plain text; stops at EOS_ID, skips control ids."""
        return self.inner.decode(i for i in ids if i < self.inner.vocab_size)

    def piece_bytes(self, token_id: int) -> bytes:
        """What a token adds to a text, in UTF-8: nothing, if it is a control token."""
        return b"" if token_id in self.mark_ids else self.inner.piece_bytes(token_id)

    @property
    def line_end_id(self) -> int:
        """Where `inner` reads texts of several lines, the id of a line end."""
        return self.inner.line_end_id

    @property
    def drops_line_space(self) -> bool:
        """Where a line begins, decoding takes a space off its first piece."""
        return getattr(self.inner, "drops_line_space", False)

    def sample(self, text: str, *, seed: int) -> list[int]:
        """One of several segmentations, a pure function of text and seed."""
        return self.inner.sample(text, seed=seed)

    def save(self, path: Path) -> None:
        """Write what the inner tokenizer is made of."""
        self.inner.save(path)
