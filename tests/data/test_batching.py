"""Arrays of ids: what stands where."""

import dataclasses

import numpy as np

from seqgen.data.batching import Shape, assemble, batch_info, slice_rows
from seqgen.data.masked_rows import PairText, assemble_masked
from seqgen.data.masking import MaskedRow
from seqgen.types import BOS_ID, EOS_ID, PAD_ID

PAIRS = [([5, 6], [7]), ([], [8, 9]), ([4], [])]


def test_one_pair_a_row_and_a_harmless_filler():
    batch = assemble(Shape(4, 4, 3), PAIRS, rows=range(3))
    p, b, e = PAD_ID, BOS_ID, EOS_ID
    assert batch.source.ids.tolist() == [[5, 6, e, p], [e, p, p, p], [4, e, p, p], [e, p, p, p]]
    assert batch.target.ids.tolist() == [[b, 7, p], [b, 8, 9], [b, p, p], [b, p, p]]
    assert batch.labels.tolist() == [[7, e, p], [8, 9, e], [e, p, p], [p, p, p]]
    assert batch.weights.tolist() == [[1, 1, 0], [1, 1, 1], [1, 0, 0], [0, 0, 0]]
    assert batch.source.segments.tolist()[0] == [1, 1, 1, 0]
    assert batch.source.positions.tolist()[0] == [0, 1, 2, 0]
    assert (batch.source.segments.sum(axis=1) > 0).all()  # no row is all padding
    assert batch.labels.dtype == np.int32
    assert batch.weights.dtype == np.float32


def test_info_counts_real_tokens_and_tells_batches_apart():
    batch = assemble(Shape(4, 4, 3), PAIRS, rows=range(3))
    info = batch_info(batch)
    assert info.tokens == 6
    assert info.pad_fraction == 1 - (6 + 6) / 28
    assert batch_info(assemble(Shape(4, 4, 3), PAIRS, rows=range(3))) == info
    changed = dataclasses.replace(batch, labels=batch.labels + 1)
    assert batch_info(changed).digest != info.digest
    assert batch_info(assemble(Shape(4, 4, 3), PAIRS[::-1], rows=range(3))).digest != info.digest


def test_masked_rows_count_all_that_is_read():
    one = np.array([BOS_ID, 5, 6, EOS_ID])
    row = PairText(one, np.zeros(4, np.int32), None), MaskedRow(one, np.array([1]), np.array([5]))
    batch = assemble_masked([row], Shape(2, 6, 0), max_places=2)
    info = batch_info(batch)
    assert (info.tokens, info.pad_fraction) == (5, 1 - 5 / 12), "the spare row has its BOS"
    for name in ("token_types", "masked_positions", "labels", "weights", "next_labels"):
        changed = dataclasses.replace(batch, **{name: getattr(batch, name) + 1})
        assert batch_info(changed).digest != info.digest


def test_slices_are_the_batch():
    batch = assemble(Shape(4, 4, 3), PAIRS, rows=range(3))
    parts = [slice_rows(batch, 0, 2), slice_rows(batch, 2, 4)]
    assert np.concatenate([part.labels for part in parts]).tolist() == batch.labels.tolist()
    ids = np.concatenate([part.source.ids for part in parts])
    assert ids.tolist() == batch.source.ids.tolist()


def test_batches_without_sources_are_counted_and_cut():
    pairs = assemble(Shape(4, 4, 3), PAIRS, rows=range(3))
    batch = dataclasses.replace(pairs, source=None)
    info = batch_info(batch)
    assert (info.tokens, info.pad_fraction) == (6, 1 - 6 / 12)
    assert info.digest != batch_info(pairs).digest
    part = slice_rows(batch, 1, 3)
    assert part.source is None and part.labels.tolist() == batch.labels[1:3].tolist()
