"""Packing plans: every example once an epoch, rows never over-full, hardly any padding."""

import hypothesis
import hypothesis.strategies as st
import numpy as np

from seqgen.data.batching import Shape, assemble
from seqgen.data.bucketing import rows_of
from seqgen.data.packing import PackingPlan, choose_row, pack_lengths
from seqgen.types import BOS_ID, EOS_ID


def some_lens(seed, count=400, top=40):
    rng = np.random.default_rng(seed)
    source = np.clip(rng.lognormal(2.3, 0.5, count).astype(int), 1, top)
    target = np.clip((source * rng.normal(1.2, 0.3, count)).astype(int) + 1, 1, top)
    return source, target


def make_plan(lens, *, tokens=256, rows_multiple=1, seed=0):
    row = choose_row(*lens, multiple=4)
    return PackingPlan(
        source_lens=lens[0],
        target_lens=lens[1],
        examples=np.arange(len(lens[0])),
        shape=Shape(rows_of(tokens, max(row), rows_multiple=rows_multiple), *row),
        seed=seed,
    )


@hypothesis.settings(deadline=None, max_examples=50)
@hypothesis.given(
    seed=st.integers(0, 2**32),
    count=st.integers(1, 200),
    rows_multiple=st.sampled_from([1, 2, 8]),
    epoch=st.integers(0, 1000),
)
def test_every_example_once_and_rows_hold_them(seed, count, rows_multiple, epoch):
    lens = some_lens(seed, count)
    plan = make_plan(lens, rows_multiple=rows_multiple, seed=seed)
    (shape,) = plan.shapes()
    seen = []
    first = epoch * plan.batches_per_epoch
    for index in range(first, first + plan.batches_per_epoch):
        placed = plan.locate(index)
        assert placed.epoch == epoch
        assert (np.diff(placed.rows) >= 0).all()
        assert placed.rows.max() < shape.rows
        for side, limit in ((0, shape.source_len), (1, shape.target_len)):
            used = np.bincount(placed.rows, weights=lens[side][placed.examples])
            assert used.max() <= limit
        seen.extend(placed.examples.tolist())
    assert sorted(seen) == list(range(count))


def test_order_is_a_function_of_seed_and_index():
    lens = some_lens(1)
    one, same, other = make_plan(lens), make_plan(lens), make_plan(lens, seed=1)
    for index in np.random.default_rng(0).permutation(3 * one.batches_per_epoch):
        assert (one.locate(index).examples == same.locate(index).examples).all()
    count = one.batches_per_epoch
    assert one.locate(0).examples.tolist() != one.locate(count).examples.tolist()
    assert one.locate(0).examples.tolist() != other.locate(0).examples.tolist()


def test_neighbours_in_a_row_change_with_seed_and_epoch():
    lens = np.full(60, 10), np.full(60, 10)
    one, other = make_plan(lens), make_plan(lens, seed=1)

    def rows(plan, epoch):
        found = set()
        for index in range(epoch * plan.batches_per_epoch, (epoch + 1) * plan.batches_per_epoch):
            placed = plan.locate(index)
            found |= {frozenset(placed.examples[placed.rows == row]) for row in set(placed.rows)}
        return found

    assert rows(one, 0) != rows(one, 1)
    assert rows(one, 0) != rows(other, 0)


def test_rows_are_nearly_full():
    lens = some_lens(2, 5000)
    plan = make_plan(lens, tokens=4096)
    assert (lens[0].sum() + lens[1].sum()) / plan.epoch_size > 0.93


def test_pack_lengths_uses_every_example():
    cells = np.array([[9, 2], [3, 3], [1, 8], [1, 1]])
    counts = np.array([3, 50, 7, 11])
    rows = pack_lengths(cells[:, 0], cells[:, 1], counts, row=(10, 10))
    used = np.zeros(4, int)
    for members, repeat in rows:
        assert (cells[members].sum(axis=0) <= 10).all()
        used += repeat * np.bincount(members, minlength=4)
    assert (used == counts).all()


def test_segments_and_positions_tell_the_pairs_apart():
    plan = make_plan(some_lens(3))
    rng = np.random.default_rng(0)
    source_lens, target_lens = some_lens(3)
    placed = plan.locate(2)
    pairs = [
        (rng.integers(4, 90, source_lens[i] - 1), rng.integers(4, 90, target_lens[i] - 1))
        for i in placed.examples
    ]
    batch = assemble(placed.shape, pairs, rows=placed.rows)
    taken = 0
    for row in range(placed.shape.rows):
        for segment in range(1, batch.target.segments[row].max() + 1):
            here = batch.target.segments[row] == segment
            if not batch.weights[row][here].any():
                continue  # a filler row
            source_ids, target_ids = pairs[taken]
            taken += 1
            there = batch.source.segments[row] == segment
            assert batch.source.ids[row][there].tolist() == [*source_ids, EOS_ID]
            assert batch.target.ids[row][here].tolist() == [BOS_ID, *target_ids]
            assert batch.labels[row][here].tolist() == [*target_ids, EOS_ID]
            assert batch.target.positions[row][here].tolist() == list(range(here.sum()))
            assert batch.source.positions[row][there].tolist() == list(range(there.sum()))
            assert (np.diff(np.flatnonzero(here)) == 1).all()
    assert taken == len(pairs) > placed.shape.rows
    assert batch.weights.sum() == target_lens[placed.examples].sum()
    assert (batch.weights[batch.target.segments == 0] == 0).all()
