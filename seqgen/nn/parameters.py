"""A module's parameters as one plain dict, apart from its (static) definition.

Modules are NNX modules whose only Variables are `nnx.Param`. Everything outside `seqgen.nn` and
`seqgen.models` sees parameters as nested dicts of arrays with string keys, because a jitted call on
such a dict costs the host about a millisecond less a step than on NNX objects, and because paths
like 'decoder/layers/0/self_attention/query/kernel' are what checkpoints and rules speak of.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
from flax import nnx

from seqgen.errors import refuse
from seqgen.types import Array, Params, nearest


def param(value: Array, axes: tuple[str | None, ...], *, summed_axis: int = 0) -> nnx.Param:
    """A parameter.

    Args:
      value: its start.
      axes: one logical axis name (or None) for each of its dimensions.
      summed_axis: of a matrix that is only used in products (and looked up by rows): the axis that
        they sum over, counted from the end (-1 or -2). Such parameters may be held in 8 bits. 0 for
        all others.
    """
    if len(axes) != value.ndim:
        raise ValueError(f"{len(axes)} axis names {axes} for an array of shape {value.shape}")
    return nnx.Param(value, logical_axes=axes, summed_axis=summed_axis)


def part_names(name: str, axes: tuple[str | None, ...], shape: tuple[int, ...]) -> list[str]:
    """The names of a parameter's parts: of its layers, where several are stacked, or its own.

    'decoder/layers/norm/scale' with axes ('layers', 'embed') is 'decoder/layers/0/norm/scale', ...:
    what the same model without `scan_layers` calls them.
    """
    if not axes or axes[0] != "layers":
        return [name]
    before, _, after = f"/{name}".partition("/layers/")
    return [f"{before}/layers/{index}/{after}".lstrip("/") for index in range(shape[0])]


def flat_parts(abstract: Params, axes: Params) -> dict[str, list[tuple[str, Any]]]:
    """Name of each parameter -> (name, axes) of its parts (`part_names`), in the order of leaves.

    Args:
      abstract: nested dicts of anything with a shape.
      axes: the same dicts with a tuple of axis names for each.
    """

    def walk(node: Params, names: Params, path: str) -> Iterator[tuple[str, Any, Any]]:
        for key in sorted(node):
            if isinstance(node[key], dict):
                yield from walk(node[key], names[key], f"{path}{key}/")
            else:
                yield f"{path}{key}", node[key], names[key]

    found = {}
    for name, leaf, own in walk(abstract, axes, ""):
        parts = part_names(name, own, leaf.shape)
        found[name] = [(part, own if part == name else own[1:]) for part in parts]
    return found


def put(tree: dict[str, Any], name: str, value: Any) -> None:
    """Set what 'a/b/c' names in nested dicts; those that are missing are made."""
    *path, last = name.split("/")
    for key in path:
        tree = tree.setdefault(key, {})
    tree[last] = value


def at(tree: Mapping[str, Any], name: str) -> Any:
    """What 'a/b/c' names in nested dicts."""
    for key in name.split("/"):
        tree = tree[key]
    return tree


def overlay(whole: Mapping[str, Any], part: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts like `whole` with the leaves of `part`, which may lack some."""
    merged = dict(whole)
    for key, node in part.items():
        merged[key] = overlay(whole[key], node) if isinstance(node, Mapping) else node
    return merged


def check_patterns(
    option: str, patterns: Iterable[str], names: Iterable[str], *, what: str = "parameter"
) -> None:
    """Refuse a pattern that is no regular expression, or that fits none of `names` whole.

    Args:
      option: which gave the patterns.
      patterns: regular expressions.
      names: at least one.
      what: they are names of.

    Raises:
      ConfigError: the first of them, with the name that is nearest to it.
    """
    names = list(names)
    for pattern in patterns:
        try:
            expression = re.compile(pattern)
        except re.error as error:
            refuse(f"{option}: {pattern!r} is no regular expression", ("reason", str(error)))
        if not any(expression.fullmatch(name) for name in names):
            guess = nearest(pattern, names) or names[0]
            refuse(
                f"{option}: {pattern!r} fits the whole name of no {what}",
                ("names are like", guess),
                ("parts of names", f".*{pattern}.*" if "*" not in pattern else "with .* around"),
            )


class Definition:
    """A model without its numbers: how to make parameters and how to bind them.

    Attributes:
      abstract: nested dict of `jax.ShapeDtypeStruct`, the shapes of the parameters.
      axes: the same dict with a tuple of logical axis names for each parameter.
      summed_axes: the same dict with the `summed_axis` of each parameter.
    """

    def __init__(self, build: Callable[[nnx.Rngs], Any]):
        """Args: build: makes the module from a stream of keys; called abstractly here."""
        self._build = build
        model = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
        self._graph, state = nnx.split(model, nnx.Param)
        flat = nnx.to_flat_state(state)
        self._paths = [path for path, _ in flat]
        self._state = state
        self.axes = self._nest({path: leaf.logical_axes for path, leaf in flat})
        self.summed_axes = self._nest({path: leaf.summed_axis for path, leaf in flat})
        self.abstract = self._nest(
            {path: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for path, leaf in flat}
        )

    @property
    def num_parameters(self) -> int:
        """Numbers in all parameters; no array is made."""
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(self.abstract))

    @staticmethod
    def _nest(flat: dict[tuple[Any, ...], Any]) -> Params:
        tree: Params = {}
        for path, value in flat.items():
            put(tree, "/".join(map(str, path)), value)
        return tree

    @property
    def base(self) -> "Definition":
        """The model whose parameters `merge` gives."""
        return self

    def merge(self, params: Params) -> Params:
        """Parameters of `base` that compute the same; pure."""
        return params

    def is_trained(self, name: str) -> bool:
        """Whether training may change a parameter (name of a part, see `part_names`)."""
        del name
        return True

    def init(self, key: Array) -> Params:
        """Fresh parameters from a PRNG key; pure, so it can be jitted with output shardings."""
        state = nnx.state(self._build(nnx.Rngs(params=key)), nnx.Param)
        return self._nest({path: leaf[...] for path, leaf in nnx.to_flat_state(state)})

    def bind(self, params: Params) -> Any:
        """The module holding `params` (arrays or tracers); cheap, done inside traced functions."""
        flat = []
        for path in self._paths:
            node: Any = params
            for name in path:
                node = node[str(name)]
            flat.append((path, nnx.Param(node)))
        return nnx.merge(self._graph, nnx.from_flat_state(flat))
