"""Token ids put into arrays of few static shapes, for training and evaluation."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np

from seqgen.data import cache
from seqgen.types import BOS_ID, EOS_ID, PAD_ID, AnyBatch, Batch, MaskedBatch, Sequences

BatchT = TypeVar("BatchT", Batch, MaskedBatch)


class Shape(NamedTuple):
    """Rows, source length and target length of a batch."""

    rows: int
    source_len: int
    target_len: int


@dataclasses.dataclass(frozen=True)
class BatchInfo:
    """What the log says of a batch.

    Attributes:
      digest: short hash of its bytes; equal batches have equal digests.
      tokens: real target tokens (EOS included); of masked text, all tokens that are read.
      pad_fraction: share of its source and target positions that hold no token.
    """

    digest: str
    tokens: int
    pad_fraction: float


@dataclasses.dataclass(frozen=True)
class Placed:
    """Which examples a batch holds.

    Attributes:
      epoch: counted from 0.
      shape: of the batch.
      examples: int64 [n] ids of the examples.
      rows: int64 [n] the row of each, never falling; several of a row stand side by side.
    """

    epoch: int
    shape: Shape
    examples: np.ndarray
    rows: np.ndarray


def empty_sequences(rows: int, length: int) -> Sequences:
    """All padding."""
    return Sequences(*(np.zeros((rows, length), np.int32) for _ in range(3)))


def empty_batch(shape: Shape) -> Batch:
    """A numpy batch without examples, all padding."""
    rows, source_len, target_len = shape
    return Batch(
        source=empty_sequences(rows, source_len),
        target=empty_sequences(rows, target_len),
        labels=np.full((rows, target_len), PAD_ID, np.int32),
        weights=np.zeros((rows, target_len), np.float32),
    )


def assemble(shape: Shape, pairs: Sequence[tuple[Any, Any]], *, rows: Any) -> Batch:
    """Put pairs of ids (without BOS, EOS) into a numpy batch.

    Source rows hold ids + EOS, decoder inputs BOS + ids, labels ids + EOS with weight 1. Pairs of
    one row become its segments 1, 2, ... side by side. A row without a pair becomes an empty pair
    of weight 0, so that no mask of it is empty.

    Args:
      pairs: (source ids, target ids) of each example.
      rows: int [len(pairs)], never falling.
    """
    batch = empty_batch(shape)
    assert batch.source is not None
    rows = np.asarray(rows, np.int64)
    sources = [side for source, _ in pairs for side in (source, (EOS_ID,))]
    labels = [side for _, target in pairs for side in (target, (EOS_ID,))]
    inputs = [side for _, target in pairs for side in ((BOS_ID,), target)]
    lens = np.array([(len(source) + 1, len(target) + 1) for source, target in pairs], np.int64)
    lens = lens.reshape(-1, 2)
    _place(batch.source, sources, lens=lens[:, 0], rows=rows)
    where = _place(batch.target, inputs, lens=lens[:, 1], rows=rows)
    np.asarray(batch.labels)[where] = np.concatenate(labels) if labels else []
    np.asarray(batch.weights)[where] = 1.0
    spare = np.setdiff1d(np.arange(shape.rows), rows)
    one = np.ones(len(spare), np.int64)
    _place(batch.source, [(EOS_ID,)] * len(spare), lens=one, rows=spare)
    _place(batch.target, [(BOS_ID,)] * len(spare), lens=one, rows=spare)
    return batch


def _place(
    sequences: Sequences, parts: Sequence[Any], *, lens: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Write segments of the given lengths into numpy `sequences`; gives their (rows, columns)."""
    before = np.cumsum(lens) - lens
    first = np.searchsorted(rows, rows)  # the first segment of the same row
    starts = before - before[first] if len(rows) else before
    within = np.arange(int(lens.sum())) - np.repeat(before, lens)
    where = np.repeat(rows, lens), np.repeat(starts, lens) + within
    if len(rows):
        np.asarray(sequences.ids)[where] = np.concatenate(parts)
        np.asarray(sequences.segments)[where] = np.repeat(np.arange(len(rows)) - first + 1, lens)
        np.asarray(sequences.positions)[where] = within
    return where


def batch_info(batch: AnyBatch) -> BatchInfo:
    """Digest, tokens and padding share of a numpy batch."""
    leaves = jax.tree.leaves(batch)
    digest = cache.digest_bytes(*(np.ascontiguousarray(leaf).data for leaf in leaves))
    if isinstance(batch, MaskedBatch):
        tokens = real = int(np.count_nonzero(batch.text.segments))
        size = batch.text.ids.size
    else:
        tokens = real = int(np.count_nonzero(batch.weights))
        size = batch.target.ids.size
        if batch.source is not None:
            rows_used = np.asarray(batch.weights).any(axis=1)
            real += int(np.count_nonzero(np.asarray(batch.source.segments)[rows_used]))
            size += batch.source.ids.size
    return BatchInfo(digest=digest[:16], tokens=tokens, pad_fraction=1.0 - real / size)


def slice_rows(batch: BatchT, start: int, stop: int) -> BatchT:
    """Rows start..stop of a numpy batch."""
    return jax.tree.map(lambda leaf: leaf[start:stop], batch)
