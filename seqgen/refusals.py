"""What one kind of loaded run can do and another cannot: calls that say what to call instead."""

from collections.abc import Callable
from typing import Any, NoReturn

from seqgen.errors import refuse

_Reason = tuple[str, tuple[tuple[str, str], ...]]
_FILLS: _Reason = (
    "this run is a masked language model, and cannot",
    (
        ("it fills", "hidden tokens: seqgen fill --text='The [MASK] sleeps'"),
        ("in Python", "model.fill(['The [MASK] sleeps'])"),
    ),
)
_ANSWERS: _Reason = (
    "this run is no masked language model, and cannot",
    (
        ("it answers", "texts: seqgen generate, or model.generate([...])"),
        ("to fill", "train configs/masked_lm/*.py"),
    ),
)
# What is refused, and how the runs that lack it are told.
_LACKING: dict[str, _Reason] = {
    "generate": _FILLS,
    "chat": _FILLS,
    "score": _FILLS,
    "fill hidden tokens": _ANSWERS,
}


def refused(what: str) -> Callable[..., NoReturn]:
    """A method of any arguments that a class cannot have; it raises ConfigError.

    Args:
      what: "generate", "chat", "score" or "fill hidden tokens".
    """
    cause, details = _LACKING[what]

    def method(self: Any, *args: Any, **options: Any) -> NoReturn:
        refuse(f"{cause} {what}", *details)

    method.__doc__ = f"Refused: {cause} {what}."
    return method
