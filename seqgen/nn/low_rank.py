"""Low-rank adaptation: a model whose matrices are W + (alpha / r) A B, W frozen.

Hu et al., "LoRA: Low-rank adaptation of large language models", 2021, section 4.1, in parameter
space: the sum is formed when parameters are bound, so that no layer knows of it. A starts from
normal(0, 1 / rows), B from zero: at first the model is exactly the base.

Parameters are those of the base under their own names, and of each matrix 'PATH/kernel' the pair
'lora/PATH/kernel/a' [..., I, r] and 'lora/PATH/kernel/b' [..., r, O]; stacked layers keep their
leading axis.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from seqgen.errors import refuse
from seqgen.nn.parameters import Definition, flat_parts
from seqgen.types import Array, Params, nearest

ADDED = "lora"


class LowRankDefinition(Definition):
    """A definition with an A and a B beside each chosen matrix of a base.

    Attributes:
      base: the definition of the model itself, whose parameters `merge` gives.
      abstract, axes, summed_axes: as of every definition, A and B included.
    """

    def __init__(
        self,
        base: Definition,
        *,
        rank: int,
        alpha: float,
        targets: Sequence[str],
        also_trained: Sequence[str] = (),
    ):
        """Nothing is drawn or built.

        Args:
          base: the model.
          rank: r.
          alpha: the product A B is multiplied with alpha / r.
          targets: regular expressions that fit whole names of matrices (`nn.parameters.part_names`;
            of stacked layers all or none).
          also_trained: the same for parameters of the base that are trained as they are.

        Raises:
          ConfigError: a target fits no matrix, or one narrower than the rank.
        """
        self.base, self.rank, self.scale = base, rank, alpha / rank
        self._also_trained = tuple(also_trained)
        self.abstract, self.axes, self.summed_axes = (
            dict(base.abstract),
            dict(base.axes),
            dict(base.summed_axes),
        )
        self._names: list[str] = []
        parts = flat_parts(base.abstract, base.axes)
        matrices = [name for name in parts if len(parts[name][0][1]) == 2]
        known = [part for name in matrices for part, _ in parts[name]]
        for pattern in targets:
            if not any(re.fullmatch(pattern, name) for name in known):
                refuse(
                    f"lora.targets: {pattern!r} fits the whole name of no matrix",
                    ("names are like", nearest(pattern, known) or known[0]),
                )
        every = [part for row in parts.values() for part, _ in row]
        for pattern in also_trained:
            if not any(re.fullmatch(pattern, name) for name in every):
                refuse(
                    f"lora.train: {pattern!r} fits the whole name of no parameter",
                    ("names are like", nearest(pattern, every) or every[0]),
                )
        for name in matrices:
            if any(re.fullmatch(p, part) for p in targets for part, _ in parts[name]):
                self._add(name)

    def _add(self, name: str) -> None:
        leaf, axes = _at(self.base.abstract, name), _at(self.base.axes, name)
        *lead, rows, columns = leaf.shape
        if min(rows, columns) < self.rank:
            refuse(
                f"lora.rank={self.rank} is more than the {min(rows, columns)} rows or columns of "
                f"{name}",
                ("choose", "a smaller rank, or other lora.targets"),
            )
        before = axes[:-2]
        added: dict[str, tuple[Any, ...]] = {
            "a": ((*lead, rows, self.rank), (*before, axes[-2], None)),
            "b": ((*lead, self.rank, columns), (*before, None, axes[-1])),
        }
        self._names.append(name)
        for letter, (shape, names) in added.items():
            path = f"{ADDED}/{name}/{letter}"
            _put(self.abstract, path, jax.ShapeDtypeStruct(shape, leaf.dtype))
            _put(self.axes, path, names)
            _put(self.summed_axes, path, 0)

    @property
    def num_parameters(self) -> int:
        """Numbers in all parameters, A and B included."""
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(self.abstract))

    def is_trained(self, name: str) -> bool:
        """Whether a parameter (name of a part) is trained: A, B and `also_trained`."""
        if name.startswith(f"{ADDED}/"):
            return True
        return any(re.fullmatch(pattern, name) for pattern in self._also_trained)

    def init(self, key: Array) -> Params:
        """A fresh base with the same numbers as without A and B, and fresh A and B."""
        params = dict(self.base.init(key))
        for index, name in enumerate(self._names):
            for letter in "ab":
                leaf = _at(self.abstract, f"{ADDED}/{name}/{letter}")
                value = jnp.zeros(leaf.shape, leaf.dtype)
                if letter == "a":
                    own = jax.random.fold_in(key, index + 1)
                    value = jax.random.normal(own, leaf.shape, leaf.dtype) * leaf.shape[-2] ** -0.5
                _put(params, f"{ADDED}/{name}/{letter}", value)
        return params

    def merge(self, params: Params) -> Params:
        """Parameters of the base with every A B added in; pure.

        Products are float32, so that merged once or at every step gives the same numbers.
        """
        merged = {name: node for name, node in params.items() if name != ADDED}
        for name in self._names:
            kernel = _at(params, name)
            a, b = (_at(params, f"{ADDED}/{name}/{letter}") for letter in "ab")
            added = jnp.matmul(a, b, precision=lax.Precision.HIGHEST)
            merged = _with(merged, name.split("/"), kernel + self.scale * added)
        return merged

    def bind(self, params: Params) -> Any:
        """The model holding `merge(params)`."""
        return self.base.bind(self.merge(params))


def _at(tree: Any, name: str) -> Any:
    for key in name.split("/"):
        tree = tree[key]
    return tree


def _put(tree: Params, name: str, value: Any) -> None:
    *path, last = name.split("/")
    for key in path:
        tree = tree.setdefault(key, {})
    tree[last] = value


def _with(tree: Params, path: Sequence[str], value: Any) -> Params:
    first, *rest = path
    return {**tree, first: _with(tree[first], rest, value) if rest else value}
