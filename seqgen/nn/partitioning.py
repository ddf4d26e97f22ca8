"""Logical axis names and the table that maps them to the axes of a device mesh.

Layers name the axes of what they compute (`seqgen.types.AXIS_NAMES`); only the table in force says
what that means on devices. Without a mesh nothing happens, so the same layer code runs anywhere.
"""

import contextlib
import contextvars
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from seqgen.types import Array

Rules = Mapping[str, tuple[str, ...]]

# Weights are cut over fsdp along their input side and over tensor along heads, mlp and vocabulary;
# activations use fsdp for their rows already, so their 'embed' axis stays whole.
DEFAULT_RULES: Rules = {
    "batch": ("data", "fsdp"),
    "length": ("sequence",),
    "embed": ("fsdp",),
    "mlp": ("tensor",),
    "heads": ("tensor",),
    "vocab": ("tensor",),
    "hidden": ("tensor",),
    "head_dim": (),
    "layers": (),
}

_CURRENT: contextvars.ContextVar[tuple[Mesh, Rules] | None] = contextvars.ContextVar(
    "axis_rules", default=None
)


@contextlib.contextmanager
def axis_rules(mesh: Mesh | None, rules: Rules | None = None) -> Iterator[None]:
    """Within it, `constrain` pins activations to `mesh` by `rules` (DEFAULT_RULES if None)."""
    token = _CURRENT.set(None if mesh is None else (mesh, rules or DEFAULT_RULES))
    try:
        yield
    finally:
        _CURRENT.reset(token)


def layout_in_force() -> tuple[Mesh, Rules] | None:
    """The mesh and table that `axis_rules` put in force; None without a mesh."""
    return _CURRENT.get()


def spec_for(
    axes: Sequence[str | None],
    rules: Rules = DEFAULT_RULES,
    *,
    shape: Sequence[int] | None = None,
    mesh: Mesh | None = None,
) -> PartitionSpec:
    """The partition of an array whose axes carry the logical names `axes`.

    A mesh axis serves the first logical axis that asks for it. With `mesh`, axes that it lacks are
    left out; with `shape` too, those that would cut a dimension unevenly.
    """
    used: set[str] = set()
    entries: list[Any] = []
    for index, name in enumerate(axes):
        wanted = [] if name is None else [axis for axis in rules.get(name, ()) if axis not in used]
        if mesh is not None:
            wanted = [axis for axis in wanted if axis in mesh.shape]
            if shape is not None and shape[index] % math.prod(mesh.shape[a] for a in wanted):
                wanted = []
        used.update(wanted)
        entries.append(tuple(wanted) if len(wanted) > 1 else (wanted[0] if wanted else None))
    return PartitionSpec(*entries)


def num_shards(name: str) -> int:
    """Into how many pieces the mesh in force cuts the logical axis `name`; 1 without a mesh."""
    current = _CURRENT.get()
    if current is None:
        return 1
    mesh, rules = current
    return math.prod(mesh.shape.get(axis, 1) for axis in rules.get(name, ()))


def constrain(x: Array, axes: Sequence[str | None]) -> Array:
    """`x`, pinned to the mesh in force along its logical `axes`; itself without a mesh."""
    current = _CURRENT.get()
    if current is None:
        return x
    mesh, rules = current
    spec = spec_for(axes, rules, shape=x.shape, mesh=mesh)
    return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))
