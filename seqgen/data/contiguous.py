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
      origins: int64 [rows], the token at position 0; a row that starts behind it goes on where
        that row of the batch before ended.
    """

    starts: np.ndarray
    stops: np.ndarray
    origins: np.ndarray


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
        drawn = np.floor(order.uniform(self._shape.rows, self._seed, index) * places)
        starts = drawn.astype(np.int64)
        return Windows(starts, np.full(len(starts), self._num_tokens), starts)


class StreamPlan:
    """Every batch: the next block of as many streams as it has rows.

    The streams are the text cut into `rows` parts whose lengths differ by one token at most. Each
    token is predicted once an epoch; the last batch of an epoch is padded.
    """

    def __init__(self, num_tokens: int, shape: Shape):
        self._borders = np.arange(shape.rows + 1) * num_tokens // shape.rows
        self._shape = shape
        longest = int(np.diff(self._borders).max())
        self.batches_per_epoch = -(-longest // shape.target_len)

    def shapes(self) -> list[Shape]:
        """The one shape."""
        return [self._shape]

    def locate(self, index: int) -> Windows:
        """The blocks of batch `index`; row r of one epoch's batches is stream r."""
        origins, stops = self._borders[:-1], self._borders[1:]
        offset = index % self.batches_per_epoch * self._shape.target_len
        return Windows(origins + offset, stops, origins)


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

    def plan(self, *, rows_multiple: int, seed: int) -> BlockPlan | StreamPlan:
        """The batches of all steps.

        Raises:
          DataError: a stream is shorter than one row.
        """
        shape = text_shape(self._cfg, rows_multiple=rows_multiple)
        if not self._cfg.streams:
            return BlockPlan(len(self._ids), shape, seed=seed)
        if len(self._ids) < shape.rows * shape.target_len:
            raise DataError(
                f"the training text has {len(self._ids)} tokens, fewer than one batch",
                details=[f"{shape.rows} streams (data.num_rows) of data.block_len tokens at least"],
            )
        return StreamPlan(len(self._ids), shape)

    def pad_fraction(self, plan: BlockPlan | StreamPlan) -> float:
        """Share of padding over an epoch: the ends of streams."""
        if isinstance(plan, BlockPlan):
            return 0.0
        rows, _, length = plan.shapes()[0]
        return round(1.0 - len(self._ids) / (plan.batches_per_epoch * rows * length), 4)

    def batch(self, plan: BlockPlan | StreamPlan, index: int, *, seed: int) -> Batch:
        """Batch `index`: a pure function of (seed, index)."""
        del seed  # the plan has it
        return cut(self._ids, plan.locate(index), length=self._cfg.block_len)


def text_shape(cfg: DataConfig, *, rows_multiple: int = 1) -> Shape:
    """Rows and length of every batch of contiguous text, training and evaluation alike."""
    rows = cfg.num_rows or rows_of(cfg.tokens_per_batch, cfg.block_len, rows_multiple=rows_multiple)
    assert rows % rows_multiple == 0, "the config's check sees to it"
    return Shape(rows, 0, cfg.block_len)


def eval_windows(num_tokens: int, shape: Shape, *, streams: bool = False) -> list[Windows]:
    """Each token of the text in exactly one window.

    Blocks side by side; with `streams` one row that reads the whole text, so that every token is
    predicted from all that stands before it.
    """
    rows, _, length = shape
    if streams:
        plan = StreamPlan(num_tokens, Shape(1, 0, length))
        return [plan.locate(index) for index in range(plan.batches_per_epoch)]
    starts = np.arange(0, num_tokens, rows * length)[:, None] + np.arange(rows) * length
    return [Windows(first, np.full(rows, num_tokens), first) for first in starts]


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
        positions=np.where(seen, places - windows.origins[:, None], 0).astype(np.int32),
    )
    return Batch(source=None, target=target, labels=labels, weights=real.astype(np.float32))
