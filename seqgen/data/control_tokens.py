"""Named control tokens beside those of `types`: ids after the vocabulary of any tokenizer.

They have names, for code, and no written form: no text gives them, and no text comes of them.
"""

from collections.abc import Sequence
from typing import Any

from seqgen.data.base_tokenizer import BaseTokenizer, WrappedTokenizer


class ControlTokenizer(WrappedTokenizer):
    """A tokenizer with further control ids.

    Args:
      inner: cuts and joins text; its ids keep their numbers.
      names: of the control tokens, in the order of their ids.

    Attributes:
      control_ids: the id of every name; they begin at `inner.vocab_size`.
      mark_ids: those ids in order.

    Raises:
      ValueError: a name comes twice.
    """

    def __init__(self, inner: BaseTokenizer, names: Sequence[str]):
        if len(set(names)) != len(names):
            raise ValueError(f"control tokens need names of their own: {', '.join(names)}")
        super().__init__(inner, "controls", list(names))
        self.control_ids = {name: inner.vocab_size + i for i, name in enumerate(names)}
        self.vocab_size = inner.vocab_size + len(names)
        self.mark_ids = range(inner.vocab_size, self.vocab_size)

    @property
    def record(self) -> dict[str, Any]:
        """The names of the control tokens."""
        return {**self.inner.record, "controls": list(self.control_ids)}

    def decode(self, ids: Any) -> str:
        """Plain text; stops at EOS_ID, skips control ids."""
        return self.inner.decode(i for i in ids if i < self.inner.vocab_size)

    def piece_bytes(self, token_id: int) -> bytes:
        """What a token adds to a text, in UTF-8: nothing, if it is a control token."""
        return b"" if token_id in self.mark_ids else self.inner.piece_bytes(token_id)
