"""The first parameters of a run, taken from finished runs: what fine-tuning begins with.

Every parameter of the new model comes from a run or is named in `init.fresh` (those of low-rank
adaptation are always fresh: at first they change nothing). Names are those of
`nn.parameters.part_names`, so that stacked and listed layers fit each other. A table over the
vocabulary is only taken where the vocabulary is the same; control tokens beside it, of which runs
on other data have others, are told apart by name: 'target_embedding/table[mask]'.
"""

import re
from collections.abc import Callable, Mapping

import numpy as np

from seqgen.config import Config
from seqgen.data import Tokenizers
from seqgen.errors import refuse
from seqgen.init_rules import named_runs, parse_rule
from seqgen.named_parts import OpenedRun, Part, Rows, Taken, parts_of, sides
from seqgen.nn.low_rank import ADDED
from seqgen.nn.parameters import Definition, check_patterns, flat_parts, put
from seqgen.training.state import flatten
from seqgen.types import Params, nearest
from seqgen.warm_start_report import Findings


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
        self._cfg, self._definition = cfg.init, definition
        self._wanted, self._sides = parts_of(definition), sides(tokenizers)
        self._rules = [parse_rule(text) for text in cfg.init.map]
        self._runs = {
            name: OpenedRun(path, cfg.init, report=report)
            for name, path in named_runs(cfg.init.runs).items()
        }
        self._taken: dict[str, Taken] = {}
        found = self._found = Findings(cfg.model, self._runs)
        self._plan()
        found.num_taken = len(self._taken)
        found.check(use_all=cfg.init.use_all)
        self.facts = found.facts()
        for line in found.lines():
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
                self._found.fresh.append(name)
                continue
            run_name, theirs, rule = self._source(name)
            fitted |= {rule} if rule is not None else set()
            run = self._runs.get(run_name)
            if run is None or theirs not in run.parts:
                self._found.missing.append(name)
                continue
            found = run.parts[theirs]
            rows = self._rows(self._sides, name, part)
            their_rows = self._rows(run.sides, theirs, found)
            if rows is not None and their_rows is not None:
                self._take_rows(name, rows, found, their_rows, run, theirs)
            elif found.shape != part.shape:
                shapes = f"{list(found.shape)} in the run, now {list(part.shape)}"
                self._found.unlike.append(f"{name}: {shapes}")
            else:
                self._taken[name] = Taken(found.value)
                self._found.take(run, name, theirs)
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
            self._found.foreign.append(
                f"{name}: {theirs.size:,} tokens ({theirs.fingerprint[:8]}) in {run.path}, "
                f"now {rows.size:,} ({rows.fingerprint[:8]})"
            )
            return
        others = [list(shape) for shape in (found.shape, part.shape)]
        for shape in others:
            del shape[axis]
        if others[0] != others[1]:
            self._found.unlike.append(f"{name}: {list(found.shape)}, now {list(part.shape)}")
            return
        self._found.take(run, name, source)
        if rows.controls == theirs.controls:
            self._taken[name] = Taken(found.value)
            return
        pairs = [(index, index) for index in range(rows.size)]
        for index, control in enumerate(rows.controls):
            if control in theirs.controls:
                pairs.append((rows.size + index, theirs.size + theirs.controls.index(control)))
            elif self._is_fresh(f"{name}[{control}]"):
                self._found.fresh.append(f"{name}[{control}]")
            else:
                self._found.missing.append(f"{name}[{control}]")
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
