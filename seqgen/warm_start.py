"""The first parameters of a run, taken from finished runs: what fine-tuning begins with.

Every parameter of the new model comes from a run or is named in `init.fresh` (those of low-rank
adaptation are always fresh: at first they change nothing). Names are those of
`nn.parameters.part_names`, so that stacked and listed layers fit each other. A table over the
vocabulary is only taken where the vocabulary is the same; control tokens beside it, of which runs
on other data have others, are told apart by name: 'target_embedding/table[mask]'.
"""

import dataclasses
import os
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from seqgen.config import Config
from seqgen.data import Tokenizers
from seqgen.errors import ConfigError, labelled, refuse
from seqgen.named_parts import OpenedRun, Part, Rows, Taken, parts_of, sides
from seqgen.nn.low_rank import ADDED
from seqgen.nn.parameters import Definition, check_patterns, flat_parts, put
from seqgen.training.state import flatten
from seqgen.types import Params, nearest

# Options that change what a stack computes and not the shapes of its parameters.
_COMPUTING = (
    *("kind", "num_heads", "activation", "norm", "norm_position", "norm_epsilon", "positions"),
    *("residual", "input_feeding"),
)
_SHOWN = 3  # of each kind of mismatch


class Start:
    """Which parameter of a new run comes from where: planned, told, then applied.

    Args:
      cfg: of the new run; `cfg.init.runs` is not empty.
      definition: its model.
      tokenizers: its own.
      report: receives one line for each thing that a person should know.

    Attributes:
      facts: JSON values for the run's record.

    Raises:
      ConfigError: parameters that neither come from a run nor are named fresh, other shapes, other
        vocabularies, unused parameters under `use_all`, patterns that fit nothing, no such run.
      CheckpointError: a run's checkpoints cannot be used.
    """

    def __init__(
        self,
        cfg: Config,
        definition: Definition,
        tokenizers: Tokenizers,
        *,
        report: Callable[[str], None] = lambda line: None,
    ):
        self._cfg, self._model, self._definition = cfg.init, cfg.model, definition
        self._wanted, self._sides = parts_of(definition), sides(tokenizers)
        self._rules = [parse_rule(text) for text in cfg.init.map]
        self._runs = {
            name: OpenedRun(path, cfg.init, report=report)
            for name, path in named_runs(cfg.init.runs).items()
        }
        self._taken: dict[str, Taken] = {}
        self._fresh: list[str] = []
        self._missing: list[str] = []
        self._unlike: list[str] = []
        self._foreign: list[str] = []
        self._plan()
        self._check()
        self.facts: dict[str, Any] = {
            "runs": [
                {"path": run.path, "steps": run.steps, "weights": run.group, "used": len(run.used)}
                for run in self._runs.values()
            ],
            "parameters": len(self._taken),
            "fresh": self._fresh,
            "unused": self._unused(),
            "differences": self._differences(),
        }
        for line in self._lines():
            report(line)

    def __call__(self, fresh: Params) -> Params:
        """The first parameters; `fresh` (random ones) gives what no run has. To be called once.

        Afterwards the runs' parameters are let go.
        """
        tree: Params = {}
        leaves = flatten(fresh)
        for name, row in flat_parts(self._definition.abstract, self._definition.axes).items():
            taken = [self._taken.get(part) for part, _ in row]
            value = leaves[name]
            if row[0][0] == name:
                value = value if taken[0] is None else taken[0].fill(value)
            elif any(one is not None for one in taken):
                value = np.asarray(value)
                layers = [own if one is None else one.fill(own) for one, own in zip(taken, value)]
                value = np.stack(layers)
            put(tree, name, value)
        self._taken.clear()
        self._runs.clear()
        return tree

    def _plan(self) -> None:
        names = [
            *self._wanted,
            *(
                f"{name}[{control}]"
                for name, part in self._wanted.items()
                if (rows := self._rows(self._sides, name, part))
                for control in rows.controls
            ),
        ]
        check_patterns("init.fresh", self._cfg.fresh, names)
        fitted: set[int] = set()
        for name, part in self._wanted.items():
            if self._is_fresh(name):
                self._fresh.append(name)
                continue
            run_name, theirs, rule = self._source(name)
            fitted |= {rule} if rule is not None else set()
            run = self._runs.get(run_name)
            if run is None or theirs not in run.parts:
                self._missing.append(name)
                continue
            found = run.parts[theirs]
            rows = self._rows(self._sides, name, part)
            their_rows = self._rows(run.sides, theirs, found)
            if rows is not None and their_rows is not None:
                self._take_rows(name, rows, found, their_rows, run, theirs)
            elif found.shape != part.shape:
                shapes = f"{list(found.shape)} in the run, now {list(part.shape)}"
                self._unlike.append(f"{name}: {shapes}")
            else:
                self._taken[name] = Taken(found.value)
                run.used.add(theirs)
        for number, (pattern, _, _) in enumerate(self._rules):
            if number not in fitted:
                guess = nearest(pattern, self._wanted) or next(iter(self._wanted))
                refuse(
                    f"init.map: {pattern!r} begins no name that is not fresh or taken before",
                    ("names are like", guess),
                )

    def _take_rows(
        self, name: str, rows: Rows, found: Part, theirs: Rows, run: OpenedRun, source: str
    ) -> None:
        """A table over the vocabulary: the tokens of text as they are, control tokens by name."""
        part = self._wanted[name]
        axis = part.axes.index("vocab")
        if rows.fingerprint != theirs.fingerprint or rows.size != theirs.size:
            self._foreign.append(
                f"{name}: {theirs.size:,} tokens ({theirs.fingerprint[:8]}) in {run.path}, "
                f"now {rows.size:,} ({rows.fingerprint[:8]})"
            )
            return
        others = [list(shape) for shape in (found.shape, part.shape)]
        for shape in others:
            del shape[axis]
        if others[0] != others[1]:
            self._unlike.append(f"{name}: {list(found.shape)}, now {list(part.shape)}")
            return
        run.used.add(source)
        if rows.controls == theirs.controls:
            self._taken[name] = Taken(found.value)
            return
        pairs = [(index, index) for index in range(rows.size)]
        for index, control in enumerate(rows.controls):
            if control in theirs.controls:
                pairs.append((rows.size + index, theirs.size + theirs.controls.index(control)))
            elif self._is_fresh(f"{name}[{control}]"):
                self._fresh.append(f"{name}[{control}]")
            else:
                self._missing.append(f"{name}[{control}]")
        ours, their = (list(column) for column in zip(*pairs))
        self._taken[name] = Taken(found.value, axis, (ours, their))

    def _is_fresh(self, name: str) -> bool:
        if name.startswith(f"{ADDED}/"):
            return True
        return any(re.fullmatch(pattern, name) for pattern in self._cfg.fresh)

    def _source(self, name: str) -> tuple[str, str, int | None]:
        """(run, name there, number of the rule that said so)."""
        first = next(iter(self._runs))
        for number, (pattern, run, replacement) in enumerate(self._rules):
            match = pattern and re.match(pattern, name)
            if not match:
                continue
            try:
                there = match.expand(replacement) + name[match.end() :]
            except (re.error, IndexError) as error:
                refuse(f"init.map: bad replacement {replacement!r}", ("reason", str(error)))
            if run and run not in self._runs:
                refuse(
                    f"init.map: no run is called {run!r}",
                    ("there are", ", ".join(self._runs)),
                    ("name one with", f"--config.init.runs={run}=DIR"),
                )
            return run or first, there, number
        return (first if len(self._runs) == 1 else ""), name, None

    @staticmethod
    def _rows(of: Mapping[str, Rows], name: str, part: Part) -> Rows | None:
        """The vocabulary that a parameter is a table over; None if it is none."""
        if "vocab" not in part.axes:
            return None
        rows = of["source" if name.startswith("source_embedding") else "target"]
        return rows if part.shape[part.axes.index("vocab")] == rows.total else None

    def _differences(self) -> list[str]:
        """Options by which the same parameters compute something else than in their run."""
        ours = self._model
        found = []
        for run in self._runs.values():
            for side in ("encoder", "decoder"):
                here, there = getattr(ours, side), getattr(run.model, side)
                if not any(name.startswith(f"{side}/") for name in run.used):
                    continue
                for field in _COMPUTING:
                    now, before = getattr(here, field, None), getattr(there, field, None)
                    if now != before:
                        text = f"model.{side}.{field}={now}, and {before} in {run.path}"
                        found.append(text)
            if ours.scale_embeddings != run.model.scale_embeddings:
                now = str(ours.scale_embeddings).lower()
                found.append(f"model.scale_embeddings={now}, and not in {run.path}")
        return found

    def _unused(self) -> list[str]:
        several = len(self._runs) > 1
        return [
            f"{label}:{name}" if several else name
            for label, run in self._runs.items()
            for name in run.parts
            if name not in run.used
        ]

    def _check(self) -> None:
        paths = ", ".join(run.path for run in self._runs.values())
        if self._foreign:
            raise ConfigError(
                f"the new vocabulary is not that of {paths}",
                details=[
                    *_some(self._foreign),
                    labelled("choose", "tokenizer.kind=run takes over the run's tokenizer"),
                    labelled("or", "name the tables in init.fresh, to learn them anew"),
                ],
            )
        if self._unlike:
            raise ConfigError(
                f"{len(self._unlike)} parameters have another shape in {paths}",
                details=[
                    *_some(self._unlike),
                    labelled("choose", "the sizes of that run"),
                    labelled("or", "name them in init.fresh, to start random"),
                ],
            )
        if self._missing:
            known = [name for run in self._runs.values() for name in run.parts]
            lines = []
            for name in self._missing[:_SHOWN]:
                close = nearest(name, known)
                lines.append(f"{name}" + (f"   (nearest: {close})" if close else ""))
            raise ConfigError(
                f"{len(self._missing)} parameters of the new model have no source in {paths}",
                details=[
                    *lines,
                    *_rest(self._missing),
                    labelled("either", "say which start random: init.fresh, as '.*cross_.*'"),
                    labelled("or", "say what they are there: init.map, as 'encoder/ -> body/'"),
                ],
            )
        unused = self._unused()
        if self._cfg.use_all and unused:
            raise ConfigError(
                f"init.use_all: {len(unused)} parameters of {paths} would not be used",
                details=_some(unused),
            )

    def _lines(self) -> list[str]:
        lines = []
        for run in self._runs.values():
            steps = ", ".join(map(str, run.steps))
            lines.append(
                f"init: {len(run.used)} of {len(run.parts)} parameters of {run.path} "
                f"(step {steps}, {run.group})"
            )
        if self._fresh:
            lines.append(f"init: {len(self._fresh)} parameters start random: {_list(self._fresh)}")
        lines += [f"note: {line}" for line in self._differences()]
        if unused := self._unused():
            lines.append(f"init: {len(unused)} parameters are not used: {_list(unused)}")
        return lines


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


def with_whole_paths(cfg: Config) -> Config:
    """`cfg` with absolute paths of runs, and a tokenizer's run named where `init` names it."""
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


def _some(lines: list[str]) -> list[str]:
    return [*lines[:_SHOWN], *_rest(lines)]


def _rest(lines: list[str]) -> list[str]:
    return [f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []


def _list(names: list[str]) -> str:
    more = f", and {len(names) - 2 * _SHOWN} more" if len(names) > 2 * _SHOWN else ""
    return ", ".join(names[: 2 * _SHOWN]) + more
