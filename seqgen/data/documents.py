"""Documents of plain text, several to a row, each of which sees nothing but itself.

A document goes as far as the blank lines behind it, which are its own, so every token of a split
belongs to one. Its rows are windows side by side from its start; what is shorter than a row shares
it with others, told apart by segment ids (packing: Raffel et al. 2020, section 3.1.3; the mask:
Krell et al. 2021, "Efficient sequence packing without cross-contamination", section 3.2).
"""

from collections.abc import Iterator

import numpy as np

from seqgen.data.batching import Placed, assemble_texts
from seqgen.data.config import DataConfig
from seqgen.data.contiguous import text_shape
from seqgen.data.packing import PackingPlan
from seqgen.data.token_cache import TokenizedSplit
from seqgen.errors import DataError
from seqgen.types import BOS_ID, Batch


class DocumentText:
    """The documents of a split, cut into windows of at most a row.

    Args:
      ids: the split, a line an example.
      cfg: rows and length of a batch.
      count: lines to use, from the start.

    Attributes:
      counts: for the data report.

    Raises:
      DataError: if there is no text.
    """

    def __init__(self, ids: TokenizedSplit, cfg: DataConfig, *, count: int | None = None):
        self._cfg = cfg
        num_lines = len(ids) if count is None else count
        if not num_lines:
            raise DataError("the training text has no lines")
        starts = document_starts(ids.blank[:num_lines])
        borders = ids.target_offsets[np.append(starts, num_lines)]
        self._ids = ids.target_ids[: borders[-1]]
        self._starts, self._stops, self._opens = cut_documents(borders, cfg.block_len)
        self._plans: dict[tuple[int, int], PackingPlan] = {}
        self.counts = {
            "used_tokens": len(self._ids),
            "documents": len(borders) - 1,
            "windows": len(self._starts),
        }

    def plan(self, *, rows_multiple: int, seed: int) -> PackingPlan:
        """The batches of every epoch, packed once."""
        key = rows_multiple, seed
        if key not in self._plans:
            lens = self._stops - self._starts
            self._plans[key] = PackingPlan(
                source_lens=np.zeros_like(lens),
                target_lens=lens,
                examples=np.arange(len(lens)),
                shape=text_shape(self._cfg, rows_multiple=rows_multiple),
                seed=seed,
            )
        return self._plans[key]

    def pad_fraction(self, plan: PackingPlan) -> float:
        """Share of padding over an epoch."""
        return round(1.0 - len(self._ids) / plan.epoch_size, 4)

    def batch(self, plan: PackingPlan, index: int, *, seed: int) -> Batch:
        """Batch `index`: a pure function of (seed, index)."""
        del seed  # the plan has it
        return self._assemble(plan.locate(index))

    def eval_batches(self, rows_multiple: int = 1) -> Iterator[Batch]:
        """Every token predicted once, the same batches at every call."""
        plan = self.plan(rows_multiple=rows_multiple, seed=0)
        for index in range(plan.batches_per_epoch):
            yield self._assemble(plan.locate(index))

    def _assemble(self, placed: Placed) -> Batch:
        texts = []
        for window in placed.examples:
            start, stop = self._starts[window], self._stops[window]
            first = BOS_ID if self._opens[window] else self._ids[start - 1]
            labels = self._ids[start:stop]
            texts.append((np.append(first, labels[:-1]), labels))
        return assemble_texts(placed.shape, texts, rows=placed.rows)


def document_starts(blank: np.ndarray) -> np.ndarray:
    """The first lines of documents, ascending from 0, by which lines are `blank` (bool, not none).

    A document begins with text behind blank lines; those before all text are the first one's.
    """
    begins = np.flatnonzero(blank[:-1] & ~blank[1:]) + 1
    return np.concatenate([[0], begins[int(blank[0]) :]])


def cut_documents(borders: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Windows of at most `length` tokens, side by side from the start of each document.

    Args:
      borders: int64 [documents + 1], rising: where each begins, and where the last one ends.

    Returns:
      int64 starts and stops [windows], and bool [windows]: it opens its document.
    """
    sizes = np.diff(borders)
    counts = -(-sizes // length)
    number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = np.repeat(borders[:-1], counts) + number * length
    stops = np.minimum(starts + length, np.repeat(borders[1:], counts))
    return starts, stops, number == 0
