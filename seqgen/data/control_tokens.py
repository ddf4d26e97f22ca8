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
      record: what `tokenizer_store` keeps of them.

    Raises:
      ValueError: a name comes twice.
    """

    def __init__(self, inner: SavableTokenizer, names: Sequence[str]):
        if len(set(names)) != len(names):
            raise ValueError(f"control tokens need names of their own: {', '.join(names)}")
        self.inner = inner
        self.kind = inner.kind
        self.multiline = getattr(inner, "multiline", False)
        self.options = getattr(inner, "options", {})
        self.control_ids = {name: inner.vocab_size + i for i, name in enumerate(names)}
        self.vocab_size = inner.vocab_size + len(names)
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

    def sample(self, text: str, *, seed: int) -> list[int]:
        """One of several segmentations, a pure function of text and seed."""
        return self.inner.sample(text, seed=seed)

    def save(self, path: Path) -> None:
        """Write what the inner tokenizer is made of."""
        self.inner.save(path)
