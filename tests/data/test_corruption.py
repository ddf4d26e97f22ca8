"""Damaged text: what was taken out puts it together again, in the shares the papers say."""

import math

import numpy as np
import pytest

from seqgen.data.corruption import (
    corrupt_spans,
    denoise,
    infill,
    permute_sentences,
    poisson,
    restore_spans,
)

SENTINELS, MASK = np.arange(99, 59, -1), 4


@pytest.mark.parametrize("length", [2, 3, 7, 50, 256])
@pytest.mark.parametrize(("rate", "mean"), [(0.15, 3.0), (0.5, 1.0), (0.4, 10.0), (0.9, 2.0)])
def test_source_and_target_restore_the_text(length, rate, mean):
    ids = np.random.default_rng(length).integers(5, 60, length).astype(np.int32)
    enough = np.arange(1000, 1000 + length)
    for example in range(10):
        options = {"key": (0, 1, example), "rate": rate, "mean_span_length": mean}
        source, target = corrupt_spans(ids, enough, **options)
        np.testing.assert_array_equal(restore_spans(source, target, enough), ids)
        noise = min(max(round(length * rate), 1), length - 1)
        spans = min(max(round(noise / mean), 1), noise, length - noise)
        assert (len(source), len(target)) == (length - noise + spans, noise + spans)
        used = enough[:spans].tolist()  # in order, each once, on both sides
        assert [token for token in source if token >= 1000] == used
        assert [token for token in target if token >= 1000] == used
        assert source[0] < 1000 <= target[0]
        assert not (np.diff(np.flatnonzero(source >= 1000)) == 1).any()


def test_all_ways_to_cut_are_equally_likely():
    ids, seen, rounds = np.arange(5, 13), {}, 4000
    for example in range(rounds):
        source, _ = corrupt_spans(ids, SENTINELS, key=(3, example), rate=0.5, mean_span_length=2.0)
        seen[tuple(source)] = seen.get(tuple(source), 0) + 1
    assert len(seen) == 9  # 4 tokens as 2 spans, 3 ways, for text and for noise
    bound = 5 * math.sqrt(rounds * (1 / 9) * (8 / 9))
    assert all(abs(count - rounds / 9) < bound for count in seen.values())


def test_spans_that_cannot_be_cut_are_refused():
    with pytest.raises(ValueError, match="sentinels in it"):
        corrupt_spans(np.array([5, 99, 6]), SENTINELS, key=(0,))
    with pytest.raises(ValueError, match="5 spans need as many"):
        corrupt_spans(np.arange(5, 38), SENTINELS[:2], key=(0,), rate=0.45)
    with pytest.raises(ValueError, match="1 tokens cannot"):
        corrupt_spans(np.array([5]), SENTINELS, key=(0,))


@pytest.mark.parametrize("length", [0, 1, 2, 9, 200])
@pytest.mark.parametrize(("rate", "mean"), [(0.3, 3.0), (0.5, 0.2), (0.99, 3.0)])
def test_infilling_takes_out_its_share_and_keeps_the_rest_in_order(length, rate, mean):
    ids = np.arange(10, 10 + length, dtype=np.int32)
    for example in range(10):
        source = infill(ids, MASK, key=(0, example), rate=rate, mean_span_length=mean)
        kept = source[source != MASK]
        assert (np.diff(kept) > 0).all() and len(kept) == length - round(rate * length)
        masks = np.flatnonzero(source == MASK)
        assert (len(masks) > 0) == (round(rate * length) > 0)
        assert not (np.diff(masks) == 1).any()
        again = infill(ids, MASK, key=(0, example), rate=rate, mean_span_length=mean)
        np.testing.assert_array_equal(source, again)


def test_spans_have_poisson_lengths_zero_among_them():
    draws = (np.arange(100_000) + 0.5) / 100_000
    shares = np.bincount(poisson(draws, 3.0)) / 100_000
    want = [math.exp(-3) * 3**k / math.factorial(k) for k in range(len(shares))]
    np.testing.assert_allclose(shares, want, atol=2e-5)
    ids, missing = np.arange(10, 1010), []
    for example in range(30):
        source = infill(ids, MASK, key=(1, example))
        edges = np.concatenate([[9], source, [1010]])
        for at in np.flatnonzero(edges == MASK):
            missing.append(edges[at + 1] - edges[at - 1] - 1)
    count = len(missing)
    assert abs(np.mean(missing) - 3) < 5 * math.sqrt(3 / count) + 0.05  # the last ones are cut
    empty = math.exp(-3)
    assert abs(missing.count(0) - empty * count) < 5 * math.sqrt(empty * count)


def test_sentences_change_places_whole_and_in_every_order():
    ids, starts = np.arange(5, 12), np.array([0, 0, 1, 0, 0, 1, 0], bool)
    orders = {tuple(permute_sentences(ids, starts, key=(0, example))) for example in range(200)}
    one, two, three = (5, 6), (7, 8, 9), (10, 11)
    assert orders == {
        a + b + c
        for a, b, c in (
            (one, two, three),
            (one, three, two),
            (two, one, three),
            (two, three, one),
            (three, one, two),
            (three, two, one),
        )
    }
    np.testing.assert_array_equal(permute_sentences(ids, np.zeros(7, bool), key=(0,)), ids)


def test_denoising_infills_the_disordered_text_and_asks_for_the_whole():
    ids, starts = np.arange(10, 40), np.arange(30) % 6 == 0
    source, target = denoise(ids, MASK, key=(5, 6), sentence_starts=starts)
    np.testing.assert_array_equal(target, ids)
    disordered = permute_sentences(ids, starts, key=(5, 6, 2)).tolist()
    kept = [token for token in source if token != MASK]
    assert len(kept) == 21 and [token for token in disordered if token in kept] == kept
    assert kept != sorted(kept)
    plain, _ = denoise(ids, MASK, key=(5, 6))
    np.testing.assert_array_equal(plain, infill(ids, MASK, key=(5, 6)))
