"""Plain data to config dataclasses, with errors that say what was typed and what was meant."""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from seqgen.config_schema import Leaf, Node, defaults, leaves, nodes, schema, show, value_at
from seqgen.errors import ConfigError, labelled
from seqgen.types import nearest

ConfigT = TypeVar("ConfigT")


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
    if leaf.choices is not None and isinstance(value, (str, tuple, list)):
        known = [str(choice) for choice in leaf.choices]
        items = [value] if isinstance(value, str) else value
        wrong = [str(item) for item in items if str(item) not in known and ":" not in str(item)]
        guess = nearest(wrong[0], known) if wrong else None
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
