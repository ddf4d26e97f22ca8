"""Low-rank adaptation: a model whose matrices are W + (alpha / r) A B, W frozen.

Hu et al., "LoRA: Low-rank adaptation of large language models", 2021, section 4.1, in parameter
space: the sum is formed when parameters are bound, so that no layer knows of it. A starts from
normal(0, 1 / rows), B from zero: at first the model is exactly the base.

Parameters are those of the base under their own names, and of each matrix 'PATH/kernel' the pair
'lora/PATH/kernel/a' [..., I, r] and 'lora/PATH/kernel/b' [..., r, O]; stacked layers keep their
leading axis.
"""

import functools
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from seqgen.errors import refuse
from seqgen.nn.parameters import Definition, at, check_patterns, flat_parts, overlay, put
from seqgen.types import Array, Params

ADDED = "lora"


class LowRankDefinition(Definition):
    """A definition with an A and a B beside each chosen matrix of a base.

    Attributes:
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
          ConfigError: a pattern is no regular expression or fits nothing, or a target fits a matrix
            narrower than the rank.
        """
        self._base, self.rank, self.scale = base, rank, alpha / rank
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
        check_patterns("lora.targets", targets, known, what="matrix")
        every = [part for row in parts.values() for part, _ in row]
        check_patterns("lora.train", also_trained, every)
        for name in matrices:
            if any(re.fullmatch(p, part) for p in targets for part, _ in parts[name]):
                self._add(name)

    def _add(self, name: str) -> None:
        leaf, axes = at(self.base.abstract, name), at(self.base.axes, name)
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
            put(self.abstract, path, jax.ShapeDtypeStruct(shape, leaf.dtype))
            put(self.axes, path, names)
            put(self.summed_axes, path, 0)

    @property
    def base(self) -> Definition:
        """The model itself, whose parameters `merge` gives."""
        return self._base

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
                leaf = at(self.abstract, f"{ADDED}/{name}/{letter}")
                value = jnp.zeros(leaf.shape, leaf.dtype)
                if letter == "a":
                    own = jax.random.fold_in(key, index + 1)
                    value = jax.random.normal(own, leaf.shape, leaf.dtype) * leaf.shape[-2] ** -0.5
                put(params, f"{ADDED}/{name}/{letter}", value)
        return params

    def merge(self, params: Params) -> Params:
        """Parameters of the base with every A B added in; pure.

        Products are float32, so that merged once or at every step gives the same numbers.
        """
        merged: Params = {}
        for name in self._names:
            a, b = (at(params, f"{ADDED}/{name}/{letter}") for letter in "ab")
            put(merged, name, _sum(at(params, name), a, b, scale=self.scale))
        return overlay({name: node for name, node in params.items() if name != ADDED}, merged)

    def bind(self, params: Params) -> Any:
        """The model holding `merge(params)`."""
        return self.base.bind(self.merge(params))


@functools.partial(jax.jit, static_argnames="scale", inline=True)
def _sum(kernel: Array, a: Array, b: Array, *, scale: float) -> Array:
    return kernel + scale * jnp.matmul(a, b, precision=lax.Precision.HIGHEST)
