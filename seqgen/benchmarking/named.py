"""Names that a command line picks out of a table."""

from collections.abc import Collection, Sequence

from seqgen.errors import refuse
from seqgen.types import nearest


def check_known(name: str, known: Collection[str], *, what: str) -> None:
    """Refuse a name that is not in the table.

    Args:
      name: what was given.
      known: the table.
      what: one of it is called so.

    Raises:
      ConfigError: the nearest name is told, and all of them.
    """
    if name not in known:
        guess = nearest(name, known)
        refuse(
            f"unknown {what} {name!r}",
            *([("did you mean", guess)] if guess else []),
            ("there are", ", ".join(known)),
        )


def check_names(names: Sequence[str], known: Collection[str], *, what: str, option: str) -> None:
    """Refuse names of which one is not in the table or stands there twice, and no names.

    Args:
      names: what `option` gave.
      known, what: see `check_known`.
      option: of the command line, such as '--models'.

    Raises:
      ConfigError: the first that is wrong.
    """
    for name in names:
        check_known(name, known, what=what)
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled or not names:
        cause = f"{option} names {', '.join(doubled)} twice" if doubled else f"{option} is empty"
        refuse(cause, ("there are", ", ".join(known)))
