"""What the texts of `init` say: names of runs, and rules from new names to theirs."""

import dataclasses
import os
import re
from typing import Any

from seqgen.errors import refuse


def named_runs(runs: tuple[str, ...]) -> dict[str, str]:
    """{name: directory} of `init.runs`; a run without a name has its number, from 0.

    Raises:
      ConfigError: a name comes twice.
    """
    found: dict[str, str] = {}
    for number, text in enumerate(runs):
        name, equals, path = text.partition("=")
        if not equals or "/" in name:
            name, path = str(number), text
        if name in found:
            refuse(f"init.runs: two runs are called {name!r}", ("given", ", ".join(runs)))
        found[name] = path
    return found


def with_whole_paths(cfg: Any) -> Any:
    """`cfg`, a `Config`, with absolute paths of runs; a tokenizer's run is named as in `init`."""
    runs = {name: os.path.abspath(path) for name, path in named_runs(cfg.init.runs).items()}
    texts = tuple(f"{name}={path}" for name, path in runs.items())
    cfg = dataclasses.replace(cfg, init=dataclasses.replace(cfg.init, runs=texts))
    tokenizer = cfg.tokenizer
    if tokenizer.kind != "run":
        return cfg
    target = tokenizer.target_path and os.path.abspath(tokenizer.target_path)
    path = os.path.abspath(tokenizer.path or next(iter(runs.values())))
    tokenizer = dataclasses.replace(tokenizer, path=path, target_path=target)
    return dataclasses.replace(cfg, tokenizer=tokenizer)


def parse_rule(text: str) -> tuple[str, str, str]:
    """'PATTERN -> [NAME:]REPLACEMENT' as (pattern, name or '', replacement).

    Raises:
      ConfigError: it has another form.
    """
    pattern, arrow, replacement = (part.strip() for part in text.partition("->"))
    try:
        re.compile(pattern)
    except re.error as error:
        refuse(f"init.map: {pattern!r} is no regular expression", ("reason", str(error)))
    if not arrow or not pattern:
        refuse(
            f"bad rule in init.map: {text!r}",
            ("a rule is", "'PATTERN -> REPLACEMENT' or 'PATTERN -> NAME:REPLACEMENT'"),
        )
    name, colon, rest = replacement.partition(":")
    return (pattern, name, rest) if colon else (pattern, "", replacement)
