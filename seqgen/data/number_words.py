"""Numbers in words: "four thousand two hundred seventeen" -> "viertausendzweihundertsiebzehn".

A translation task without a download whose truth is known. The English side is written without
"and", commas and hyphens ("twenty one"); every other language keeps the spelling of num2words
("quatre-vingt-dix-sept"). Pairs are written out when asked for, at about 0.03 ms each.

A hash of the number decides its split: test is a plain draw, so nine in ten of its numbers below
a million have six digits. Train holds short numbers more often; docs/data.md has the quotas.
"""

import copy
import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import num2words
import numpy as np

from seqgen.data.config import DataConfig
from seqgen.data.sources import Pair
from seqgen.errors import DataError
from seqgen.types import nearest

VERSION = 1  # raise it when the pairs of the same config change
MAX_NUMBERS = 1_000_000  # numbers of one digit count that are considered
MAX_NAMED = 2**63  # no number here is beyond int64
MAX_REPEATS = 8  # how often a short number may stand in train in one epoch


def spell(number: int, lang: str) -> str:
    """`number` in words of the language `lang` (an ISO code that num2words knows).

    Raises:
      DataError: for a language that num2words lacks.
    """
    if lang not in num2words.CONVERTER_CLASSES:
        guess = nearest(lang, num2words.CONVERTER_CLASSES)
        raise DataError(
            f"number words do not know the language {lang!r}",
            details=[
                *([f"did you mean   {guess}"] if guess else []),
                "tested         en de fr",
            ],
        )
    words = str(_converter(lang).to_cardinal(number))
    if lang.split("_")[0] == "en":
        words = words.replace(",", "").replace("-", " ").replace(" and ", " ")
    return words


@functools.cache
def _converter(lang: str) -> Any:
    """num2words' own without names beyond `MAX_NAMED`: it tries all of them for each part."""
    converter = copy.copy(num2words.CONVERTER_CLASSES[lang])
    if hasattr(converter, "cards"):
        named = {value: name for value, name in converter.cards.items() if value <= MAX_NAMED}
        converter.cards = type(converter.cards)(named)
    return converter


def open_number_words(cfg: DataConfig) -> dict[str, "NumberWords"]:
    """The splits train, val and test of numbers 0..cfg.max_number.

    `cfg.num_examples` is the length of train (0 = every number left over, once).

    Raises:
      DataError: if the numbers are too few for the held-out splits, or a language is unknown.
    """
    for lang in (cfg.source_lang, cfg.target_lang):
        spell(0, lang)
    strata = [_hash_order(numbers) for numbers in _by_digits(cfg.max_number)]
    test, strata = _hold_out(strata, cfg.test_examples, what="data.test_examples")
    val, strata = _hold_out(strata, cfg.val_examples, what="data.val_examples")
    train = _training_numbers(strata, cfg.num_examples)
    source = functools.partial(
        NumberWords, source_lang=cfg.source_lang, target_lang=cfg.target_lang
    )
    return {
        "train": source(train, reserved=np.concatenate([test, val])),
        "val": source(val, reserved=test),
        "test": source(test, reserved=test[:0]),
    }


