"""The import law of the house: arrows point downward only, and outside libraries have one door."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).resolve().parent.parent / "seqgen"
FOUNDATION = {"types", "metrics", "errors"}

# room -> rooms it may import (besides itself); a name with a dot allows that one module only.
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "types": {"errors"},
    "metrics": {"errors", "types"},
    "nn": FOUNDATION,
    "losses": FOUNDATION | {"nn"},
    "models": FOUNDATION | {"nn", "losses"},
    "decoding": FOUNDATION | {"models.base"},
    "data": FOUNDATION,
    "training": FOUNDATION | {"nn", "losses", "models.base"},
    "evaluation": FOUNDATION | {"nn", "losses", "decoding", "data", "models.base"},
    "launch": {"errors"},
    "interop": FOUNDATION,
    "texts": FOUNDATION | {"decoding"},
    "streaming": FOUNDATION | {"texts"},
    "chat": FOUNDATION | {"data", "texts", "streaming"},
    "refusals": {"errors"},
    "filling": FOUNDATION | {"decoding", "refusals"},
    "shortlists": FOUNDATION | {"decoding", "data"},
    "labelling": FOUNDATION | {"nn", "decoding", "data", "refusals"},
    "companions": FOUNDATION | {"decoding", "inference"},
    "programs": FOUNDATION | {"decoding"},
    "scoring": FOUNDATION | {"decoding", "texts", "programs"},
    "search_options": FOUNDATION | {"decoding", "texts"},
    "inference": FOUNDATION
    | {"nn", "losses", "models", "decoding", "data", "texts"}
    | {"chat", "streaming", "programs", "scoring", "search_options", "refusals"},
}
DOORS = {
    "optax": "training/",
    "ml_collections": "config.py",
    "sacrebleu": "evaluation/line_statistics.py",
    "rouge_score": "evaluation/rouge.py",
    "nltk": "evaluation/rouge.py",
    "orbax": "training/",
    "sentencepiece": "data/",
    "tokenizers": "data/huggingface_tokenizer.py",
    "tensorboardX": "training/writers.py",
    "tensorflow_datasets": "data/",
    "flax": ("nn/", "models/"),
}


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def imported_names(path: pathlib.Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def room_of(path: pathlib.Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downward(path):
    room = room_of(path)
    if room not in ALLOWED:  # level 4 may import anything below
        forbidden = [n for n in imported_names(path) if n.split(".")[0] in {"configs", "scripts"}]
        assert not forbidden
        return
    for name in imported_names(path):
        parts = name.split(".")
        if parts[0] != "seqgen" or len(parts) == 1:
            continue
        allowed = ALLOWED[room] | {room}
        assert parts[1] in allowed or ".".join(parts[1:3]) in allowed, f"{room} imports {name}"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_outside_libraries_have_one_door(path):
    place = path.relative_to(PACKAGE).as_posix()
    for name in imported_names(path):
        door = DOORS.get(name.split(".")[0])
        if door is not None:
            assert place.startswith(door), f"{place} imports {name}"


def test_no_cycles_between_rooms():
    edges: dict[str, set[str]] = {}
    for path in modules():
        for name in imported_names(path):
            parts = name.split(".")
            if parts[0] == "seqgen" and len(parts) > 1 and parts[1] != room_of(path):
                edges.setdefault(room_of(path), set()).add(parts[1])
    done: set[str] = set()

    def visit(room: str, trail: tuple[str, ...]) -> None:
        assert room not in trail, " -> ".join([*trail, room])
        if room not in done:
            for below in edges.get(room, ()):
                visit(below, (*trail, room))
            done.add(room)

    for room in sorted(edges):
        visit(room, ())
