"""Several examples in one row, told apart by segment ids: hardly any padding, one shape.

How lengths are put together is decided once (first-fit decreasing over pairs of lengths); an epoch
only deals out which examples of equal lengths take which place, and the order of rows. So the
number of batches is the same in every epoch and batch i is found without making those before it.
"""

import functools

import numpy as np

from seqgen.data import order
from seqgen.data.batching import Placed, Shape


def choose_row(
    source_lens: np.ndarray, target_lens: np.ndarray, *, packed_len: int = 0, multiple: int = 8
) -> tuple[int, int]:
    """Source and target length of a packed row, in the proportion of the corpus.

    Automatic: the longest example, or four examples of mean length, whichever is longer.
    """

    def up(length: float) -> int:
        return int(-(-length // multiple) * multiple)

    longest = int(np.max(source_lens)), int(np.max(target_lens))
    means = float(np.mean(source_lens)), float(np.mean(target_lens))
    longer = packed_len or max(*longest, 4 * max(means))
    source, target = (
        max(side, up(longer * mean / max(means)))
        for side, mean in zip(map(up, longest), means, strict=True)
    )
    return source, target


def pack_lengths(
    source_lens: np.ndarray, target_lens: np.ndarray, counts: np.ndarray, *, row: tuple[int, int]
) -> list[tuple[list[int], int]]:
    """Fill rows with pairs of lengths: [(cells in the row, how many rows are filled so)].

    First-fit decreasing (Johnson, 1973), by the side that takes the larger share of the row.

    Args:
      source_lens, target_lens: the different pairs of lengths ("cells"), none over `row`.
      counts: examples of each.
      row: capacity (S, T); S is 0 where there are no sources.
    """
    share = np.maximum(source_lens / max(row[0], 1), target_lens / row[1])
    ranked = np.lexsort((target_lens, source_lens, -share))
    source, target, left = source_lens[ranked], target_lens[ranked], counts[ranked].copy()
    rows: list[tuple[list[int], int]] = []
    while left.any():
        room_source, room_target = row
        used: list[int] = []
        remaining = left.copy()
        position = 0
        while position < len(remaining):
            fits = (
                (remaining[position:] > 0)
                & (source[position:] <= room_source)
                & (target[position:] <= room_target)
            )
            if not fits.any():
                break
            position += int(np.argmax(fits))
            used.append(position)
            remaining[position] -= 1
            room_source -= int(source[position])
            room_target -= int(target[position])
        needed = np.bincount(used, minlength=len(left))
        some = needed > 0
        repeat = int(np.min(left[some] // needed[some]))
        left -= repeat * needed
        rows.append(([int(ranked[cell]) for cell in used], repeat))
    return rows


class PackingPlan:
    """The packed batches of every epoch, by index; as `BucketPlan`, with one shape.

    Args:
      source_lens, target_lens: tokens of each example as it will be placed, EOS included.
      examples: ids of the examples, parallel to the lengths.
      shape: of a batch; no example is longer than a row.
    """

    def __init__(
        self,
        *,
        source_lens: np.ndarray,
        target_lens: np.ndarray,
        examples: np.ndarray,
        shape: Shape,
        seed: int = 0,
    ):
        self._seed, self._shape = seed, shape
        pairs = np.stack([np.asarray(source_lens), np.asarray(target_lens)], axis=1)
        cells, cell_of, counts = np.unique(pairs, axis=0, return_inverse=True, return_counts=True)
        members = np.argsort(cell_of.reshape(-1), kind="stable")
        self._members = np.split(np.asarray(examples)[members], np.cumsum(counts)[:-1])
        # A row is the places of its examples in the members of all cells, one after the other.
        taken = np.concatenate([[0], np.cumsum(counts)[:-1]])
        self._rows: list[np.ndarray] = []
        for used, repeat in pack_lengths(cells[:, 0], cells[:, 1], counts, row=shape[1:]):
            for _ in range(repeat):
                places = []
                for cell in used:
                    places.append(taken[cell])
                    taken[cell] += 1
                self._rows.append(np.array(places, np.int64))
        self.batches_per_epoch = -(-len(self._rows) // self._shape.rows)
        self._epoch_order = functools.lru_cache(maxsize=2)(self._epoch_order_uncached)

    def shapes(self) -> list[Shape]:
        """The one shape."""
        return [self._shape]

    @property
    def epoch_size(self) -> int:
        """Source and target positions of all batches of an epoch, padding included."""
        rows, source, target = self._shape
        return self.batches_per_epoch * rows * (source + target)

    def locate(self, index: int) -> Placed:
        """The examples of batch `index`."""
        epoch, position = divmod(index, self.batches_per_epoch)
        dealt, order_of_rows = self._epoch_order(epoch)
        first = position * self._shape.rows
        places = [self._rows[row] for row in order_of_rows[first : first + self._shape.rows]]
        return Placed(
            epoch=epoch,
            shape=self._shape,
            examples=dealt[np.concatenate(places)],
            rows=np.repeat(np.arange(len(places)), [len(row) for row in places]),
        )

    def _epoch_order_uncached(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        dealt = np.concatenate(
            [
                members[order.permutation(len(members), self._seed, epoch, cell)]
                for cell, members in enumerate(self._members)
            ]
        )
        rows = order.permutation(len(self._rows), self._seed, epoch, len(self._members))
        return dealt, rows
