"""A field that nothing reads is a lie to whoever sets it."""

import ast
import dataclasses
import pathlib

import pytest

from seqgen import config_schema
from seqgen.config import Config
from seqgen.config_schema import Leaf, Node

PACKAGE = pathlib.Path(config_schema.__file__).parent
MEETING_PLACES = (
    *("experiment.py", "building.py", "runs.py", "run_evaluation.py", "inference.py", "cli/"),
)
OWNERS = {  # section of the config -> where its fields are read (besides the meeting places)
    "": (),
    "model": ("models/",),
    "data": ("data/",),
    "tokenizer": ("data/",),
    "init": ("init_rules.py", "warm_start.py", "named_parts.py"),
    "lora": ("building.py",),
    "train": ("training/",),
    "optimizer": ("training/",),
    "mesh": ("training/",),
    "decode": ("decoding/",),
    "evaluation": ("evaluation/",),
}
# Names under which code holds the config of a section: `cfg.x`, `train_cfg.x`, `config.data.x`.
ALIASES = {
    "model": {"encoder", "decoder", "part"},
    "data": {"rules", "objective"},
    "evaluation": {"rules"},
    "decode": {"values", "shape"},  # what the search is given
}


def holders(section: str) -> set[str]:
    if not section:
        return {"cfg", "config"}
    names = {"cfg", "config", section, f"{section}_cfg", f"{section}_config"}
    return names | {"_cfg", "_config"} | ALIASES.get(section, set())


def all_fields() -> list[tuple[str, str, type]]:
    """(section, field, class) of every leaf of every variant."""
    found = []

    def walk(cls: type, section: str) -> None:
        for name, entry in config_schema.schema(cls).items():
            if isinstance(entry, Leaf):
                found.append((section, name, cls))
                continue
            for variant in entry.variants:
                walk(variant, section or name)

    walk(Config, "")
    return found


def reads(text: str) -> set[tuple[str, str]]:
    """(name of what holds it, name) of every attribute that is read."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            value = node.value
            found.add(
                (value.id if isinstance(value, ast.Name) else getattr(value, "attr", ""), node.attr)
            )
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "getattr":
            holder = getattr(node.args[0], "id", getattr(node.args[0], "attr", ""))
            found |= {(holder, a.value) for a in node.args[1:2] if isinstance(a, ast.Constant)}
    return found


@pytest.fixture(scope="module")
def read_by_file() -> dict[str, set[tuple[str, str]]]:
    # Not where the fields are declared and checked: only what acts on them counts.
    files = [path for path in PACKAGE.rglob("*.py") if not path.name.startswith("config")]
    return {
        path.relative_to(PACKAGE).as_posix(): reads(path.read_text(encoding="utf-8"))
        for path in files
    }


@pytest.mark.parametrize(
    ("section", "field", "cls"), all_fields(), ids=lambda value: getattr(value, "__name__", value)
)
def test_every_field_is_read(section, field, cls, read_by_file):
    places = OWNERS[section] + MEETING_PLACES
    wanted = {(holder, field) for holder in holders(section)}
    found = [file for file, names in read_by_file.items() if names & wanted]
    assert any(file.startswith(places) for file in found), (
        f"{cls.__name__}.{field}: nobody reads it"
    )


def test_the_search_sees_reads_and_only_reads():
    text = (
        "a = cfg.seen\ncfg.written = 1\nb = self.train_cfg.deep\nc = getattr(cfg, 'got', 'other')"
    )
    expected = {("cfg", "seen"), ("train_cfg", "deep"), ("self", "train_cfg"), ("cfg", "got")}
    assert reads(text) == expected


@pytest.mark.parametrize(("section", "field", "cls"), all_fields(), ids=str)
def test_every_field_is_explained_and_its_default_is_legal(section, field, cls):
    leaf = config_schema.schema(cls)[field]
    assert isinstance(leaf, Leaf)
    assert leaf.help, "say what it is"
    default = config_schema.defaults(cls)[field]
    assert leaf.convert(default) == default


def test_every_config_class_is_frozen():
    classes = {cls for _, _, cls in all_fields()}
    assert all(cls.__dataclass_params__.frozen for cls in classes)  # type: ignore[attr-defined]
    assert all(dataclasses.is_dataclass(cls) for cls in classes)


def test_sections_are_those_of_the_config():
    nodes = [n for n, entry in config_schema.schema(Config).items() if isinstance(entry, Node)]
    assert set(nodes) | {""} == set(OWNERS)
