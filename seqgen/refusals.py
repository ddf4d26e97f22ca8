"""What one kind of loaded run can do and another cannot: calls that say what to call instead."""

from collections.abc import Callable
from typing import Any, NoReturn

from seqgen.errors import refuse

# Kind of run: what it is that lacks a call, and what to call instead.
_KINDS: dict[str, tuple[str, tuple[tuple[str, str], ...]]] = {
    "filler": (
        "is a masked language model",
        (
            ("it fills", "hidden tokens: seqgen fill --text='The [MASK] sleeps'"),
            ("in Python", "model.fill(['The [MASK] sleeps'])"),
        ),
    ),
    "generator": (
        "is no masked language model",
        (
            ("it answers", "texts: seqgen generate, or model.generate([...])"),
            ("to fill", "train configs/masked_lm/*.py"),
        ),
    ),
    "labeller": (
        "tells labels",
        (
            ("of texts", "seqgen.load_labeller(run).classify([...])"),
            ("of words", "seqgen.load_labeller(run).tag([...])"),
            ("of a split", "seqgen evaluate --workdir=RUN --output=FILE"),
        ),
    ),
}


def refuse_call(kind: str, what: str, *, run: str = "this run") -> NoReturn:
    """Refuse what a run of a kind cannot do.

    Args:
      kind: "filler", "generator" or "labeller".
      what: the verb and its object, such as "generate".
      run: what it is called.

    Raises:
      ConfigError: always.
    """
    cause, details = _KINDS[kind]
    refuse(f"{run} {cause}, and cannot {what}", *details)


def refused(kind: str, what: str) -> Callable[..., NoReturn]:
    """A method of any arguments that a class cannot have; see `refuse_call`."""

    def method(self: Any, *args: Any, **options: Any) -> NoReturn:
        refuse_call(kind, what)

    method.__doc__ = f"Refused: this run {_KINDS[kind][0]}, and cannot {what}."
    return method
