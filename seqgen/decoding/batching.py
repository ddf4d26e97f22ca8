"""Lines of many lengths as arrays of few shapes, so that few searches are ever compiled."""

from collections.abc import Sequence

import numpy as np

from seqgen.decoding.config import DecodeConfig
from seqgen.decoding.id_tables import power_of_two
from seqgen.types import PAD_ID, Sequences


def plan_batches(lengths: Sequence[int], config: DecodeConfig) -> list[list[int]]:
    """Places of `lengths` cut into batches of similar length, longest first.

    A batch has at most `batch_size` rows and `batch_tokens` padded tokens x beams; the number of
    rows of all but the last batch of a width is a power of two (or `batch_size`).
    """
    order = sorted(range(len(lengths)), key=lambda place: (-lengths[place], place))
    copies = max(config.num_beams, config.num_return_sequences, config.contrastive_k)
    batches = []
    while order:
        width = round_width(lengths[order[0]])
        rows = min(config.batch_size, max(1, config.batch_tokens // (width * copies)))
        if rows < config.batch_size:
            rows = 1 << (rows.bit_length() - 1)
        batches.append(order[:rows])
        order = order[rows:]
    return batches


def pad_rows(
    lines: Sequence[Sequence[int]], config: DecodeConfig, *, limit: int | None
) -> Sequences:
    """Id lists as `Sequences` of a common shape; rows beyond them repeat the last one.

    A repeated row does what its original does, so it never makes the search take another step.
    Shapes are those of `padded_shape`.
    """
    rows, width = padded_shape([len(line) for line in lines], config, limit=limit)
    ids = np.full((rows, width), PAD_ID, np.int32)
    segments = np.zeros((rows, width), np.int32)
    for row in range(rows):
        line = lines[min(row, len(lines) - 1)]
        ids[row, : len(line)] = line
        segments[row, : len(line)] = 1
    positions = np.where(segments > 0, np.arange(width, dtype=np.int32), 0)
    return Sequences(ids=ids, segments=segments, positions=positions)


def padded_shape(
    lengths: Sequence[int], config: DecodeConfig, *, limit: int | None
) -> tuple[int, int]:
    """Rows and width that lines of these `lengths` are padded to.

    Rows are a power of two, at most `batch_size`; the width is that of `round_width`, at most
    `limit`.
    """
    width = round_width(max(lengths))
    rows = min(config.batch_size, power_of_two(len(lengths)))
    return rows, width if limit is None else min(width, limit)


def round_width(length: int) -> int:
    """The width that a line of `length` tokens is padded to.

    16, 32, 48, 64, then 96, 128, 192, 256, ...: coarser than the buckets of training, because one
    compile costs more than some padding. Past 2048, multiples of 1024.
    """
    step = 16 if length <= 64 else min(1 << ((length - 1).bit_length() - 2), 1024)
    return -(-max(length, 1) // step) * step
