"""Copy, reverse and sort random symbol strings: tasks whose rule a model must find.

Item i is a pure function of (task, split, i): a counter-based generator (Philox, Salmon et al.,
2011) is set to that counter, so nothing is stored and any item can be asked for first. A sequence
belongs to the split that its own hash names, the same for all tasks; candidates that belong
elsewhere are passed over. So the splits are disjoint however often a sequence is drawn.
"""

import dataclasses
import functools
import hashlib
import json
import string

import numpy as np

from seqgen.data.config import DataConfig
from seqgen.data.sources import Pair
from seqgen.errors import DataError
from seqgen.types import nearest

VERSION = 1  # raise it when the pairs of the same config change
TASKS = ("copy", "reverse", "sort")
NUM_CLASSES = 10  # hash classes: 0 is test, 1 is val, the rest train
MAX_ATTEMPTS = 1000
DEFAULT_EXAMPLES = 50_000  # what "all there are" means for a task without an end


def open_algorithmic(cfg: DataConfig) -> dict[str, "Algorithmic"]:
    """The splits train, val and test of the task `cfg.source`.

    `cfg.num_examples` is the length of train (0 = DEFAULT_EXAMPLES).

    Raises:
      DataError: for an unknown task or an impossible length range.
    """
    if cfg.source not in TASKS:
        guess = nearest(cfg.source, TASKS)
        raise DataError(
            f"unknown algorithmic task {cfg.source!r}",
            details=[f"did you mean   {guess}"] if guess else [f"built in       {TASKS}"],
        )
    if not 1 <= cfg.min_length <= cfg.max_length:
        raise DataError(
            f"no length lies between data.min_length={cfg.min_length} "
            f"and data.max_length={cfg.max_length}"
        )
    sizes = {
        "train": cfg.num_examples or DEFAULT_EXAMPLES,
        "val": cfg.val_examples,
        "test": cfg.test_examples,
    }
    return {
        split: Algorithmic(
            task=cfg.source,
            split=split,
            size=size,
            min_length=cfg.min_length,
            max_length=cfg.max_length,
            num_symbols=cfg.num_symbols,
        )
        for split, size in sizes.items()
    }


def symbols(num_symbols: int) -> list[str]:
    """The alphabet in sorted order: letters, or zero-padded numbers if 26 are not enough."""
    if num_symbols <= len(string.ascii_lowercase):
        return list(string.ascii_lowercase[:num_symbols])
    width = len(str(num_symbols - 1))
    return [f"{number:0{width}d}" for number in range(num_symbols)]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Algorithmic:
    """One split; sources and targets are symbols with one space between them.

    Attributes:
      size: number of items; repeats are possible, within a split only.
      min_length, max_length: symbols a sequence, each length equally likely.
    """

    task: str
    split: str
    size: int
    min_length: int
    max_length: int
    num_symbols: int

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int, /) -> Pair:
        if not -self.size <= index < self.size:
            raise IndexError(f"item {index} of {self.size}")
        sequence = self._draw(index % self.size)
        alphabet = self._alphabet
        target = {"copy": sequence, "reverse": sequence[::-1], "sort": sorted(sequence)}[self.task]
        return {
            "source": " ".join(alphabet[symbol] for symbol in sequence),
            "target": " ".join(alphabet[symbol] for symbol in target),
        }

    @functools.cached_property
    def fingerprint(self) -> str:
        """Digest of everything that decides the pairs."""
        facts = {"version": VERSION, **dataclasses.asdict(self)}
        text = json.dumps(facts, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    @functools.cached_property
    def _alphabet(self) -> list[str]:
        return symbols(self.num_symbols)

    @functools.cached_property
    def _key(self) -> np.ndarray:
        text = f"{VERSION}/{self.task}/{self.split}"
        digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
        return np.frombuffer(digest, dtype="<u8").astype(np.uint64)

    def _draw(self, index: int) -> list[int]:
        # Raw 64-bit words, not Generator methods: numpy keeps the raw stream stable for ever.
        # `index` is the counter's second word, so the streams of two items never meet.
        counter = np.array([0, index, 0, 0], dtype=np.uint64)
        bits = np.random.Philox(key=self._key, counter=counter)
        for _ in range(MAX_ATTEMPTS):
            words = bits.random_raw(self.max_length + 1)
            length = self.min_length + int(words[0]) % (self.max_length - self.min_length + 1)
            sequence = [int(word) % self.num_symbols for word in words[1 : length + 1]]
            if _split_of(sequence) == self.split:
                return sequence
        raise DataError(
            f"found no sequence for the {self.split} split of {self.task!r}",
            details=["raise data.num_symbols or data.max_length: there are too few sequences"],
        )


def _split_of(sequence: list[int]) -> str:
    digest = hashlib.blake2b(repr(sequence).encode(), digest_size=8).digest()
    group = int.from_bytes(digest, "little") % NUM_CLASSES
    return "test" if group == 0 else "val" if group == 1 else "train"
