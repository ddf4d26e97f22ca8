"""The parameters of a model by name, with the vocabularies behind its tables."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from seqgen.data import Tokenizers
from seqgen.data.tokenizer_store import vocabulary_of
from seqgen.nn.parameters import Definition, flat_parts
from seqgen.runs import Run
from seqgen.training.config import InitConfig
from seqgen.training.state import flatten
from seqgen.types import Array, Params


@dataclasses.dataclass(frozen=True)
class Part:
    """One parameter of a model, or one layer's part of a stacked one.

    Attributes:
      shape: of it.
      axes: logical axis names.
      value: of a run's; None in a new model.
    """

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    value: Any = None


@dataclasses.dataclass(frozen=True)
class Rows:
    """The vocabulary behind a table: tokens of text, then named control tokens."""

    fingerprint: str
    size: int
    controls: tuple[str, ...]

    @classmethod
    def of(cls, tokenizer: Any) -> "Rows":
        """Those of a tokenizer."""
        vocabulary = vocabulary_of(tokenizer)
        controls = tuple(tokenizer.record.get("controls", ()))
        return cls(vocabulary.fingerprint, vocabulary.vocab_size, controls)

    @property
    def total(self) -> int:
        """Rows of a table."""
        return self.size + len(self.controls)


@dataclasses.dataclass(frozen=True)
class Taken:
    """What becomes of one part of the new model.

    Attributes:
      value: from a run.
      axis: of the vocabulary, where not all rows come from the run.
      rows: (of the new table, of the run's) for every row that comes from it.
    """

    value: Array
    axis: int = 0
    rows: tuple[list[int], list[int]] | None = None

    def fill(self, fresh: Array) -> Array:
        """The value, rows that the run does not have taken from `fresh`."""
        if self.rows is None:
            return self.value
        filled = np.array(fresh)
        np.moveaxis(filled, self.axis, 0)[self.rows[0]] = np.moveaxis(self.value, self.axis, 0)[
            self.rows[1]
        ]
        return filled


class OpenedRun:
    """A run to begin from, its parameters read.

    Attributes:
      path: the run directory.
      model: its architecture.
      parts: name -> `Part` with its value.
      sides: the vocabularies, {'source', 'target'}.
      steps: of the checkpoints that were read.
      group: 'ema' or 'params'.
      used: names that something was made of.
    """

    def __init__(self, path: str, cfg: InitConfig, *, report: Callable[[str], None]):
        run = Run.open(path)
        found = run.find_params(cfg.checkpoint, ema=cfg.weights == "ema", report=report)
        self.path, self.steps, self.group = path, found.steps, found.group
        self.model = run.config.model
        self.sides = sides(run.tokenizers)
        self.parts = parts_of(run.definition, found.params)
        self.used: set[str] = set()


def parts_of(definition: Definition, params: Params | None = None) -> dict[str, Part]:
    """The parameters of a model by the names of their parts; with `params`, their values."""
    shapes = flatten(definition.abstract)
    values = {} if params is None else flatten(params)
    found = {}
    for name, row in flat_parts(definition.abstract, definition.axes).items():
        shape, value = shapes[name].shape, values.get(name)
        for index, (part, axes) in enumerate(row):
            if part == name:
                found[part] = Part(shape, axes, value)
            else:
                found[part] = Part(shape[1:], axes, None if value is None else value[index])
    return found


def sides(tokenizers: Tokenizers) -> dict[str, Rows]:
    """The vocabularies behind the tables of both sides; labels have no table."""
    return {"source": Rows.of(tokenizers.source), "target": Rows.of(tokenizers.written)}
