import collections

import pytest

from seqgen.data.algorithmic import Algorithmic, open_algorithmic, symbols
from seqgen.data.config import DataConfig
from seqgen.errors import DataError


def _open(source="reverse", **more):
    more = {"num_examples": 2_000, "val_examples": 200, "test_examples": 400, **more}
    return open_algorithmic(DataConfig(source=source, **more))


@pytest.mark.parametrize(
    ("task", "rule"),
    [("copy", list), ("reverse", lambda words: words[::-1]), ("sort", sorted)],
)
def test_targets_follow_the_rule(task, rule):
    for split in _open(task).values():
        for index in range(50):
            pair = split[index]
            assert pair["target"].split(" ") == rule(pair["source"].split(" "))


def test_sorting_numbers_beyond_the_alphabet_agrees_with_sorting_their_names():
    split = _open("sort", num_symbols=300, min_length=12, max_length=12)["train"]
    words = split[0]["target"].split()
    assert words == sorted(words, key=int)
    assert len(symbols(300)) == 300
    assert symbols(3) == ["a", "b", "c"]


def test_lengths_are_uniform_and_within_their_range():
    split = _open()["train"]
    counts = collections.Counter(len(pair["source"].split()) for pair in split)
    assert set(counts) == set(range(4, 13))
    expected = len(split) / 9
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < 27  # p ~ 0.001


@pytest.mark.parametrize("num_symbols", [2, 10])
def test_splits_are_disjoint_even_where_sequences_repeat(num_symbols):
    splits = _open(num_symbols=num_symbols, min_length=3, max_length=5 if num_symbols == 2 else 8)
    sets = {name: {pair["source"] for pair in split} for name, split in splits.items()}
    assert not sets["train"] & sets["test"]
    assert not sets["train"] & sets["val"]
    assert not sets["val"] & sets["test"]


def test_items_are_a_pure_function_of_their_index():
    first, again = _open()["train"], _open(num_examples=5_000)["train"]
    assert [again[index] for index in (7, 3, 1999)] == [first[index] for index in (7, 3, 1999)]
    assert again.fingerprint != first.fingerprint


def test_the_choice_is_frozen():
    assert _open()["test"][3] == {"source": "g a e a a c e d j d", "target": "d j d e c a a e a g"}


def test_impossible_ranges_are_refused():
    with pytest.raises(DataError, match="no length"):
        _open(min_length=5, max_length=4)
    one = Algorithmic(task="copy", split="test", size=1, min_length=1, max_length=1, num_symbols=2)
    others = Algorithmic(
        task="copy", split="val", size=1, min_length=1, max_length=1, num_symbols=2
    )
    # Of two sequences at most one is in each; at least one of the splits is out of reach.
    with pytest.raises(DataError, match="found no sequence"):
        for split in (one, others):
            split[0]


def test_index_out_of_range():
    split = _open()["val"]
    with pytest.raises(IndexError):
        split[200]
    assert split[-1] == split[199]
