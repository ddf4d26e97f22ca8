"""The contract of a corpus, and the corpora that come with the package by name."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import NotRequired, Protocol, TypedDict

from seqgen.data.config import DataConfig
from seqgen.types import load_component


class Pair(TypedDict):
    """One example.

    `references` is there where several targets are good: all of them, `target` first. Training
    reads `target`, scoring all.
    """

    source: str
    target: str
    references: NotRequired[list[str]]


def make_pair(source: str, references: Sequence[str]) -> Pair:
    """An example with one or several good targets."""
    pair: Pair = {"source": source, "target": references[0]}
    if len(references) > 1:
        pair["references"] = list(references)
    return pair


class Source(Protocol):
    """A split of a corpus: random access by index, always the same pairs in the same order.

    Attributes:
      fingerprint: short hexadecimal text that changes whenever any pair does.
    """

    fingerprint: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Pair: ...


OpenSplits = Callable[[DataConfig], Mapping[str, Source]]


def _late(module: str, function: str) -> OpenSplits:
    """`function` of a module of this package that is imported when the corpus is opened."""

    def opened(cfg: DataConfig) -> Mapping[str, Source]:
        return getattr(importlib.import_module(f"seqgen.data.{module}"), function)(cfg)

    return opened


BUILTIN_SOURCES: dict[str, OpenSplits] = {
    "text": _late("text_files", "open_text"),
    "plain_text": _late("plain_text", "open_plain_text"),
    "jsonl": _late("jsonl", "open_jsonl"),
    "dialogue": _late("dialogue", "open_dialogue"),
    "tfds": _late("tfds_datasets", "open_tfds"),
    "number_words": _late("number_words", "open_number_words"),
    "copy": _late("algorithmic", "open_algorithmic"),
    "reverse": _late("algorithmic", "open_algorithmic"),
    "sort": _late("algorithmic", "open_algorithmic"),
}


def open_splits(cfg: DataConfig) -> dict[str, Source]:
    """Open a corpus: {'train': ..., 'val': ..., 'test...': ...}.

    A split called dev or validation is given as 'val'.

    Raises:
      ConfigError: if `cfg.source` names no corpus.
      DataError: if the corpus is missing or damaged.
    """
    splits = dict(load_component(cfg.source, BUILTIN_SOURCES, what="data.source")(cfg))
    for alias in ("dev", "validation"):
        if alias in splits and "val" not in splits:
            splits["val"] = splits.pop(alias)
    return splits
