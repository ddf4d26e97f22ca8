"""How a mesh cuts work on [rows, vocabulary], and the reductions that put its parts together.

The vocabulary is cut as in Shoeybi et al. 2019, "Megatron-LM", section 3: of its classes only
maxima, sums and label logits travel between devices.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from seqgen.nn.partitioning import layout_in_force, spec_for
from seqgen.types import Array


@dataclasses.dataclass(frozen=True)
class VocabularyCut:
    """The parts that devices have; without a mesh there is one, and nothing here costs anything.

    The methods are called inside `shard_map` over the whole mesh.

    Attributes:
      mesh: the devices, or None.
      rows: partition of [B, T].
      classes: mesh axes over which classes are cut.
    """

    mesh: Mesh | None = None
    rows: P = dataclasses.field(default_factory=P)
    classes: tuple[str, ...] = ()

    @classmethod
    def of(cls, batch: int, length: int, vocab_size: int) -> "VocabularyCut":
        """By the mesh and table in force; whole where they leave the vocabulary whole."""
        layout = layout_in_force()
        if layout is None:
            return cls()
        mesh, rules = layout
        shape = (batch, length, vocab_size)
        # One spec for all three: a mesh axis that has rows apart cannot have classes apart too.
        *rows, classes = spec_for(("batch", "length", "vocab"), rules, shape=shape, mesh=mesh)
        axes = tuple(axis for axis in _axes(classes) if mesh.shape[axis] > 1)
        return cls(mesh, P(*rows), axes) if axes else cls()

    @property
    def num_row_parts(self) -> int:
        return self._size(self._row_axes)

    @property
    def num_class_parts(self) -> int:
        return self._size(self.classes)

    @property
    def _row_axes(self) -> tuple[str, ...]:
        return tuple(axis for entry in self.rows for axis in _axes(entry))

    def _size(self, axes: tuple[str, ...]) -> int:
        return 1 if self.mesh is None else math.prod(self.mesh.shape[axis] for axis in axes)

    def sum_rows(self, tree: Any) -> Any:
        """Sums of a tree of arrays over the parts of the rows."""
        return lax.psum(tree, self._row_axes) if self._row_axes else tree

    def over_classes(self, reduce: Callable[..., Any], x: Array) -> Array:
        """`lax.psum`, `pmax` or `pmean` of an array over the parts of the classes."""
        return reduce(x, self.classes) if self.classes else x

    def own_labels(self, labels: Array, num_classes: int) -> Array:
        """Labels counted from this part's first class of `num_classes`; others' lie outside."""
        return labels - lax.axis_index(self.classes) * num_classes if self.classes else labels

    def label_logits(self, logits: Array, own_labels: Array) -> Array:
        """The logit of each row's label [rows], whichever part has it, from [rows, classes]."""
        if not self.classes:
            return jnp.take_along_axis(logits, own_labels[:, None], axis=-1)[:, 0]
        last = logits.shape[1] - 1
        picked = jnp.take_along_axis(logits, own_labels.clip(0, last)[:, None], axis=-1)[:, 0]
        is_here = (own_labels >= 0) & (own_labels <= last)
        return self.over_classes(lax.psum, jnp.where(is_here, picked, 0))


def _axes(entry: Any) -> tuple[str, ...]:
    """The mesh axes of one entry of a partition."""
    return () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)
