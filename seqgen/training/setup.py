"""What a training is put together from beside its data: layout, optimiser, first state, step."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import optax

from seqgen.nn.parameters import Definition
from seqgen.training.compilation import CompileReport
from seqgen.training.config import MeshConfig, OptimizerConfig, TrainConfig
from seqgen.training.loss import AnyBatch
from seqgen.training.optimizer import build_optimizer
from seqgen.training.parameter_groups import ParameterGroups
from seqgen.training.sharding import Layout
from seqgen.training.state import TrainState, abstract_state, init_state
from seqgen.training.step import Metrics, make_train_step
from seqgen.types import Params


@dataclasses.dataclass(frozen=True)
class TrainSetup:
    """A model with everything that its training step depends on.

    Attributes:
      definition: the model.
      train_cfg, optimizer_cfg: the options of the same names.
      compute_dtype: 'float32' or 'bfloat16'.
      layout: devices, and what lies where.
      groups: which parameters are trained, and how fast.
      optimizer: made by `optimizer_cfg`.
      carry_rows: rows of every batch, where the model's state goes on from batch to batch, else 0.
    """

    definition: Definition
    train_cfg: TrainConfig
    optimizer_cfg: OptimizerConfig
    compute_dtype: str
    layout: Layout
    groups: ParameterGroups
    optimizer: optax.GradientTransformation
    carry_rows: int = 0

    @classmethod
    def of(
        cls,
        definition: Definition,
        *,
        train_cfg: TrainConfig,
        optimizer_cfg: OptimizerConfig,
        compute_dtype: str,
        mesh_cfg: MeshConfig | None = None,
        carry_rows: int = 0,
    ) -> "TrainSetup":
        """By options; one device by default.

        Raises:
          ConfigError: too few devices, a bad rule of the mesh, or patterns of names that fit
            nothing.
        """
        layout = Layout.of(mesh_cfg or MeshConfig())
        groups = ParameterGroups.of(
            definition.abstract,
            definition.axes,
            optimizer_cfg,
            is_trained=definition.is_trained,
        )
        optimizer = build_optimizer(
            optimizer_cfg, num_steps=train_cfg.num_steps, axes=definition.axes, groups=groups
        )
        options = (train_cfg, optimizer_cfg, compute_dtype)
        return cls(definition, *options, layout, groups, optimizer, carry_rows)

    @functools.cached_property
    def abstract(self) -> TrainState:
        """See `state.abstract_state`."""
        return abstract_state(
            self.definition,
            self.optimizer,
            groups=self.groups,
            layout=self.layout,
            use_ema=self.train_cfg.ema_decay > 0,
            carry_rows=self.carry_rows,
        )

    def init(self, begin: Callable[[Params], Params] | None = None) -> TrainState:
        """See `state.init_state`."""
        return init_state(
            self.definition,
            self.optimizer,
            groups=self.groups,
            abstract=self.abstract,
            seed=self.train_cfg.seed,
            begin=begin,
        )

    def make_step(
        self,
        *,
        wrap: Callable[[str], Any] = contextlib.nullcontext,
        report: Callable[[CompileReport], None] = lambda report: None,
    ) -> Callable[[TrainState, Sequence[AnyBatch]], tuple[TrainState, Metrics]]:
        """See `step.make_train_step`."""
        return make_train_step(
            self.definition,
            self.optimizer,
            train_cfg=self.train_cfg,
            optimizer_cfg=self.optimizer_cfg,
            layout=self.layout,
            compute_dtype=self.compute_dtype,
            abstract=self.abstract,
            groups=self.groups,
            wrap=wrap,
            report=report,
        )
