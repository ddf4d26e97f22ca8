"""Where the arrays of a run live: the mesh, and one sharding for every leaf of the state.

One table gives each logical axis name to mesh axes. A dimension that its mesh axes do not divide
stays whole. Moments of the optimiser lie as their parameters lie; otherwise they would come out of
the first step replicated and the second step would compile again.
"""

import contextlib
import dataclasses
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from seqgen.errors import ConfigError
from seqgen.nn.partitioning import DEFAULT_RULES, Rules, axis_rules, spec_for
from seqgen.training.config import MeshConfig
from seqgen.training.optimizer import key_name
from seqgen.types import AXIS_NAMES, MESH_AXES, PyTree, nearest


def build_mesh(cfg: MeshConfig, *, devices: list[Any] | None = None) -> Mesh:
    """The mesh of `cfg` over the first devices of this process.

    Raises:
      ConfigError: if there are fewer devices than the mesh needs.
    """
    devices = jax.devices() if devices is None else devices
    if cfg.num_devices > len(devices):
        raise ConfigError(
            f"config.mesh needs {cfg.num_devices} devices, this machine has {len(devices)}",
            details=[
                f"you asked for   data={cfg.data} fsdp={cfg.fsdp} tensor={cfg.tensor} "
                f"sequence={cfg.sequence}",
                f"make the product at most {len(devices)}",
            ],
        )
    sizes = (cfg.data, cfg.fsdp, cfg.tensor, cfg.sequence)
    return jax.make_mesh(
        sizes,
        MESH_AXES,
        axis_types=(AxisType.Auto,) * len(MESH_AXES),
        devices=devices[: cfg.num_devices],
    )


def mesh_rules(cfg: MeshConfig) -> Rules:
    """The table of axes with the changes of `cfg.rules` ('embed=fsdp,tensor', 'vocab=').

    Raises:
      ConfigError: on an unknown axis on either side; the nearest name is given.
    """
    rules = dict(DEFAULT_RULES)
    for rule in cfg.rules:
        name, equals, targets = rule.partition("=")
        axes = tuple(part.strip() for part in targets.split(",") if part.strip())
        for given, known in [(name.strip(), AXIS_NAMES), *((axis, MESH_AXES) for axis in axes)]:
            if not equals or given not in known:
                raise ConfigError(
                    f"bad rule in config.mesh.rules: {rule!r}",
                    details=[
                        f"did you mean   {nearest(given, known) or known[0]}",
                        "a rule is      logical=mesh_axis[,mesh_axis], for example embed=fsdp",
                    ],
                )
        rules[name.strip()] = axes
    return rules


def state_shardings(abstract_state: PyTree, axes: PyTree, mesh: Mesh, rules: Rules) -> PyTree:
    """A NamedSharding for each leaf of a whole TrainState.

    A leaf whose path ends like a parameter's path and which has that parameter's shape (the
    parameter itself, its moments, its moving average) lies like the parameter; anything else is
    replicated.
    """
    named: dict[tuple[str, ...], tuple[str | None, ...]] = {}
    flat_axes = jax.tree_util.tree_flatten_with_path(
        axes, is_leaf=lambda node: isinstance(node, tuple)
    )[0]
    for path, names in flat_axes:
        named[tuple(key_name(entry) for entry in path)] = names
    shapes = {
        tuple(key_name(entry) for entry in path): leaf.shape
        for path, leaf in jax.tree_util.tree_flatten_with_path(abstract_state.params)[0]
    }

    def place(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        names = tuple(key_name(entry) for entry in path)
        for start in range(len(names)):
            suffix = names[start:]
            if suffix in named and leaf.shape == shapes[suffix]:
                spec = spec_for(named[suffix], rules, shape=leaf.shape, mesh=mesh)
                return NamedSharding(mesh, spec)
        return NamedSharding(mesh, P())

    return jax.tree_util.tree_map_with_path(place, abstract_state)


def rows_multiple(cfg: MeshConfig) -> int:
    """Rows of every batch must be a multiple of this."""
    return cfg.data * cfg.fsdp


@dataclasses.dataclass(frozen=True)
class Layout:
    """A mesh with its table of axes: everything that says where arrays live."""

    mesh: Mesh
    rules: Rules

    @classmethod
    def of(cls, cfg: MeshConfig) -> "Layout":
        """Build from the options.

        Raises:
          ConfigError: too few devices, or a bad rule.
        """
        return cls(mesh=build_mesh(cfg), rules=mesh_rules(cfg))

    @property
    def rows(self) -> NamedSharding:
        """Rows (axis 0 of every leaf of a batch) cut over the mesh axes of 'batch'."""
        return NamedSharding(self.mesh, spec_for(("batch",), self.rules))

    @property
    def replicated(self) -> NamedSharding:
        """On every device whole."""
        return NamedSharding(self.mesh, P())

    def activations(self) -> contextlib.AbstractContextManager[None]:
        """Stands around tracing: activations follow the table. One device needs no constraint."""
        return axis_rules(self.mesh if self.mesh.size > 1 else None, self.rules)
