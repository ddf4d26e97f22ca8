"""Plain text as batches of a pre-training objective other than the next token.

Hidden tokens, alone or with sentence pairs (BERT, ALBERT), for encoders alone; span corruption and
prefix language modelling (Raffel et al. 2020, sections 3.1.4 and 3.2.3) and denoising (BART) for
encoder-decoders. An example is a window of the text or a place between two of its sentences. Each
comes once an epoch, damaged anew; held-out text is damaged the same way at every evaluation.
"""

import functools
from collections.abc import Iterator

import numpy as np

from seqgen.data import order
from seqgen.data.batching import Shape, assemble, batch_info
from seqgen.data.config import DataConfig
from seqgen.data.contiguous import text_shape
from seqgen.data.control_tokens import ControlTokenizer
from seqgen.data.corruption import corrupt_spans, denoise, span_counts
from seqgen.data.masked_rows import MaskedRows, PairText, assemble_masked
from seqgen.data.sentence_pairs import SentencePairs
from seqgen.data.token_cache import TokenizedSplit
from seqgen.errors import DataError
from seqgen.types import BOS_ID, EOS_ID, AnyBatch

HELD_OUT_SEED = 0x5EED  # of the damage to held-out text, whatever the seed of a run
_PAIR, _DAMAGE, _OFFSET = 1, 2, 3  # what a number is drawn for


