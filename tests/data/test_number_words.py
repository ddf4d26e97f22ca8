import hashlib

import num2words
import numpy as np
import pytest

from seqgen.data.config import DataConfig
from seqgen.data.number_words import NumberWords, open_number_words, spell
from seqgen.errors import DataError


def _config(**more):
    return DataConfig(source="number_words", **more)


@pytest.fixture(scope="module")
def splits():
    return open_number_words(_config(num_examples=20_000))


@pytest.mark.parametrize(
    ("number", "en", "de", "fr"),
    [
        (
            4217,
            "four thousand two hundred seventeen",
            "viertausendzweihundertsiebzehn",
            "quatre mille deux cent dix-sept",
        ),
        (21, "twenty one", "einundzwanzig", "vingt et un"),
        (0, "zero", "null", "zéro"),
        (300_080, "three hundred thousand eighty", "dreihunderttausendachtzig", None),
    ],
)
def test_spelling(number, en, de, fr):
    assert spell(number, "en") == en
    assert spell(number, "de") == de
    if fr:
        assert spell(number, "fr") == fr


def test_unknown_language_is_a_data_error_that_names_a_near_one():
    with pytest.raises(DataError, match=r"unknown|do not know") as caught:
        open_number_words(_config(target_lang="gr"))
    assert caught.value.exit_code == 2
    assert any("did you mean" in line for line in caught.value.details)


def test_splits_have_the_promised_sizes_and_share_no_number(splits):
    assert {name: len(split) for name, split in splits.items()} == {
        "train": 20_000,
        "val": 1_000,
        "test": 2_000,
    }
    sets = {name: set(split.numbers.tolist()) for name, split in splits.items()}
    assert len(sets["test"]) == 2_000
    assert len(sets["val"]) == 1_000
    assert not sets["test"] & sets["val"]
    assert not sets["train"] & (sets["test"] | sets["val"])
    assert 0 in sets["train"], "the word for zero occurs in no other number"


def test_splits_share_no_words(splits):
    seen = {
        name: [splits[name][index] for index in range(0, len(splits[name]), 7)] for name in splits
    }
    for side in ("source", "target"):
        words = {name: {pair[side] for pair in pairs} for name, pairs in seen.items()}
        assert not words["test"] & words["train"]
        assert not words["test"] & words["val"]
        assert not words["val"] & words["train"]


def test_held_out_numbers_are_a_plain_draw_and_short_ones_are_trained(splits):
    digits = {
        name: np.bincount([len(str(n)) for n in split.numbers.tolist()], minlength=7)
        for name, split in splits.items()
    }
    assert 0.87 < digits["test"][6] / digits["test"].sum() < 0.93
    assert digits["test"][1] == 0
    assert (digits["train"][2:] >= 190).all()
    assert np.argmax(digits["train"]) == 6


def test_split_of_a_number_does_not_depend_on_the_size_of_train():
    small = open_number_words(_config(num_examples=100))
    assert (small["test"].numbers == open_number_words(_config())["test"].numbers).all()


def test_everything_left_over_is_train_when_no_number_is_given():
    splits = open_number_words(_config(max_number=9_999, test_examples=50, val_examples=20))
    together = np.concatenate([split.numbers for split in splits.values()])
    assert sorted(together.tolist()) == list(range(10_000))


def test_the_choice_is_frozen(splits):
    # A new draw would silently move test numbers of old runs into train: raise VERSION if meant.
    digest = hashlib.sha256(splits["test"].numbers.astype("<i8").tobytes()).hexdigest()
    assert digest[:16] == "fa10359a9e696a3a"
    assert splits["train"].numbers[:3].tolist() == [4277, 424703, 7920]


def test_fingerprint_follows_the_pairs(splits):
    again = open_number_words(_config(num_examples=20_000))
    french = open_number_words(_config(num_examples=20_000, target_lang="fr"))
    assert again["train"].fingerprint == splits["train"].fingerprint
    assert french["train"].fingerprint != splits["train"].fingerprint
    assert splits["val"].fingerprint != splits["test"].fingerprint


def test_words_shared_across_splits_give_way(monkeypatch):
    # In this language 7 and 107 are one word, so 107 may not stand in train if 7 is held out.
    monkeypatch.setattr(
        "seqgen.data.number_words.spell", lambda number, lang: f"{lang}{number % 100}"
    )
    source = NumberWords(
        numbers=np.array([107, 33]), reserved=np.array([7]), source_lang="en", target_lang="xx"
    )
    assert source[0] == source[1] == {"source": "en33", "target": "xx33"}
    # One shared side is enough.
    monkeypatch.setattr(
        "seqgen.data.number_words.spell",
        lambda number, lang: str(number if lang == "en" else number % 100),
    )
    source = NumberWords(
        numbers=np.array([107, 33]), reserved=np.array([7]), source_lang="en", target_lang="xx"
    )
    assert source[0] == {"source": "33", "target": "33"}
    hopeless = NumberWords(
        numbers=np.array([107]), reserved=np.array([7]), source_lang="en", target_lang="xx"
    )
    with pytest.raises(DataError):
        hopeless[0]


def test_too_few_numbers_say_how_many_there_are():
    with pytest.raises(DataError, match="too few numbers") as caught:
        open_number_words(_config(max_number=99, test_examples=90))
    assert "room for       45" in caught.value.details


def test_index_out_of_range_ends_iteration():
    split = open_number_words(_config(max_number=999, test_examples=5, val_examples=5))["test"]
    assert len(list(iter(split))) == 5
    assert split[-1] == split[4]
    with pytest.raises(IndexError):
        split[5]


def test_numbers_up_to_a_billion_open_quickly():
    splits = open_number_words(_config(max_number=20_000_000, num_examples=1_000))
    assert splits["train"].numbers.max() > 10_000_000


@pytest.mark.slow
@pytest.mark.parametrize("lang", ["de", "fr", "es", "ja", "ru", "pl"])
def test_words_are_those_of_the_library(lang):
    for number in (0, 7, 21, 100, 1_001, 81_900, 123_456, 1_000_000, 80_000_000_001, 2**62):
        assert spell(number, lang) == num2words.num2words(number, lang=lang)


@pytest.mark.parametrize("lang", ["en", "de", "fr"])
def test_no_two_numbers_below_a_million_share_their_words(lang):
    assert len({spell(number, lang) for number in range(1_000_000)}) == 1_000_000
