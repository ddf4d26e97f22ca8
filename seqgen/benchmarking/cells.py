"""What is measured: one point each, and the plan of points around a base.

Every sweep varies ONE field of the base point. The length sweep keeps the target tokens of a step
(or of a decoded batch), so that models are compared at matched tokens at every length.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from seqgen.benchmarking.models import MODELS
from seqgen.errors import ConfigError
from seqgen.types import nearest

KINDS = ("gemm", "train", "decode", "memory")
DTYPES = ("float32", "bfloat16")
FACTORS = ("length", "tokens", "parameters", "devices", "beams")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One measurement.

    Attributes:
      what: 'train' (a training step), 'decode' (a search), 'memory' (one step, not timed), or
        'gemm' (the machine's own rate).
      model: a name of `models.MODELS`; '' for 'gemm'.
      length: tokens of each source and of each target, EOS included.
      tokens: target tokens of a batch, beams not counted; `batch` follows.
      parameters: the count that the model's width is matched to.
      vocab: ids on either side.
      beams: of the search; 1 = greedy.
      devices: that share the batch.
      dtype: operands of matrix products.
    """

    what: str
    model: str = ""
    length: int = 64
    tokens: int = 4096
    parameters: int = 1_000_000
    vocab: int = 1000
    beams: int = 1
    devices: int = 1
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name, given, known in (
            ("what", self.what, KINDS),
            ("dtype", self.dtype, DTYPES),
            *([("model", self.model, tuple(MODELS))] if self.what != "gemm" else []),
        ):
            if given not in known:
                guess = nearest(str(given), known)
                raise ConfigError(
                    f"a cell has no {name} {given!r}",
                    details=[
                        *([f"did you mean   {guess}"] if guess else []),
                        f"it takes       one of {', '.join(known)}",
                    ],
                )
        for name in ("length", "tokens", "parameters", "vocab", "beams", "devices"):
            if getattr(self, name) < 1:
                raise ConfigError(f"a cell needs {name} of at least 1, not {getattr(self, name)}")
        if self.length < 2:
            raise ConfigError("a cell needs length of at least 2: a token and its end")

    @property
    def batch(self) -> int:
        """Sentences: tokens / length, at least one for each device."""
        rows = max(1, self.tokens // self.length)
        return max(self.devices, rows - rows % self.devices)

    @property
    def key(self) -> str:
        """The name under which results are found again: fields in declared order."""
        if self.what == "gemm":
            return f"gemm dtype={self.dtype}"
        facts = dataclasses.asdict(self)
        names = [name for name in facts if name not in ("what", "model")]
        return " ".join([f"{self.what}/{self.model}", *(f"{n}={facts[n]}" for n in names)])

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Cell":
        """From JSON.

        Raises:
          ConfigError: an unknown field, or a bad value.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = [name for name in values if name not in known]
        if unknown or "what" not in values:
            raise ConfigError(
                f"not a cell: {values}", details=[f"its fields     {', '.join(known)}"]
            )
        return cls(**values)


@dataclasses.dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
      models: names.
      swept: those of them whose tokens, parameters, devices and beams are varied too.
      base: part -> base point, its model left open.
      sweeps: part -> factor -> values; 'length' is swept for all models.
      seeds: of the trainings of `compare`.
      tasks: names of `quality.TASKS`.
      scale: 'full', 'quick' or 'smoke', for the tasks.
      cell_seconds: after which a measurement is given up.
      first_only: parts that take the first of the models alone.
    """

    models: tuple[str, ...]
    swept: tuple[str, ...]
    base: dict[str, dict[str, int]]
    sweeps: dict[str, dict[str, tuple[int, ...]]]
    seeds: tuple[int, ...]
    tasks: tuple[str, ...]
    scale: str
    cell_seconds: float
    first_only: tuple[str, ...] = ()

    def models_of(self, part: str) -> tuple[str, ...]:
        """Those that a part takes."""
        return self.models[:1] if part in self.first_only else self.models


LENGTHS = (16, 64, 256, 1024, 4096)
FULL = Plan(
    models=tuple(MODELS),
    swept=("lstm", "gru-attention", "mingru", "transformer"),
    base={"train": {"tokens": 4096}, "decode": {"tokens": 1024}, "memory": {"tokens": 4096}},
    sweeps={
        "train": {
            "length": LENGTHS,
            "tokens": (512, 1024, 16_384),
            "parameters": (250_000, 4_000_000),
            "devices": (1, 2),
        },
        "decode": {
            "length": LENGTHS,
            "tokens": (64, 256, 4096),
            "parameters": (250_000, 4_000_000),
            "beams": (1, 5),
        },
        "memory": {"length": LENGTHS},
    },
    seeds=(0, 1),
    tasks=("number_words", "copy", "multi30k"),
    scale="full",
    cell_seconds=120.0,
)
_QUICK_BASE = {"parameters": 200_000, "vocab": 500, "tokens": 1024}
QUICK = dataclasses.replace(
    FULL,
    models=("lstm", "gru-attention", "transformer"),
    base=dict.fromkeys(("train", "decode", "memory"), _QUICK_BASE),
    sweeps={"train": {"length": (64, 256)}, "decode": {}, "memory": {}},
    seeds=(0,),
    tasks=("number_words",),
    scale="quick",
    first_only=("memory",),  # training cells say what theirs take
)
_SMOKE_BASE = {"parameters": 15_000, "vocab": 40, "tokens": 32, "length": 8}
SMOKE = dataclasses.replace(
    QUICK,
    models=("gru", "transformer"),
    swept=(),
    base=dict.fromkeys(("train", "decode", "memory"), _SMOKE_BASE),
    sweeps={"train": {}, "decode": {}, "memory": {}},
    scale="smoke",
    cell_seconds=600.0,  # a busy machine is no reason to fail
    first_only=("memory", "compare"),
)


def with_models(plan: Plan, models: Sequence[str]) -> Plan:
    """`plan` for other models; all of them are swept where none of the plan's choice is left."""
    swept = tuple(name for name in models if name in plan.swept) or tuple(models)
    return dataclasses.replace(plan, models=tuple(models), swept=swept if plan.swept else ())


def cells_of(plan: Plan, part: str, *, dtype: str = "float32") -> list[Cell]:
    """The cells of a part: for each model the base point, then one-factor sweeps around it."""
    found: dict[str, Cell] = {}
    for model in plan.models_of(part):
        base = Cell(what=part, model=model, dtype=dtype, **plan.base[part])
        found[base.key] = base
        for factor, values in plan.sweeps[part].items():
            if factor != "length" and model not in plan.swept:
                continue
            for value in values:
                cell = dataclasses.replace(base, **{factor: value})
                found[cell.key] = cell
    return list(found.values())


def varied(cell: Cell, base: Cell) -> list[str]:
    """The factors in which two cells of one part and model differ."""
    return [name for name in FACTORS if getattr(cell, name) != getattr(base, name)]