@dataclasses.dataclass(frozen=True, eq=False)
class NumberWords:
    """One split.

    Attributes:
      numbers: int64 [n]; item i spells `numbers[i]`.
      reserved: int64; numbers of other splits. An item that is spelt like one of them on either
        side gives way to the next item that is not (in en, de and fr below a million no two
        numbers share their words, so it never happens there).
    """

    numbers: np.ndarray
    reserved: np.ndarray
    source_lang: str
    target_lang: str

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int, /) -> Pair:
        size = len(self)
        if not -size <= index < size:
            raise IndexError(f"item {index} of {size}")
        for offset in range(size):
            number = int(self.numbers[(index + offset) % size])
            source, target = spell(number, self.source_lang), spell(number, self.target_lang)
            if source not in self._reserved_words[0] and target not in self._reserved_words[1]:
                return {"source": source, "target": target}
        raise DataError("every number of this split is spelt like one of another split")

    @functools.cached_property
    def fingerprint(self) -> str:
        """Digest of everything that decides the pairs."""
        facts = {
            "source": "number_words",
            "version": VERSION,
            "langs": [self.source_lang, self.target_lang],
            "num2words": metadata.version("num2words"),
        }
        digest = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16)
        digest.update(self.numbers.astype("<i8").tobytes())
        return digest.hexdigest()

    @functools.cached_property
    def _reserved_words(self) -> tuple[frozenset[str], frozenset[str]]:
        numbers = [int(number) for number in self.reserved]
        return (
            frozenset(spell(number, self.source_lang) for number in numbers),
            frozenset(spell(number, self.target_lang) for number in numbers),
        )


def _by_digits(max_number: int) -> list[np.ndarray]:
    """0..max_number, one array a count of decimal digits, at most MAX_NUMBERS in each."""
    strata, low = [], 0
    while low <= max_number:
        high = min(10 ** (len(strata) + 1) - 1, max_number)
        numbers = np.arange(low, min(high, low + MAX_NUMBERS - 1) + 1, dtype=np.int64)
        if low + len(numbers) <= high:  # too many to hold: places drawn by hash instead
            places = _mix(numbers) % np.uint64(high + 1 - low)
            numbers = np.unique(low + places.astype(np.int64))
        strata.append(numbers)
        low = high + 1
    return strata


def _mix(numbers: np.ndarray) -> np.ndarray:
    """A bijective hash of 64-bit integers: the finaliser of splitmix64 (Steele et al., 2014)."""
    bits = numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def _hash_order(numbers: np.ndarray) -> np.ndarray:
    return numbers[np.argsort(_mix(numbers), kind="stable")]


def _allocate(total: int, caps: Sequence[Sequence[int]]) -> list[int]:
    """Cut `total` over the digit counts in proportion to their squares, longest last.

    Numbers grow harder faster than longer, hence the square. Each entry of `caps` holds the limits
    of one round; what a round cannot place goes to the longest numbers first, within its limits.
    """
    weights = [digits**2 for digits in range(1, len(caps[0]) + 1)]
    counts = [min(total * weight // sum(weights), cap) for weight, cap in zip(weights, caps[0])]
    for limits in caps:
        for stratum in reversed(range(len(counts))):
            room = max(0, limits[stratum] - counts[stratum])
            counts[stratum] += min(room, total - sum(counts))
    return counts


def _hold_out(
    strata: list[np.ndarray], total: int, *, what: str
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Take the `total` numbers with the lowest hashes; give them and the rest of each stratum."""
    # The words for 0 (and in part 1..9) occur in no other number: one-digit numbers stay in train.
    candidates = _hash_order(np.concatenate([strata[0][:0], *strata[1:]]))
    if total > len(candidates) // 2:
        raise DataError(
            f"too few numbers for {what}={total}",
            details=[f"room for       {len(candidates) // 2}", "raise data.max_number or lower it"],
        )
    taken = candidates[:total]
    return taken, [numbers[~np.isin(numbers, taken)] for numbers in strata]


def _training_numbers(strata: list[np.ndarray], total: int) -> np.ndarray:
    """`total` numbers, short ones several times over; 0 = all of them once."""
    sizes = [len(numbers) for numbers in strata]
    if total == 0:
        return _hash_order(np.concatenate(strata))
    once = [size * MAX_REPEATS for size in sizes]
    counts = _allocate(total, [once, [total if size else 0 for size in sizes]])
    chosen = np.concatenate(
        [np.resize(numbers, count) for numbers, count in zip(strata, counts) if count]
    )
    # Repeats of a number must not stand side by side: order by the place in the list as well.
    places = np.arange(len(chosen), dtype=np.int64) << 32
    return chosen[np.argsort(_mix(chosen + places), kind="stable")]
