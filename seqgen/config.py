"""One experiment as frozen dataclasses: read from a config file, overridden, checked, stored.

A config file is Python with `get_config() -> ml_collections.ConfigDict` that names only what
differs from the defaults, and `tiny()`, the same experiment shrunk for tests. Overrides are parsed
by ml_collections' config_flags against the whole tree (defaults filled in), then everything is
converted once to the dataclasses that the packages own. Runs store strict JSON.
"""

import ast
import dataclasses
import hashlib
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import config_dict, config_flags

from seqgen import config_checks, config_conversion, config_file, config_schema
from seqgen.config_conversion import Origin
from seqgen.config_schema import Leaf, Node
from seqgen.data.config import DataConfig, TokenizerConfig
from seqgen.decoding.config import DecodeConfig
from seqgen.errors import ConfigError, labelled
from seqgen.evaluation.config import EvaluationConfig
from seqgen.models.config import ModelConfig
from seqgen.training.config import (
    InitConfig,
    LoraConfig,
    MeshConfig,
    OptimizerConfig,
    TrainConfig,
)
from seqgen.types import option


@dataclasses.dataclass(frozen=True)
class Config:
    """A whole experiment. Made by `load`, `from_dict` or `from_json`, which check it."""

    name: str = option("", help="a name for tables and logs")
    model: ModelConfig = option(ModelConfig(), help="architecture")  # noqa: RUF009
    data: DataConfig = option(DataConfig(), help="corpus and batches")  # noqa: RUF009
    tokenizer: TokenizerConfig = option(TokenizerConfig(), help="text to ids")  # noqa: RUF009
    init: InitConfig = option(InitConfig(), help="parameters to begin from")  # noqa: RUF009
    lora: LoraConfig = option(LoraConfig(), help="low-rank adaptation")  # noqa: RUF009
    train: TrainConfig = option(TrainConfig(), help="the loop")  # noqa: RUF009
    optimizer: OptimizerConfig = option(OptimizerConfig(), help="update rule")  # noqa: RUF009
    mesh: MeshConfig = option(MeshConfig(), help="devices")  # noqa: RUF009
    decode: DecodeConfig = option(DecodeConfig(), help="generation defaults")  # noqa: RUF009
    evaluation: EvaluationConfig = option(EvaluationConfig(), help="scoring")  # noqa: RUF009


def from_dict(data: Mapping[str, Any], *, origin: Origin | None = None) -> Config:
    """Nested plain data to a checked `Config`; keys that are missing take their defaults.

    Raises:
      ConfigError: unknown key, wrong type, value out of range, or settings that contradict.
    """
    cfg = config_conversion.from_dict(Config, data, origin=origin)
    config_checks.check(cfg)
    return cfg


def to_json(cfg: Config) -> str:
    """Strict JSON (no NaN, declared order, two-space indent, final newline)."""
    return json.dumps(config_schema.to_dict(cfg), indent=2, allow_nan=False) + "\n"


