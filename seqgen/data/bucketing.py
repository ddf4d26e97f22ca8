"""Batches of like lengths: which shapes, and which examples are in which batch of an epoch."""

import functools
from typing import Any

import numpy as np

from seqgen.data import order
from seqgen.data.batching import Shape, empty_batch, fill_row, place_pair
from seqgen.types import Batch

_ROW_BASE = 8  # whole eights where the budget allows, so that 1, 2, 4, 8 devices have one plan


def rows_of(tokens_per_batch: int, length: int, *, rows_multiple: int = 1) -> int:
    """Rows whose `length` fits the budget, a multiple of `rows_multiple` and at least that.

    Budgets of eight rows and more give multiples of eight, smaller ones a power of two.
    """
    rows = max(1, tokens_per_batch // length)
    rows = rows // _ROW_BASE * _ROW_BASE if rows >= _ROW_BASE else 1 << (rows.bit_length() - 1)
    return max(rows_multiple, rows // rows_multiple * rows_multiple)


def choose_buckets(
    source_lens: np.ndarray, target_lens: np.ndarray, *, num_buckets: int, multiple: int
) -> list[tuple[int, int]]:
    """At most `num_buckets` pairs (S, T), both growing, that keep padding least.

    Examples are ordered by their longer side, rounded up to `multiple`; dynamic programming over
    the cuts of that order minimises the padded tokens.
    """

    def up(lengths: np.ndarray) -> np.ndarray:
        return -(-lengths // multiple) * multiple

    source, target = up(np.asarray(source_lens)), up(np.asarray(target_lens))
    keys, index = np.unique(np.maximum(source, target), return_inverse=True)
    counts = np.bincount(index)
    widest = [np.zeros(len(keys), np.int64) for _ in range(2)]
    for widths, lengths in zip(widest, (source, target), strict=True):
        np.maximum.at(widths, index, lengths)
        np.maximum.accumulate(widths, out=widths)
    cost_of = widest[0] + widest[1]  # of an example in a bucket that ends at this key
    before = np.concatenate([[0], np.cumsum(counts)])
    best = np.full(len(keys) + 1, np.inf)
    best[0] = 0
    cuts: list[np.ndarray] = []
    for _ in range(min(num_buckets, len(keys))):
        # candidate[j, i]: the last bucket holds keys i..j-1
        size = before[None, :] - before[:, None]
        with np.errstate(invalid="ignore"):
            candidate = best[:, None] + size * np.concatenate([[0], cost_of])[None, :]
        candidate[np.tril_indices(len(keys) + 1)] = np.inf
        cuts.append(np.argmin(candidate, axis=0))
        best = np.min(candidate, axis=0)
        best[0] = np.inf
    end = len(keys)
    chosen = []
    for starts in reversed(cuts):
        chosen.append((int(widest[0][end - 1]), int(widest[1][end - 1])))
        end = int(starts[end])
        if end == 0:
            break
    return sorted(set(chosen))


class BucketPlan:
    """The batches of every epoch, by index; what one holds depends on (seed, index) alone.

    What a bucket leaves over at the end of an epoch moves up into the next bucket, so only the
    last batch of the largest bucket may have unused rows, and the number of batches is the same
    in every epoch.

    Args:
      source_lens, target_lens: tokens of each example as it will be placed, EOS included.
      examples: ids of the examples, parallel to the lengths.
      buckets: growing (S, T); the last holds every example.
    """

    def __init__(
        self,
        *,
        source_lens: np.ndarray,
        target_lens: np.ndarray,
        examples: np.ndarray,
        buckets: list[tuple[int, int]],
        tokens_per_batch: int,
        rows_multiple: int = 1,
        seed: int = 0,
    ):
        self._seed = seed
        self._shapes = [
            Shape(rows_of(tokens_per_batch, max(pair), rows_multiple=rows_multiple), *pair)
            for pair in buckets
        ]
        bounds = np.array(buckets)
        fits = (np.asarray(source_lens)[:, None] <= bounds[:, 0]) & (
            np.asarray(target_lens)[:, None] <= bounds[:, 1]
        )
        bucket = np.argmax(fits, axis=1)
        self._members = [np.asarray(examples)[bucket == k] for k in range(len(buckets))]
        table: list[tuple[int, int]] = []  # (bucket, first of its examples in epoch order)
        carried = 0
        for k, members in enumerate(self._members):
            available = carried + len(members)
            rows = self._shapes[k].rows
            full = available // rows
            last = k == len(buckets) - 1
            table.extend((k, i * rows) for i in range(full + (last and available % rows > 0)))
            carried = available % rows
        self._table = table
        self.batches_per_epoch = len(table)
        self._epoch_order = functools.lru_cache(maxsize=2)(self._epoch_order_uncached)

    def shapes(self) -> list[Shape]:
        """The shapes that occur, in order of length."""
        return [self._shapes[k] for k in sorted({k for k, _ in self._table})]

    def locate(self, index: int) -> tuple[int, Shape, np.ndarray]:
        """Epoch, shape and example ids (at most `rows`) of batch `index`."""
        epoch, position = divmod(index, self.batches_per_epoch)
        pools, batches = self._epoch_order(epoch)
        bucket, start = self._table[batches[position]]
        shape = self._shapes[bucket]
        return epoch, shape, pools[bucket][start : start + shape.rows]

    def _epoch_order_uncached(self, epoch: int) -> tuple[list[np.ndarray], np.ndarray]:
        pools: list[np.ndarray] = []
        left = np.zeros(0, np.int64)
        for k, members in enumerate(self._members):
            own = members[order.permutation(len(members), self._seed, epoch, k)]
            pool = np.concatenate([left, own])
            pools.append(pool)
            left = pool[len(pool) - len(pool) % self._shapes[k].rows :]
        batches = order.permutation(len(self._table), self._seed, epoch, len(self._members))
        return pools, batches


def assemble(shape: Shape, pairs: list[tuple[Any, Any]]) -> Batch:
    """One pair a row; rows left over are filled with weight 0."""
    batch = empty_batch(shape)
    for row in range(shape.rows):
        if row < len(pairs):
            place_pair(batch, row, *pairs[row])
        else:
            fill_row(batch, row)
    return batch
