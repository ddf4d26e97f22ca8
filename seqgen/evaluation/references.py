"""References of an example: one text, or several of which each is a good answer."""

from collections.abc import Mapping, Sequence
from typing import Any

References = Sequence[str | Sequence[str]]  # one item an example


def references_of(example: Mapping[str, Any]) -> list[str]:
    """Every reference of an example of `data.TextData.examples`, the target first."""
    return list(example.get("references") or [example["target"]])


def as_lists(references: References) -> list[list[str]]:
    """Each example's references as a list.

    Raises:
      ValueError: if an example has none.
    """
    lists = [[item] if isinstance(item, str) else list(item) for item in references]
    if not all(lists):
        raise ValueError(f"example {lists.index([])} has no reference")
    return lists


def as_streams(references: Sequence[Sequence[str]]) -> list[list[str | None]]:
    """Lists of each example turned into sacrebleu's streams; None where one has no more."""
    most = max(map(len, references))
    return [[item[k] if k < len(item) else None for item in references] for k in range(most)]