def from_json(text: str, *, place: str = "config.json") -> Config:
    """The inverse of `to_json`; `place` names the file in errors.

    Raises:
      ConfigError: not strict JSON, or not a config.
    """

    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is not JSON")

    try:
        data = json.loads(text, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{place} is not valid JSON", details=[str(error)]) from error
    if not isinstance(data, dict):
        raise ConfigError(f"{place} does not hold a JSON object")
    return from_dict(data, origin=Origin(place=labelled("written in", place)))


def read_json(path: pathlib.Path) -> Config:
    """The `Config` stored in a run directory's config.json.

    Raises:
      ConfigError: if the file is missing or bad.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}", details=[str(error)]) from error
    return from_json(text, place=str(path))


def load_stored(path: pathlib.Path, overrides: Sequence[str] = ()) -> Config:
    """The `Config` of a run's config.json, with overrides.

    Raises:
      ConfigError: see `read_json` and `load`.
    """
    cfg = read_json(path)
    if not overrides:
        return cfg
    place = labelled("written in", str(path))
    return override(config_schema.to_dict(cfg), overrides, place=place)


def digest(cfg: Any) -> str:
    """SHA-256 (hex) of a config dataclass, independent of the order of its fields."""
    text = json.dumps(
        config_schema.to_dict(cfg), sort_keys=True, separators=(",", ":"), allow_nan=False
    )
    return hashlib.sha256(text.encode()).hexdigest()


def load(spec: str, overrides: Sequence[str] = ()) -> Config:
    """Read `FILE.py[:arg]`, apply overrides `--config.a.b=value`, convert and check.

    Args:
      spec: path of a config file, optionally with an argument for its `get_config`. The argument
        `tiny` calls the file's `tiny()`.
      overrides: command-line words; see `split_overrides` for the forms.

    Raises:
      ConfigError: whatever is wrong with the file, an override or their combination.
    """
    return override(config_file.read(spec), overrides, place=labelled("written in", spec))


def override(data: Mapping[str, Any], overrides: Sequence[str] = (), *, place: str = "") -> Config:
    """Nested plain data (as a config file gives it) with command-line overrides, checked.

    An override of a `kind` exchanges the variant: fields that both variants have keep what `data`
    says; a field that only the old one has must stand at its default, or the override is refused.

    Raises:
      ConfigError: see `load`.
    """
    typed = [_split(word) for word in overrides]
    texts = {path: word for (path, _), word in zip(typed, overrides, strict=True)}
    tree: dict[str, Any] = config_dict.ConfigDict(dict(data)).to_dict()
    plain = Origin(place=place)
    current = config_conversion.from_dict(Config, tree, origin=plain)
    for path, text in typed:
        tree = _exchange(tree, current, path, text, origin=Origin(place, texts, current))
        current = config_conversion.from_dict(Config, tree, origin=plain)
    known = {path: leaf for path, leaf, _ in config_schema.leaves(current)}
    inner = {path for path, _, _ in config_schema.nodes(current)}
    origin = Origin(place, texts, current)
    for path, _ in typed:
        if path not in known and path not in inner:
            raise config_conversion.unknown_key(path, current, origin=origin)
    values = _parse([(p, t) for p, t in typed if p in known], known, current, origin)
    return from_dict(values, origin=Origin(place, texts, current))


def _split(word: str) -> tuple[str, str]:
    """`--config.a.b=value` -> ('a.b', 'value'); `--noconfig.a.b` -> ('a.b', 'false')."""
    match = re.fullmatch(r"--?(no)?config\.([^=]+)(?:=(.*))?", word, flags=re.DOTALL)
    if not match:
        raise ConfigError(
            f"not an override: {word}", details=[labelled("the form is", "--config.a.b=value")]
        )
    negated, path, text = match.groups()
    if negated and text is not None:
        raise ConfigError(f"{word}: --noconfig takes no value")
    return path, "false" if negated else ("true" if text is None else text)


def _exchange(
    data: dict[str, Any], current: Config, path: str, text: str, *, origin: Origin
) -> dict[str, Any]:
    """Apply an override that changes the shape of the tree; other overrides change nothing."""
    inner = {name: (node, value) for name, node, value in config_schema.nodes(current)}
    if path in inner:
        return _with_node(data, path, _literal_node(path, text, origin))
    parent, _, last = path.rpartition(".")
    if last != "kind" or parent not in inner or len(inner[parent][0].variants) == 1:
        return data
    node, before = inner[parent]
    after = config_conversion.pick_variant(node, {"kind": text}, before, path=parent, origin=origin)
    if after is type(before):
        return data
    given = _node_at(data, parent)
    fields, old_defaults = config_schema.schema(after), config_schema.defaults(type(before))
    useless = [k for k in given if k not in fields and given[k] != old_defaults.get(k)]
    if useless:
        listed = ", ".join(f"{k}={config_schema.show(given[k])}" for k in useless)
        kept = {"kind": text, **{k: v for k, v in given.items() if k in fields and k != "kind"}}
        raise ConfigError(
            f"{parent}.kind={text} has no use for what the config file says: {listed}",
            details=[
                *origin.lines(path),
                labelled("its fields", ", ".join(fields)),
                labelled("replace it all", f'--config.{parent}="{kept}"'),
            ],
        )
    return _with_node(data, parent, {**{k: given[k] for k in given if k in fields}, "kind": text})


def _literal_node(path: str, text: str, origin: Origin) -> dict[str, Any]:
    try:
        value = ast.literal_eval(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        value = None
    if not isinstance(value, dict):
        raise ConfigError(
            f"{path} holds further keys; to replace it whole, give them as a dict",
            details=[
                *origin.lines(path),
                labelled("the form is", f"--config.{path}=\"{{'key': value}}\""),
            ],
        )
    return value


def _node_at(data: Mapping[str, Any], path: str) -> dict[str, Any]:
    for name in path.split("."):
        data = data.get(name, {})
    return dict(data)


def _with_node(data: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    first, _, rest = path.partition(".")
    inner = _with_node(data.get(first, {}), rest, value) if rest else value
    return {**data, first: inner}


def _parse(
    typed: Sequence[tuple[str, str]], known: Mapping[str, Leaf], current: Config, origin: Origin
) -> dict[str, Any]:
    """Let config_flags parse the overrides against the whole tree; give plain dicts."""
    filled = config_dict.ConfigDict(_with_placeholders(current))
    emptied = []
    for path in dict(typed):
        leaf, texts = known[path], [text for name, text in typed if name == path]
        if leaf.optional and texts[-1].lower() == "none":
            emptied.append(path)
            continue
        if leaf.element is not None:
            texts = [_tuple_text(leaf, texts[-1])]
        words = ["seqgen", *(f"--config.{path}={text}" for text in texts)]
        holder = flags.FlagValues()
        config_flags.DEFINE_config_dict("config", filled, flag_values=holder, sys_argv=words)
        try:
            holder(words)
        except (flags.Error, ValueError, TypeError, SyntaxError) as error:
            now = config_schema.value_at(current, path)
            typed_text = dict(typed)[path]
            raise config_conversion.bad_value(
                leaf, typed_text, path=path, origin=origin, now=now
            ) from error
    result = filled.to_dict()
    for path in emptied:
        result = _with_node(result, path, None)
    return result


def _tuple_text(leaf: Leaf, text: str) -> str:
    """`bleu,ter` and `1,2` as the Python tuples that config_flags reads; others as they are."""
    if text.lstrip().startswith(("(", "[", "'", '"')):
        return text
    parts = [part.strip() for part in text.split(",") if part.strip()]
    return f"({''.join(f'{part!r},' if leaf.element is str else f'{part},' for part in parts)})"


def _with_placeholders(cfg: Any) -> dict[str, Any]:
    """`to_dict` with typed placeholders for None, so that config_flags knows their type."""
    result: dict[str, Any] = {}
    for name, entry in config_schema.schema(type(cfg)).items():
        value = getattr(cfg, name)
        if isinstance(entry, Node):
            result[name] = _with_placeholders(value)
        else:
            result[name] = config_dict.placeholder(entry.type) if value is None else value
    return result
