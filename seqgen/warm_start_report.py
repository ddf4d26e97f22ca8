"""What is found between a new model and the runs it begins from, and how it is told."""

import dataclasses
from typing import Any

from seqgen.errors import ConfigError, labelled
from seqgen.models.config import ModelConfig
from seqgen.named_parts import OpenedRun
from seqgen.types import nearest

# Options of a stack that change nothing of what its parameters compute once they are trained: its
# sizes, which shapes show, its dropout, its start, and how the same numbers are computed.
_ASIDE = {
    *("num_layers", "num_kv_heads", "ff_dim", "hidden_dim", "max_positions", "relative_buckets"),
    *("bias", "num_token_types", "next_sentence", "source_prefix", "forget_bias", "recurrent_init"),
    *("attention_kernel", "recurrence_kernel", "scan_layers", "remat"),
}
_SHOWN = 3  # of each kind of mismatch


@dataclasses.dataclass
class Findings:
    """Which parameters of a new model have a source, and why others have none.

    Attributes:
      model: the new one.
      runs: by name, in order.
      stacks: of each run by path: (stack now, stack there) of what is taken.
      num_taken: parameters that come from a run.
      fresh: names of those that start random, as the config says.
      missing: names of those without a source.
      unlike: lines about those whose shape is another in their run.
      foreign: lines about tables over another vocabulary.
    """

    model: ModelConfig
    runs: dict[str, OpenedRun]
    stacks: dict[str, set[tuple[str, str]]] = dataclasses.field(default_factory=dict)
    num_taken: int = 0
    fresh: list[str] = dataclasses.field(default_factory=list)
    missing: list[str] = dataclasses.field(default_factory=list)
    unlike: list[str] = dataclasses.field(default_factory=list)
    foreign: list[str] = dataclasses.field(default_factory=list)

    def take(self, run: OpenedRun, name: str, theirs: str) -> None:
        """Note that the parameter `name` is made of what is called `theirs` in a run."""
        run.used.add(theirs)
        sides = name.partition("/")[0], theirs.partition("/")[0]
        if set(sides) <= {"encoder", "decoder"}:
            self.stacks.setdefault(run.path, set()).add(sides)

    def check(self, *, use_all: bool) -> None:
        """Refuse what would leave a parameter to chance; `use_all`: and parameters unused.

        Raises:
          ConfigError: the first kind of mismatch, with the names concerned.
        """
        paths = ", ".join(run.path for run in self.runs.values())
        if self.foreign:
            raise ConfigError(
                f"the new vocabulary is not that of {paths}",
                details=[
                    *_some(self.foreign),
                    labelled("choose", "tokenizer.kind=run takes over the run's tokenizer"),
                    labelled("or", "name the tables in init.fresh, to learn them anew"),
                ],
            )
        if self.unlike:
            raise ConfigError(
                f"{len(self.unlike)} parameters have another shape in {paths}",
                details=[
                    *_some(self.unlike),
                    labelled("choose", "the sizes of that run"),
                    labelled("or", "name them in init.fresh, to start random"),
                ],
            )
        if self.missing:
            known = [name for run in self.runs.values() for name in run.parts]
            lines = []
            for name in self.missing[:_SHOWN]:
                close = nearest(name, known)
                lines.append(f"{name}" + (f"   (nearest: {close})" if close else ""))
            raise ConfigError(
                f"{len(self.missing)} parameters of the new model have no source in {paths}",
                details=[
                    *lines,
                    *_rest(self.missing),
                    labelled("either", "say which start random: init.fresh, as '.*cross_.*'"),
                    labelled("or", "say what they are there: init.map, as 'encoder/ -> body/'"),
                ],
            )
        unused = self.unused()
        if use_all and unused:
            raise ConfigError(
                f"init.use_all: {len(unused)} parameters of {paths} would not be used",
                details=_some(unused),
            )

    def unused(self) -> list[str]:
        """Names of the runs' parameters that are not taken."""
        several = len(self.runs) > 1
        return [
            f"{label}:{name}" if several else name
            for label, run in self.runs.items()
            for name in run.parts
            if name not in run.used
        ]

    def differences(self) -> list[str]:
        """Options by which the same parameters compute something else than in their run."""
        found = []
        for run in self.runs.values():
            for side, other in sorted(self.stacks.get(run.path, ())):
                here, there = getattr(self.model, side), getattr(run.model, other)
                found += [
                    f"model.{side}.{name}={now}, and {before} in {run.path}"
                    for name, now, before in _changed(here, there)
                ]
            now, before = self.model.scale_embeddings, run.model.scale_embeddings
            if now != before and any("embedding/" in name for name in run.used):
                found.append(f"model.scale_embeddings={now}, and {before} in {run.path}")
        return found

    def facts(self) -> dict[str, Any]:
        """JSON values for the run's record."""
        return {
            "runs": [
                {"path": run.path, "steps": run.steps, "weights": run.group, "used": len(run.used)}
                for run in self.runs.values()
            ],
            "parameters": self.num_taken,
            "fresh": self.fresh,
            "unused": self.unused(),
            "differences": self.differences(),
        }

    def lines(self) -> list[str]:
        """What a person should know, a line each."""
        lines = []
        for run in self.runs.values():
            steps = ", ".join(map(str, run.steps))
            lines.append(
                f"init: {len(run.used)} of {len(run.parts)} parameters of {run.path} "
                f"(step {steps}, {run.group})"
            )
        if self.fresh:
            lines.append(f"init: {len(self.fresh)} parameters start random: {_list(self.fresh)}")
        lines += [f"note: {line}" for line in self.differences()]
        if unused := self.unused():
            lines.append(f"init: {len(unused)} parameters are not used: {_list(unused)}")
        return lines


def _changed(here: Any, there: Any) -> list[tuple[str, Any, Any]]:
    """(option, value now, value before) where two stacks compute differently."""
    if here.kind != there.kind:
        return [("kind", here.kind, there.kind)]
    names = [field.name for field in dataclasses.fields(here)]
    return [
        (name, getattr(here, name), getattr(there, name))
        for name in names
        if name not in _ASIDE
        and hasattr(there, name)
        and not name.endswith("dropout_rate")
        and getattr(here, name) != getattr(there, name)
    ]


def _some(lines: list[str]) -> list[str]:
    return [*lines[:_SHOWN], *_rest(lines)]


def _rest(lines: list[str]) -> list[str]:
    return [f"and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []


def _list(names: list[str]) -> str:
    more = f", and {len(names) - 2 * _SHOWN} more" if len(names) > 2 * _SHOWN else ""
    return ", ".join(names[: 2 * _SHOWN]) + more