class EpochPlan:
    """Every batch: the next examples of an endless row of epochs, each in an order of its own."""

    def __init__(self, num_examples: int, shape: Shape, *, seed: int):
        self._shape, self._num_examples = shape, num_examples
        self.batches_per_epoch = max(1, num_examples // shape.rows)
        self._order = functools.lru_cache(maxsize=2)(
            lambda epoch: order.permutation(num_examples, seed, epoch)
        )

    def shapes(self) -> list[Shape]:
        """The one shape."""
        return [self._shape]

    def locate(self, index: int) -> list[tuple[int, int]]:
        """(epoch, example) of each row of batch `index`."""
        first = index * self._shape.rows
        places = (
            divmod(number, self._num_examples) for number in range(first, first + self._shape.rows)
        )
        return [(epoch, int(self._order(epoch)[at])) for epoch, at in places]


class PretrainingText:
    """The text of a split and what the objective of `cfg` makes of it.

    Args:
      ids: the split, a line an example.
      cfg: objective, rows and length of a batch.
      tokenizer: of the split, with as many marks as the objective needs.
      count: lines to use, from the start.
      held_out: windows cover all of the text, the last may be shorter; else all are whole.

    Attributes:
      counts: for the data report.

    Raises:
      DataError: if the text is shorter than one row, or there are no pairs to be made of it.
    """

    def __init__(
        self,
        ids: TokenizedSplit,
        cfg: DataConfig,
        tokenizer: ControlTokenizer,
        *,
        count: int | None = None,
        held_out: bool = False,
    ):
        self._cfg, self._tokenizer, self._held_out = cfg, tokenizer, held_out
        offsets = ids.target_offsets[: (len(ids) if count is None else count) + 1]
        self._text = ids.target_ids[: offsets[-1]]
        name, pairs = cfg.objective.name, cfg.objective.pairs
        self._room = cfg.block_len - (2 if name == "masked" else 1)
        self._pairs: SentencePairs | None = None
        if name == "masked" and pairs != "none":
            self._pairs = _sentence_pairs(ids, offsets, cfg)
        elif len(self._text) < (2 if held_out else self._room):
            raise DataError(
                f"a text has {len(self._text)} tokens, fewer than one row",
                details=[f"a row has data.block_len={cfg.block_len}"],
            )
        self._masked = MaskedRows(cfg, tokenizer) if name == "masked" else None
        self.counts = {"used_tokens": len(self._text), "examples": len(self)}

    def __len__(self) -> int:
        """Examples an epoch."""
        if self._pairs is not None:
            return len(self._pairs)
        whole, rest = divmod(len(self._text), self._room)
        # A last window of one token has nothing that could be told from the rest.
        return whole + (rest > 1) if self._held_out else whole

    def shape(self, rows_multiple: int = 1) -> Shape:
        """Rows and lengths of every batch; a masked language model reads sources alone."""
        rows, _, length = text_shape(self._cfg, rows_multiple=rows_multiple)
        rules = self._cfg.objective
        if rules.name == "masked":
            return Shape(rows, length, 0)
        if rules.name == "span_corruption":
            noise, spans = span_counts(self._room, rules.rate, rules.mean_span_length)
            return Shape(rows, self._room - noise + spans + 1, noise + spans + 1)
        return Shape(rows, length, length)

    def plan(self, *, rows_multiple: int, seed: int) -> EpochPlan:
        """The batches of all steps."""
        return EpochPlan(len(self), self.shape(rows_multiple), seed=seed)

    def pad_fraction(self, plan: EpochPlan) -> float:
        """Share of padding in the first batch."""
        return batch_info(self.batch(plan, 0, seed=0)).pad_fraction

    def batch(self, plan: EpochPlan, index: int, *, seed: int) -> AnyBatch:
        """Batch `index`: a pure function of (seed, index)."""
        return self._assemble(plan.shapes()[0], plan.locate(index), seed=seed)

    def eval_batches(self, rows_multiple: int = 1) -> Iterator[AnyBatch]:
        """Every example once, in order, the same at every call."""
        shape = self.shape(rows_multiple)
        for first in range(0, len(self), shape.rows):
            numbers = range(first, min(first + shape.rows, len(self)))
            yield self._assemble(shape, [(0, number) for number in numbers], seed=HELD_OUT_SEED)

    def _assemble(self, shape: Shape, places: list[tuple[int, int]], *, seed: int) -> AnyBatch:
        if self._masked is not None:
            rows = [
                self._masked.hide(
                    self._row(number, seed=seed, epoch=epoch), key=(seed, epoch, number, _DAMAGE)
                )
                for epoch, number in places
            ]
            return assemble_masked(rows, shape, max_places=self._masked.max_places)
        pairs = [
            self._damaged(
                self._window(number, seed=seed, epoch=epoch), key=(seed, epoch, number, _DAMAGE)
            )
            for epoch, number in places
        ]
        return assemble(shape, pairs, rows=np.arange(len(pairs)))

    def _row(self, number: int, *, seed: int, epoch: int) -> PairText:
        """A row before tokens are hidden."""
        if self._pairs is None:
            window = self._window(number, seed=seed, epoch=epoch)
            row = np.concatenate([[BOS_ID], window, [EOS_ID]]).astype(np.int32)
            return PairText(row, np.zeros_like(row), None)
        draw = getattr(self._pairs, self._cfg.objective.pairs)  # next_sentence or sentence_order
        pair = draw(number, seed=order.fold(seed, _PAIR), epoch=epoch)
        row, types = pair.row()
        return PairText(row, types, pair.label)

    def _window(self, number: int, *, seed: int, epoch: int) -> np.ndarray:
        """Windows stand side by side; in training their cuts are elsewhere in each epoch."""
        start = number * self._room
        if not self._held_out:
            start += int(order.uniform(1, seed, epoch, _OFFSET)[0] * self._room)
            start = min(start, len(self._text) - self._room)
        return self._text[start : start + self._room]

    def _damaged(self, text: np.ndarray, *, key: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        """(source, target) without BOS and EOS."""
        rules = self._cfg.objective
        if rules.name == "prefix":
            cut = 1 + int(order.uniform(1, *key)[0] * (len(text) - 1))
            return text[:cut], text[cut:]
        marks = np.array(self._tokenizer.mark_ids)
        options = {"key": key, "rate": rules.rate, "mean_span_length": rules.mean_span_length}
        if rules.name == "span_corruption":
            return corrupt_spans(text, marks, **options)
        starts = np.concatenate([[True], text[:-1] == self._tokenizer.line_end_id])
        source, target = denoise(text, int(marks[0]), sentence_starts=starts, **options)
        return source[: self._room], target  # masks of nothing can make it longer


def _sentence_pairs(ids: TokenizedSplit, offsets: np.ndarray, cfg: DataConfig) -> SentencePairs:
    """Pairs of lines of one document; blank lines stand between documents."""
    documents: list[list[np.ndarray]] = [[]]
    for line, blank in enumerate(ids.blank[: len(offsets) - 1]):
        if not blank:
            documents[-1].append(ids.target_ids[offsets[line] : offsets[line + 1]])
        elif documents[-1]:
            documents.append([])
    if not documents[-1]:
        documents.pop()
    try:
        pairs = SentencePairs(documents, max_tokens=cfg.block_len - 3)
    except ValueError as error:
        raise DataError(
            f"no pairs for data.objective.pairs={cfg.objective.pairs}: {error}",
            details=["a line is a sentence, and blank lines stand between documents"],
        ) from error
    if cfg.objective.pairs == "next_sentence" and len(documents) < 2:
        raise DataError(
            "data.objective.pairs=next_sentence takes half of its second texts from another "
            "document, and a split has one only",
            details=[
                "documents      are divided by blank lines",
                "or choose      data.objective.pairs=sentence_order",
            ],
        )
    return pairs
