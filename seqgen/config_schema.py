"""Trees of frozen dataclasses as plain data: names, types, ranges, variants, and helpful errors.

A field is a leaf (int, float, bool, str, `X | None`, tuples of int, float or str), a nested
dataclass, or a choice of dataclasses (`A | B`), told apart by the literal field `kind`.
"""

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from seqgen.errors import ConfigError
from seqgen.types import nearest

ConfigT = TypeVar("ConfigT")
_LABEL = 15  # width of the first column of an error's details


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where values come from, for error messages.

    Attributes:
      place: a line such as 'written in     configs/quickstart.py'.
      typed: path of an overridden field -> what stood on the command line.
      current: the resolved config before the overrides, or None.
    """

    place: str = ""
    typed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    current: Any = None

    def lines(self, path: str) -> list[str]:
        """Detail lines that say where the value of `path` was given."""
        for known, text in self.typed.items():
            if path == known or path.startswith(known + "."):
                return [labelled("you typed", text)]
        return [self.place] if self.place else []


def labelled(label: str, text: str) -> str:
    """One detail line of an error: label column, then text."""
    return f"{label:<{_LABEL}}{text}"


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


def from_dict(
    cls: type[ConfigT],
    data: Mapping[str, Any],
    *,
    origin: Origin | None = None,
    path: str = "",
    base: Any = None,
    root: Any = None,
) -> ConfigT:
    """Make a config from plain data; what `data` does not name stands at its default.

    Args:
      cls: the dataclass.
      data: nested mappings.
      origin: where `data` was given, for messages.
      path: dotted path of this node, ending in '.', or ''.
      base: values to start from instead of the defaults of `cls`.
      root: the whole default config, in which suggestions are looked up.

    Raises:
      ConfigError: unknown key, wrong type, value out of range.
    """
    origin = origin or Origin()
    if not isinstance(data, Mapping):
        raise ConfigError(
            f"{path.rstrip('.') or 'the config'} holds further keys and cannot be {data!r}",
            details=origin.lines(path.rstrip(".")),
        )
    entries = schema(cls)
    values = to_values(base) if isinstance(base, cls) else defaults(cls)
    if root is None:
        root = origin.current or cls()
    for name, given in data.items():
        if name not in entries:
            raise unknown_key(f"{path}{name}", root, origin=origin)
        entry = entries[name]
        where = f"{path}{name}"
        if isinstance(entry, Leaf):
            now = value_at(origin.current, where, values.get(name))
            values[name] = convert(entry, given, path=where, origin=origin, now=now)
            continue
        start = values.get(name)
        chosen = pick_variant(entry, given, start, path=where, origin=origin)
        values[name] = from_dict(
            chosen, given, origin=origin, path=f"{where}.", base=start, root=root
        )
    missing = [name for name in entries if name not in values]
    if missing:
        raise ConfigError(f"{path}{missing[0]} must be given", details=origin.lines(path))
    return cls(**values)


def value_at(cfg: Any, path: str, missing: Any = None) -> Any:
    """The value at a dotted path of a config, or `missing`."""
    for name in path.split("."):
        if not hasattr(cfg, name):
            return missing
        cfg = getattr(cfg, name)
    return cfg


def to_values(cfg: Any) -> dict[str, Any]:
    """Field name -> value, one level deep."""
    return {field.name: getattr(cfg, field.name) for field in dataclasses.fields(cfg)}


def convert(leaf: Leaf, value: Any, *, path: str, origin: Origin, now: Any = None) -> Any:
    """`leaf.convert` with the error worded for users.

    Raises:
      ConfigError: wrong type, range or choice.
    """
    try:
        return leaf.convert(value)
    except ValueError:
        raise bad_value(leaf, value, path=path, origin=origin, now=now) from None


def bad_value(leaf: Leaf, value: Any, *, path: str, origin: Origin, now: Any) -> ConfigError:
    """The error for a value that `leaf` does not take."""
    details = [*origin.lines(path), labelled("it takes", f"{leaf}   (now {show(now)})")]
    if leaf.choices is not None and isinstance(value, str):
        guess = nearest(value, [str(choice) for choice in leaf.choices])
        details += [labelled("did you mean", guess)] if guess else []
    return ConfigError(f"bad value for  {path}: {show(value)}", details=details)


def pick_variant(node: Node, data: Any, start: Any, *, path: str, origin: Origin) -> type:
    """The dataclass of `node` that serves `data['kind']`; without a kind, that of `start`.

    Raises:
      ConfigError: if no variant serves the kind; all kinds are listed.
    """
    kind = data.get("kind") if isinstance(data, Mapping) else None
    if kind is None or len(node.variants) == 1:
        return type(start) if start is not None else node.variants[0]
    known: list[str] = []
    open_variants = []
    for variant in node.variants:
        leaf = schema(variant)["kind"]
        assert isinstance(leaf, Leaf) and leaf.choices
        if kind in leaf.choices:
            return variant
        known += leaf.choices
        open_variants += [variant] if leaf.open_choices else []
    if ":" in str(kind) and open_variants:
        return type(start) if type(start) in open_variants else open_variants[0]
    details = origin.lines(f"{path}.kind")
    guess = nearest(str(kind), known)
    details += [labelled("did you mean", guess)] if guess else []
    details += [labelled("it takes", f"one of {', '.join(known)}")]
    raise ConfigError(f"bad value for  {path}.kind: {show(kind)}", details=details)


def unknown_key(path: str, root: Any, *, origin: Origin) -> ConfigError:
    """The error for a key that no config has, naming the nearest that exists."""
    details = origin.lines(path)
    known = {name: (leaf, value) for name, leaf, value in leaves(root)}
    guess = _nearest_path(path, list(known), [name for name, _, _ in nodes(root)])
    if guess in known:
        leaf, value = known[guess]
        details.append(labelled("did you mean", f"{guess}   ({leaf}, now {show(value)})"))
    elif guess:
        inside = [name.removeprefix(guess + ".") for name in known if name.startswith(guess + ".")]
        details.append(labelled("did you mean", f"{guess}   (with {', '.join(inside[:6])}, ...)"))
    details.append(labelled("see them all", "seqgen show --config=FILE"))
    return ConfigError(f"unknown config key  {path}", details=details)


def _nearest_path(path: str, known: list[str], inner: list[str]) -> str | None:
    """Same parent first, then the same last name elsewhere, then the whole path."""
    parent, _, last = path.rpartition(".")
    everything = known + inner
    siblings = {name.rpartition(".")[2]: name for name in everything if _parent(name) == parent}
    guess = nearest(last, siblings)
    if guess:
        return siblings[guess]
    by_last: dict[str, str] = {}
    for name in everything:
        by_last.setdefault(name.rpartition(".")[2], name)
    guess = last if last in by_last else nearest(last, by_last)
    return by_last[guess] if guess else nearest(path, everything)


def _parent(path: str) -> str:
    return path.rpartition(".")[0]


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
