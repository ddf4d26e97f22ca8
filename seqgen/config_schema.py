"""Trees of frozen dataclasses: their names, types, ranges, variants and values.

A field is a leaf (int, float, bool, str, `X | None`, tuples of int, float or str), a nested
dataclass, or a choice of dataclasses (`A | B`), told apart by the literal field `kind`.
"""

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Iterator
from typing import Any


@dataclasses.dataclass(frozen=True)
class Leaf:
    """Type and limits of one field that holds a value.

    Attributes:
      type: int, float, bool, str or tuple.
      element: type of a tuple's elements, otherwise None.
      optional: whether None is allowed.
    """

    type: Any
    element: Any
    optional: bool
    help: str = ""
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[Any, ...] | None = None
    open_choices: bool = False

    def __str__(self) -> str:
        """Short form for messages: 'int, 1..256', 'one of post, pre'."""
        several = "comma-separated" if self.element else ""
        name = f"{several} {self.element.__name__}s" if self.element else self.type.__name__
        if self.choices is not None:
            listed = ", ".join(str(choice) for choice in self.choices)
            name = f"{several}, of {listed}" if several else f"one of {listed}"
            name += " or module:name" if self.open_choices else ""
        elif self.minimum is not None and self.maximum is not None:
            name += f", {show(self.minimum)}..{show(self.maximum)}"
        elif self.minimum is not None:
            name += f", at least {show(self.minimum)}"
        elif self.maximum is not None:
            name += f", at most {show(self.maximum)}"
        return name + (" or none" if self.optional else "")

    def convert(self, value: Any) -> Any:
        """`value` as this leaf's type; an int is taken for a float, a list for a tuple.

        Raises:
          ValueError: if the type, range or choice is wrong (no message: the caller words it).
        """
        if value is None and self.optional:
            return None
        if self.element is not None:
            if not isinstance(value, (tuple, list)):
                raise ValueError
            converted: Any = tuple(self._scalar(item, self.element) for item in value)
            self._check(converted, converted)
            return converted
        scalar = self._scalar(value, self.type)
        self._check([scalar], [scalar])
        return scalar

    @staticmethod
    def _scalar(value: Any, wanted: Any) -> Any:
        if wanted is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if type(value) is not wanted or (wanted is float and not math.isfinite(value)):
            raise ValueError
        return value

    def _check(self, numbers: Any, names: Any) -> None:
        if self.choices is not None:
            for name in names:
                given_module = self.open_choices and isinstance(name, str) and ":" in name
                if name not in self.choices and not given_module:
                    raise ValueError
        for number in numbers:
            if self.minimum is not None and number < self.minimum:
                raise ValueError
            if self.maximum is not None and number > self.maximum:
                raise ValueError


@dataclasses.dataclass(frozen=True)
class Node:
    """A field that holds a config dataclass: the classes it may be."""

    variants: tuple[type, ...]
    help: str = ""


@functools.cache
def schema(cls: type) -> dict[str, Leaf | Node]:
    """Field name -> `Leaf` or `Node`, in declared order."""
    hints = typing.get_type_hints(cls)
    result: dict[str, Leaf | Node] = {}
    for field in dataclasses.fields(cls):
        hint = hints[field.name]
        options = typing.get_args(hint) if _is_union(hint) else (hint,)
        present = tuple(option for option in options if option is not types.NoneType)
        metadata = field.metadata
        if all(dataclasses.is_dataclass(option) for option in present):
            result[field.name] = Node(present, metadata.get("help", ""))
            continue
        if len(present) != 1:
            raise TypeError(f"{cls.__name__}.{field.name}: unsupported type {hint}")
        base, element = present[0], None
        if typing.get_origin(base) is tuple or base is tuple:
            arguments = typing.get_args(base)
            base, element = tuple, arguments[0] if arguments else str
        result[field.name] = Leaf(
            type=base, element=element, optional=len(present) < len(options), **metadata
        )
    return result


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def defaults(cls: type) -> dict[str, Any]:
    """Field name -> default value; fields without one are absent."""
    values = {}
    for field in dataclasses.fields(cls):
        if field.default is not dataclasses.MISSING:
            values[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            values[field.name] = field.default_factory()
    return values


def leaves(cfg: Any, path: str = "") -> Iterator[tuple[str, Leaf, Any]]:
    """Every leaf of a config as (dotted path, `Leaf`, value), in declared order."""
    for name, entry in schema(type(cfg)).items():
        value = getattr(cfg, name)
        if isinstance(entry, Node):
            yield from leaves(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", entry, value


def nodes(cfg: Any, path: str = "") -> Iterator[tuple[str, Node, Any]]:
    """Every nested dataclass of a config as (dotted path, `Node`, value)."""
    for name, entry in schema(type(cfg)).items():
        if isinstance(entry, Node):
            value = getattr(cfg, name)
            yield f"{path}{name}", entry, value
            yield from nodes(value, f"{path}{name}.")


def to_dict(cfg: Any) -> dict[str, Any]:
    """Nested plain dicts in declared order; tuples stay tuples."""
    return {
        name: to_dict(getattr(cfg, name)) if isinstance(entry, Node) else getattr(cfg, name)
        for name, entry in schema(type(cfg)).items()
    }


def value_at(cfg: Any, path: str, missing: Any = None) -> Any:
    """The value at a dotted path of a config, or `missing`."""
    for name in path.split("."):
        if not hasattr(cfg, name):
            return missing
        cfg = getattr(cfg, name)
    return cfg


def show(value: Any) -> str:
    """A value as a user would type it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (tuple, list)):
        return ",".join(show(item) for item in value) or "()"
    if isinstance(value, str):
        return value if value and " " not in value else repr(value)
    return repr(value)
