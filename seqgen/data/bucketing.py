"""Batches of like lengths: which shapes, and which examples are in which batch of an epoch."""

import functools

import numpy as np

from seqgen.data import order
from seqgen.data.batching import Placed, Shape

_MAX_CUTS = 256
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
    """At most `num_buckets` pairs (S, T), both growing, that keep padding small.

    Examples are ordered by their longer side; dynamic programming finds the cuts of that order
    that pad least.

    Args:
      source_lens, target_lens: int [examples], EOS included.
      multiple: S and T are multiples of this.
    """
    lens = np.stack([np.asarray(source_lens), np.asarray(target_lens)], axis=1)
    while True:
        cells, counts = np.unique(-(-lens // multiple) * multiple, axis=0, return_counts=True)
        if len(np.unique(cells.max(axis=1))) <= _MAX_CUTS:
            break
        multiple *= 2  # the search is quadratic in the number of lengths
    return _cut_chain(cells, counts, num_buckets)


def _cut_chain(cells: np.ndarray, counts: np.ndarray, num_buckets: int) -> list[tuple[int, int]]:
    """The best chain whose buckets are cut at values of the longer side."""
    keys, index = np.unique(cells.max(axis=1), return_inverse=True)
    per_key = np.bincount(index.reshape(-1), weights=counts)
    widest = np.zeros((len(keys), 2), np.int64)
    np.maximum.at(widest, index.reshape(-1), cells)
    widest = np.maximum.accumulate(widest, axis=0)
    before = np.concatenate([[0], np.cumsum(per_key)])
    width = np.concatenate([[0], widest.sum(axis=1)])
    best = np.full(len(keys) + 1, np.inf)
    best[0] = 0
    starts = []
    for _ in range(min(num_buckets, len(keys))):
        # candidate[i, j]: the last bucket holds keys i..j-1
        candidate = best[:, None] + (before[None, :] - before[:, None]) * width[None, :]
        candidate[np.tril_indices(len(keys) + 1)] = np.inf
        starts.append(np.argmin(candidate, axis=0))
        best = np.min(candidate, axis=0)
    chain = []
    end = len(keys)
    for start in reversed(starts):
        chain.append((int(widest[end - 1, 0]), int(widest[end - 1, 1])))
        end = int(start[end])
    return chain[::-1]


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

    @property
    def epoch_size(self) -> int:
        """Source and target positions of all batches of an epoch, padding included."""
        shapes = [self._shapes[k] for k, _ in self._table]
        return sum(rows * (source + target) for rows, source, target in shapes)

    def locate(self, index: int) -> Placed:
        """The examples of batch `index`."""
        epoch, position = divmod(index, self.batches_per_epoch)
        pools, batches = self._epoch_order(epoch)
        bucket, start = self._table[batches[position]]
        shape = self._shapes[bucket]
        examples = pools[bucket][start : start + shape.rows]
        return Placed(epoch, shape, examples, np.arange(len(examples)))

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
