"""Bucket plans: every example once an epoch, order from (seed, epoch) alone, few shapes."""

import itertools

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from seqgen.data.bucketing import BucketPlan, choose_buckets, rows_of


def some_lens(seed, count=500, top=60):
    rng = np.random.default_rng(seed)
    source = np.clip(rng.lognormal(2.5, 0.5, count).astype(int), 1, top)
    target = np.clip((source * rng.normal(1.1, 0.2, count)).astype(int) + 1, 1, top)
    return source, target


def make_plan(lens, *, num_buckets=5, tokens=200, rows_multiple=1, seed=0, examples=None):
    buckets = choose_buckets(*lens, num_buckets=num_buckets, multiple=2)
    return BucketPlan(
        source_lens=lens[0],
        target_lens=lens[1],
        examples=np.arange(len(lens[0])) if examples is None else examples,
        buckets=buckets,
        tokens_per_batch=tokens,
        rows_multiple=rows_multiple,
        seed=seed,
    )


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(
    seed=st.integers(0, 2**32),
    count=st.integers(1, 300),
    num_buckets=st.integers(1, 9),
    tokens=st.integers(8, 400),
    rows_multiple=st.sampled_from([1, 2, 3, 8]),
    epoch=st.integers(0, 1000),
)
def test_every_example_once_an_epoch(seed, count, num_buckets, tokens, rows_multiple, epoch):
    lens = some_lens(seed, count)
    names = np.random.default_rng(seed).permutation(10 * count)[:count]
    plan = make_plan(
        lens,
        num_buckets=num_buckets,
        tokens=tokens,
        rows_multiple=rows_multiple,
        seed=seed,
        examples=names,
    )
    place = {name: i for i, name in enumerate(names)}
    seen, part_full = [], 0
    first = epoch * plan.batches_per_epoch
    for index in range(first, first + plan.batches_per_epoch):
        placed = plan.locate(index)
        assert placed.epoch == epoch
        assert placed.shape in plan.shapes()
        assert placed.shape.rows % rows_multiple == 0
        assert 0 < len(placed.examples) <= placed.shape.rows
        part_full += len(placed.examples) < placed.shape.rows
        seen.extend(placed.examples.tolist())
        where = [place[name] for name in placed.examples]
        assert lens[0][where].max() <= placed.shape.source_len
        assert lens[1][where].max() <= placed.shape.target_len
    assert sorted(seen) == sorted(names)
    assert part_full <= 1
    assert len(plan.shapes()) <= num_buckets


def test_order_is_a_function_of_seed_and_index():
    lens = some_lens(3)
    one, same, other = make_plan(lens), make_plan(lens), make_plan(lens, seed=1)
    indices = np.random.default_rng(0).permutation(3 * one.batches_per_epoch)
    for index in indices:  # random access, in any order
        assert (one.locate(index).examples == same.locate(index).examples).all()
    count = one.batches_per_epoch

    def epoch(plan, number):
        batches = [plan.locate(i).examples for i in range(number * count, (number + 1) * count)]
        return np.concatenate(batches).tolist()

    assert epoch(one, 0) != epoch(one, 1)
    assert epoch(one, 0) != epoch(other, 0)


# fmt: off
GOLDEN = [
    [1, 0, 4, 2], [11, 7], [9, 6], [10, 8], [3, 5],
    [6, 8], [1, 2], [9, 10], [5, 3, 4, 0], [7, 11],
]
# fmt: on


def test_order_is_the_same_for_ever():
    """A resumed run must find the order it left: these numbers may never change."""
    plan = make_plan((np.arange(1, 13), np.arange(1, 13)), num_buckets=2, tokens=40)
    order = [plan.locate(i).examples.tolist() for i in range(2 * plan.batches_per_epoch)]
    assert order == GOLDEN


def test_order_does_not_follow_length():
    plan = make_plan(some_lens(4, 4000), tokens=400)
    lengths = [plan.locate(i).shape.target_len for i in range(plan.batches_per_epoch)]
    assert abs(np.corrcoef(np.arange(len(lengths)), lengths)[0, 1]) < 0.2


def test_device_counts_share_one_plan():
    lens = some_lens(5)
    plans = [make_plan(lens, tokens=800, rows_multiple=n) for n in (1, 2, 4, 8)]
    for index in range(plans[0].batches_per_epoch):
        for plan in plans[1:]:
            assert (plan.locate(index).examples == plans[0].locate(index).examples).all()


@pytest.mark.parametrize("length", [1, 7, 16, 100, 5000])
@pytest.mark.parametrize("multiple", [1, 3, 8])
def test_rows_keep_to_the_budget_and_the_multiple(length, multiple):
    rows = rows_of(4096, length, rows_multiple=multiple)
    assert rows % multiple == 0
    assert rows == multiple or rows * length <= 4096
    assert rows > 0.4 * 4096 / length - multiple


@hypothesis.settings(deadline=None, max_examples=30)
@hypothesis.given(seed=st.integers(0, 2**32), num_buckets=st.integers(1, 4))
def test_buckets_are_the_best_cuts_of_the_longer_side(seed, num_buckets):
    """Dynamic programming against every choice of cuts."""
    lens = some_lens(seed, 40, top=8)
    longer = np.maximum(*lens)
    keys = np.unique(longer)

    def padded(cuts):
        total = 0
        for low, high in itertools.pairwise([0, *cuts]):
            inside = (longer > low) & (longer <= high)
            width = sum(side[longer <= high].max() for side in lens)
            total += inside.sum() * width
        return total

    count = min(num_buckets, len(keys))
    best = min(padded([*cuts, keys[-1]]) for cuts in itertools.combinations(keys[:-1], count - 1))
    buckets = choose_buckets(*lens, num_buckets=num_buckets, multiple=1)
    assert padded([max(pair) for pair in buckets]) == best
    assert buckets == sorted(buckets)


def test_more_buckets_pad_less_and_huge_lengths_are_no_trouble():
    lens = some_lens(6, 3000)
    real = lens[0].sum() + lens[1].sum()
    shares = [1 - real / make_plan(lens, num_buckets=n, tokens=2000).epoch_size for n in (1, 3, 8)]
    assert shares[0] > shares[1] > shares[2]
    assert shares[2] < 0.3
    wide = np.arange(1, 60_000, 7)
    buckets = choose_buckets(wide, wide, num_buckets=6, multiple=1)
    assert len(buckets) == 6
    assert buckets[-1][0] >= wide.max()
