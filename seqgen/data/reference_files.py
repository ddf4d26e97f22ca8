"""Further references of a text corpus: `test.de.ref2`, `test.de.ref3`, ... beside `test.de`.

Line i of each is another good target for source i; a blank line means that there is none. They
stand in any split, may end in .gz, and are for scoring: training reads the first target alone.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from seqgen.errors import DataError

_ENDING = re.compile(r"\.ref(\d+)$")


def find_references(target: Path) -> tuple[Path, ...]:
    """The reference files beside a target file, by number.

    Raises:
      DataError: if a number is missing, has a leading zero or is there twice.
    """
    first = target.name.removesuffix(".gz")
    found: dict[int, Path] = {}
    for path in sorted(target.parent.glob(f"{_literal(first)}.ref*")):
        name = path.name.removesuffix(".gz").removeprefix(first)
        match = _ENDING.fullmatch(name)
        if not match or not path.is_file():
            continue
        number = int(match[1])
        if number in found:
            raise DataError(
                f"two files for one reference: {found[number].name} and {path.name}",
                details=["remove one of them"],
            )
        found[number] = path
    if sorted(found) != list(range(2, len(found) + 2)):
        raise DataError(
            f"the references of {target.name} are not numbered 2, 3, ...",
            details=[f"found          {', '.join(found[n].name for n in sorted(found))}"],
        )
    return tuple(found[number] for number in sorted(found))


def zip_references(
    targets: Iterator[str], others: Sequence[tuple[Path, Iterator[str]]], *, target: Path
) -> Iterator[list[str]]:
    """Every reference of each line, that of `targets` first, each text once.

    Args:
      targets: the lines of the target file.
      others: the further files with their lines.
      target: the target file, for messages.

    Raises:
      DataError: if a file has more or fewer lines than the target file.
    """
    rows = itertools.zip_longest(targets, *(lines for _, lines in others))
    for number, (first, *more) in enumerate(rows, start=1):
        for (path, _), text in zip(others, more, strict=True):
            if (text is None) != (first is None):
                short, long = (target, path) if first is None else (path, target)
                raise DataError(
                    f"{short.name} ends before line {number}, {long.name} does not",
                    details=["line i of each reference belongs to line i of the target"],
                )
        yield list(dict.fromkeys([first, *(text for text in more if text.strip())]))


def _literal(name: str) -> str:
    """`name` for `glob`, which takes some characters for patterns."""
    return re.sub(r"([*?\[])", r"[\1]", name)
