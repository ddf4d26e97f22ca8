"""Two texts that belong together or do not, for encoders that are to tell which.

Next sentence: Devlin et al. 2019, section 3.1: half of the second texts are from another document.
Sentence order: Lan et al. 2020 (ALBERT), section 3.1: half of the pairs are exchanged.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from seqgen.data.order import uniform
from seqgen.types import BOS_ID, EOS_ID

Document = Sequence[np.ndarray]


@dataclasses.dataclass(frozen=True)
class TextPair:
    """Two texts as ids.

    Attributes:
      first, second: int32 [T1] and [T2].
      label: 0 = the second follows the first, 1 = it does not.
    """

    first: np.ndarray
    second: np.ndarray
    label: int

    def row(self, *, start_id: int = BOS_ID, end_id: int = EOS_ID) -> tuple[np.ndarray, np.ndarray]:
        """Ids `start first end second end` and the type (0 or 1) of each token, int32 [T]."""
        one = np.array([start_id, *self.first, end_id], np.int32)
        two = np.array([*self.second, end_id], np.int32)
        types = np.repeat(np.arange(2, dtype=np.int32), (len(one), len(two)))
        return np.concatenate([one, two]), types


class SentencePairs:
    """Pairs around the places where one sentence of a document ends and the next begins.

    There are `len(self)` such places. What is drawn depends on (seed, epoch, index) alone.
    """

    def __init__(self, documents: Sequence[Document], *, max_tokens: int):
        """Args: documents: sentences as arrays of ids; max_tokens: of both texts of a pair.

        Raises:
          ValueError: no document has two sentences, or `max_tokens` is below 2.
        """
        if max_tokens < 2:
            raise ValueError(f"max_tokens={max_tokens} has no room for two texts")
        self.documents, self.max_tokens = documents, max_tokens
        places = [max(0, len(document) - 1) for document in documents]
        self._ends = np.cumsum(places, dtype=np.int64)
        self._filled = [number for number, document in enumerate(documents) if len(document)]
        if not len(self):
            raise ValueError("no document has two sentences, so there are no pairs")

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def next_sentence(self, index: int, *, seed: int, epoch: int) -> TextPair:
        """The pair at place `index`, or its first text with one of another document.

        Raises:
          ValueError: there is one document only.
        """
        if len(self._filled) < 2:
            raise ValueError("one document has no other: next-sentence pairs need two at least")
        document, place = self._place(index)
        coin, choice, start = uniform(3, seed, epoch, index, 0)
        if coin < 0.5:
            return TextPair(self._before(document, place), self._after(document, place), 0)
        here = self._filled.index(document)
        at = int(choice * (len(self._filled) - 1))
        other = self._filled[at + (at >= here)]
        begin = int(start * len(self.documents[other]))
        return TextPair(self._before(document, place), self._after(other, begin), 1)

    def sentence_order(self, index: int, *, seed: int, epoch: int) -> TextPair:
        """The pair at place `index`, in half of the cases the wrong way round."""
        document, place = self._place(index)
        first, second = self._before(document, place), self._after(document, place)
        if uniform(1, seed, epoch, index, 1)[0] < 0.5:
            return TextPair(first, second, 0)
        return TextPair(second, first, 1)

    def _place(self, index: int) -> tuple[int, int]:
        """The document, and the sentence that begins the second text."""
        if not 0 <= index < len(self):
            raise IndexError(f"place {index} of {len(self)}")
        document = int(np.searchsorted(self._ends, index, side="right"))
        before = int(self._ends[document - 1]) if document else 0
        return document, index - before + 1

    def _before(self, document: int, place: int) -> np.ndarray:
        """Whole sentences that end at `place`, as many as fit; the end of one that is too long."""
        room = self.max_tokens // 2
        sentences = self.documents[document]
        text, at = np.asarray(sentences[place - 1], np.int32), place - 2
        while at >= 0 and len(text) + len(sentences[at]) <= room:
            text, at = np.concatenate([np.asarray(sentences[at], np.int32), text]), at - 1
        return text[-room:]

    def _after(self, document: int, place: int) -> np.ndarray:
        """Whole sentences from `place` on, as many as fit; the beginning of one too long."""
        room = self.max_tokens - self.max_tokens // 2
        sentences = self.documents[document]
        text, at = np.asarray(sentences[place], np.int32), place + 1
        while at < len(sentences) and len(text) + len(sentences[at]) <= room:
            text, at = np.concatenate([text, np.asarray(sentences[at], np.int32)]), at + 1
        return text[:room]
