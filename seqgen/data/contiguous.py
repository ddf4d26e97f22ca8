"""Batches of contiguous text: one long row of token ids cut into blocks or streams.

The ids of a split stand one after the other, BOS before the first. A row of a batch is a window of
them, its labels are the same window one token on; sources there are none.
"""

import dataclasses

import numpy as np

from seqgen.data import order
from seqgen.data.batching import Shape
from seqgen.data.bucketing import rows_of
from seqgen.data.config import DataConfig
from seqgen.errors import DataError
from seqgen.types import BOS_ID, PAD_ID, Batch, Sequences


@dataclasses.dataclass(frozen=True)
class Windows:
    """Which windows of the text the rows of a batch are.

    Attributes:
      starts: int64 [rows], the token that each row predicts first.
      stops: int64 [rows], where its text ends: no row predicts this token or any behind it.
    """

    starts: np.ndarray
    stops: np.ndarray


class BlockPlan:
    """Every batch: as many blocks at random places as it has rows, drawn by (seed, index) alone."""

    def __init__(self, num_tokens: int, shape: Shape, *, seed: int):
        self._num_tokens, self._shape, self._seed = num_tokens, shape, seed
        self.batches_per_epoch = max(1, num_tokens // (shape.rows * shape.target_len))

    def shapes(self) -> list[Shape]:
        """The one shape."""
        return [self._shape]

    def locate(self, index: int) -> Windows:
        """The blocks of batch `index`; every place where a whole block fits is equally likely."""
        places = self._num_tokens - self._shape.target_len + 1
        starts = np.floor(order.uniform(self._shape.rows, self._seed, index) * places)
        return Windows(starts.astype(np.int64), np.full(len(starts), self._num_tokens))


@dataclasses.dataclass(frozen=True)
class TextSize:
    """How much text is scored.

    Attributes:
      tokens: predicted ones.
      unknown_tokens: UNK among them, which stand for text that no prediction pays for.
      characters, bytes: code points and UTF-8 bytes of the text, line ends included.
    """

    tokens: int
    unknown_tokens: int
    characters: int
    bytes: int


class ContiguousText:
    """The training text of a run.

    Args:
      ids: int [tokens], all of the train split.
      cfg: rows and length of a batch.

    Attributes:
      counts: for the data report.

    Raises:
      DataError: if the text is shorter than one row.
    """

    def __init__(self, ids: np.ndarray, cfg: DataConfig):
        if len(ids) < cfg.block_len:
            raise DataError(
                f"the training text has {len(ids)} tokens, fewer than one row",
                details=[f"a row has data.block_len={cfg.block_len}"],
            )
        self._ids, self._cfg = ids, cfg
        self.counts = {"used_tokens": len(ids)}

    def plan(self, *, rows_multiple: int, seed: int) -> BlockPlan:
        """The batches of all steps."""
        shape = text_shape(self._cfg, rows_multiple=rows_multiple)
        return BlockPlan(len(self._ids), shape, seed=seed)

    def pad_fraction(self, plan: BlockPlan) -> float:
        """Share of padding: there is none."""
        del plan
        return 0.0

    def batch(self, plan: BlockPlan, index: int, *, seed: int) -> Batch:
        """Batch `index`: a pure function of (seed, index)."""
        del seed  # the plan has it
        return cut(self._ids, plan.locate(index), length=self._cfg.block_len)


def text_shape(cfg: DataConfig, *, rows_multiple: int = 1) -> Shape:
    """Rows and length of every batch of contiguous text, training and evaluation alike."""
    rows = cfg.num_rows or rows_of(cfg.tokens_per_batch, cfg.block_len, rows_multiple=rows_multiple)
    assert rows % rows_multiple == 0, "the config's check sees to it"
    return Shape(rows, 0, cfg.block_len)


def eval_windows(num_tokens: int, shape: Shape) -> list[Windows]:
    """Blocks side by side: each token of the text is predicted in exactly one of them."""
    rows, _, length = shape
    size = rows * length
    return [
        Windows(first + np.arange(rows) * length, np.full(rows, num_tokens))
        for first in range(0, num_tokens, size)
    ]


def cut(ids: np.ndarray, windows: Windows, *, length: int) -> Batch:
    """The rows of `windows` as a numpy batch without sources.

    What lies behind a row's stop is padding; a row of nothing else keeps one BOS of weight 0, so
    that no mask of it is empty.
    """
    places = windows.starts[:, None] + np.arange(length)
    real = places < windows.stops[:, None]
    labels = np.where(real, ids[np.minimum(places, len(ids) - 1)], PAD_ID).astype(np.int32)
    before = np.where(places > 0, ids[np.clip(places - 1, 0, len(ids) - 1)], BOS_ID)
    before[~real[:, 0], 0] = BOS_ID
    seen = real | (np.arange(length) == 0)
    target = Sequences(
        ids=np.where(seen, before, PAD_ID).astype(np.int32),
        segments=seen.astype(np.int32),
        positions=np.where(seen, np.arange(length), 0).astype(np.int32),
    )
    return Batch(source=None, target=target, labels=labels, weights=real.astype(np.float32))
