"""Labels of texts and of words in the place of target text: their ids, and batches of them."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seqgen.data import cache
from seqgen.data.base_tokenizer import BaseTokenizer
from seqgen.data.batching import Shape, empty_sequences
from seqgen.data.sources import Pair
from seqgen.errors import DataError, labelled
from seqgen.types import BOS_ID, EOS_ID, NUM_CONTROL_IDS, MaskedBatch, nearest

_SHOWN = 8


class LabelTokenizer(BaseTokenizer):
    """Labels as ids, from `NUM_CONTROL_IDS` on; no other text is known.

    Args:
      labels: in the order of their ids.
      several: a text is a row of labels with white space between them, one a word of the source;
        otherwise it is one label.
    """

    kind = "labels"

    def __init__(self, labels: Sequence[str], *, several: bool):
        self.labels = list(labels)
        self.several = several
        self._ids = {label: NUM_CONTROL_IDS + i for i, label in enumerate(self.labels)}
        self.vocab_size = NUM_CONTROL_IDS + len(self.labels)
        self.fingerprint = cache.digest_json(["labels", self.labels, several])

    def read(self, text: str) -> list[str]:
        """The labels in a text.

        Raises:
          DataError: one that the training data does not have.
        """
        names = split_labels(text, several=self.several)
        for name in names:
            if name not in self._ids:
                guess = nearest(name, self.labels)
                more = ", ..." if len(self.labels) > _SHOWN else ""
                raise DataError(
                    f"no training example has the label {name!r}",
                    details=[
                        *([labelled("did you mean", guess)] if guess else []),
                        labelled("labels are", ", ".join(self.labels[:_SHOWN]) + more),
                    ],
                )
        return names

    def of_examples(self, examples: Iterable[Pair]) -> list[list[str]]:
        """The labels in the target of each example; see `read`."""
        return [self.read(example["target"]) for example in examples]

    def encode(self, text: str) -> list[int]:
        """Ids of the labels in a text, without BOS_ID and EOS_ID; see `read`."""
        return [self._ids[name] for name in self.read(text)]

    def decode(self, ids: Any) -> str:
        """The names of labels with spaces between them; stops at EOS_ID, skips control ids."""
        names = []
        for value in ids:
            if value == EOS_ID:
                break
            if NUM_CONTROL_IDS <= value < self.vocab_size:
                names.append(self.labels[int(value) - NUM_CONTROL_IDS])
        return " ".join(names)

    def piece_bytes(self, token_id: int) -> bytes:
        """The name of a label in UTF-8."""
        return self.decode([token_id]).encode()

    def save(self, path: Path) -> None:
        """Write the labels as JSON."""
        cache.write_json(path, {"kind": self.kind, "labels": self.labels, "several": self.several})


def split_labels(text: str, *, several: bool) -> list[str]:
    """The labels in a target text; a blank one has none."""
    if several:
        return text.split()
    return [text.strip()] if text.strip() else []


def build_labels(texts: Iterable[str], *, several: bool) -> LabelTokenizer:
    """The labels of the training targets, sorted by name.

    Raises:
      DataError: there are fewer than two.
    """
    found = sorted({name for text in texts for name in split_labels(text, several=several)})
    if len(found) < 2:
        raise DataError(
            f"the training data has {len(found)} labels, and at least two are needed",
            details=[
                labelled("found", ", ".join(found) or "none"),
                "a label is what stands in the target field",
            ],
        )
    return LabelTokenizer(found, several=several)


class LabelledRows:
    """Makes batches of texts with labels: rows of BOS, text, EOS.

    Args:
      tokenizer: of texts.
      several: a label a word, told at the word's first token; otherwise one a text.
    """

    def __init__(self, tokenizer: BaseTokenizer, *, several: bool):
        self._starts = tokenizer.word_starts if several else None

    def places(self, ids: Any) -> np.ndarray:
        """Columns of a row where a label of its text (ids without BOS, EOS) is told."""
        if self._starts is None:
            return np.zeros(1, np.int64)
        ids = np.asarray(ids, np.int64)
        starts = self._starts[ids]
        starts[:1] = True
        return 1 + np.flatnonzero(starts)

    def num_places(self, ids: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """int64 [N]: how many `places` each of N texts has.

        Args:
          ids: of all texts, one after the other.
          offsets: int64 [N + 1], where each begins, and the end.
        """
        if self._starts is None:
            return np.ones(len(offsets) - 1, np.int64)
        starts = self._starts[ids]
        starts[offsets[:-1][np.diff(offsets) > 0]] = True
        return np.diff(np.concatenate([[0], np.cumsum(starts)])[offsets])

    def check_counts(
        self, ids: np.ndarray, offsets: np.ndarray, num_labels: np.ndarray, *, used: Any, split: str
    ) -> None:
        """Refuse texts that have not a label for every place.

        Args:
          ids, offsets: see `num_places`.
          num_labels: int [N].
          used: bool [N], the texts that are looked at.
          split: their name, for the error.

        Raises:
          DataError: naming the first such text.
        """
        words = self.num_places(ids, offsets)
        wrong = np.flatnonzero(used & (words != num_labels))
        if len(wrong):
            first = wrong[0]
            raise DataError(
                f"example {first + 1} of {split} has {words[first]} words and "
                f"{num_labels[first]} labels",
                details=[
                    "words and labels are parted by single spaces, one label a word",
                    "WordPiece takes punctuation for words: part the text there too",
                ],
            )

    def assemble(self, shape: Shape, pairs: Sequence[tuple[Any, Any]], *, rows: Any) -> MaskedBatch:
        """A numpy batch; unused rows hold one BOS of weight 0.

        Args:
          shape: rows, tokens of the longest text with EOS, labels of the longest target with EOS.
          pairs: (ids of a text, ids of its labels) without BOS and EOS; either may be cut, and what
            the other has beyond it is left out.
          rows: int [len(pairs)], the row of each, one a row.
        """
        num_rows, length = shape[0], shape[1] + 1
        num_places = 1 if self._starts is None else max(1, shape[2] - 1)
        text = empty_sequences(num_rows, length)
        positions, labels = (np.zeros((num_rows, num_places), np.int32) for _ in range(2))
        weights = np.zeros((num_rows, num_places), np.float32)
        ids, segments, within = (
            np.asarray(part) for part in (text.ids, text.segments, text.positions)
        )
        ids[:, 0], segments[:, 0] = BOS_ID, 1
        for row, (own, targets) in zip(rows, pairs, strict=True):
            size = len(own) + 2
            ids[row, 1:size] = [*own, EOS_ID]
            segments[row, :size], within[row, :size] = 1, np.arange(size)
            places = self.places(own)
            count = min(len(places), len(targets), num_places)
            positions[row, :count] = places[:count]
            labels[row, :count] = np.asarray(targets[:count], np.int32) - NUM_CONTROL_IDS
            weights[row, :count] = 1.0
        return MaskedBatch(
            text=text,
            token_types=np.zeros((num_rows, length), np.int32),
            masked_positions=positions,
            labels=labels,
            weights=weights,
            next_labels=np.zeros(num_rows, np.int32),
            next_weights=np.zeros(num_rows, np.float32),
        )
