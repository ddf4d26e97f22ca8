"""What all tokenizers have in common, and those that stand around another one."""

import abc
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seqgen.data import cache
from seqgen.data.word_starts import find_word_starts
from seqgen.types import UNK_ID


class BaseTokenizer(abc.ABC):
    """What this package asks of tokenizers, and how most of them answer.

    Attributes:
      kind: what the saved file is (see `tokenizer_store`).
      vocab_size: control ids are counted.
      fingerprint: digest of all that decides the ids of texts.
      lowercase: text is lower-cased first.
      multiline: texts may have several lines.
      line_end_id: where they may, what stands for a line end.
      unknown_is_word: UNK_ID stands for a whole word.
    """

    kind: str
    vocab_size: int
    fingerprint: str
    lowercase: bool = False
    multiline: bool = False
    line_end_id: int
    unknown_is_word: bool = False

    @property
    def vocabulary_fingerprint(self) -> str:
        """The same for tokenizers whose ids mean the same."""
        return self.fingerprint

    @property
    def drops_line_space(self) -> bool:
        """Where a line begins, decoding takes a space off its first piece."""
        return False

    @functools.cached_property
    def word_starts(self) -> np.ndarray:
        """Bool [V], see `find_word_starts`; UNK_ID begins a word if it is one."""
        starts = find_word_starts(self)
        starts[UNK_ID] = self.unknown_is_word
        return starts

    @property
    def options(self) -> dict[str, Any]:
        """JSON values that it is made of beside the saved file."""
        return {}

    @property
    def record(self) -> dict[str, Any]:
        """JSON values that say what it is wrapped in."""
        return {}

    @abc.abstractmethod
    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without BOS_ID and EOS_ID."""

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text."""
        return [self.encode(text) for text in texts]

    @abc.abstractmethod
    def decode(self, ids: Any) -> str:
        """Plain text; stops at EOS_ID, skips other control ids."""

    @abc.abstractmethod
    def piece_bytes(self, token_id: int) -> bytes:
        """What a token adds to a text that it stands behind, in UTF-8; of control ids nothing."""

    def sample(self, text: str, *, seed: int) -> list[int]:
        """One of several segmentations, a pure function of text and seed; `encode` if not on."""
        del seed
        return self.encode(text)

    @abc.abstractmethod
    def save(self, path: Path) -> None:
        """Write what it is made of into one file."""


class WrappedTokenizer(BaseTokenizer):
    """A tokenizer around another, which does whatever a subclass does not.

    Args:
      inner: the other one.
      wrapping: JSON values that say what is put around it.
    """

    inner: Any

    def __init__(self, inner: BaseTokenizer, *wrapping: Any):
        self.inner = inner
        self.kind = inner.kind
        self.vocab_size = inner.vocab_size
        self.lowercase = inner.lowercase
        self.multiline = inner.multiline
        self.unknown_is_word = inner.unknown_is_word
        if inner.multiline:
            self.line_end_id = inner.line_end_id
        self.fingerprint = cache.digest_json([*wrapping, inner.fingerprint])

    @property
    def drops_line_space(self) -> bool:
        """Where a line begins, decoding takes a space off its first piece."""
        return self.inner.drops_line_space

    @property
    def options(self) -> dict[str, Any]:
        """Those of the inner tokenizer."""
        return self.inner.options

    @property
    def record(self) -> dict[str, Any]:
        """That of the inner tokenizer."""
        return self.inner.record

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without BOS_ID and EOS_ID."""
        return self.inner.encode(text)

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text."""
        return self.inner.encode_many(texts)

    def decode(self, ids: Any) -> str:
        """Plain text; stops at EOS_ID, skips other control ids."""
        return self.inner.decode(ids)

    def piece_bytes(self, token_id: int) -> bytes:
        """What a token adds to a text that it stands behind, in UTF-8."""
        return self.inner.piece_bytes(token_id)

    def sample(self, text: str, *, seed: int) -> list[int]:
        """One of several segmentations, a pure function of text and seed."""
        return self.inner.sample(text, seed=seed)

    def save(self, path: Path) -> None:
        """Write what the inner tokenizer is made of."""
        self.inner.save(path)
