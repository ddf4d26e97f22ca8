"""The list of everything in a checkpoint, with digests; its presence is the commit.

A manifest is strict JSON in one canonical form and carries the digest of itself, so that one
flipped bit anywhere, in an array file or in the manifest, is found before anything is restored.
"""

import hashlib
import json
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from seqgen.errors import ConfigError

SCHEMA = 1
NAME = "MANIFEST.json"
BLOCK = 1 << 20


class DamageError(Exception):
    """A checkpoint is not what its manifest says; the message is one short reason."""


def file_digest(path: pathlib.Path) -> str:
    """SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def list_files(folder: pathlib.Path) -> list[str]:
    """Relative paths of all files below `folder` but the manifest, sorted."""
    found = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    return sorted(name for name in found if name not in (NAME, f"{NAME}.tmp"))


def describe_files(folder: pathlib.Path) -> dict[str, dict[str, Any]]:
    """{relative path: {'size': bytes, 'sha256': hex}} of all files."""
    return {
        name: {"size": (folder / name).stat().st_size, "sha256": file_digest(folder / name)}
        for name in list_files(folder)
    }


def encode(body: Mapping[str, Any]) -> bytes:
    """The file content: canonical JSON of `body` and of its own digest."""
    digest = hashlib.sha256(_canonical(body)).hexdigest()
    return _canonical({**body, "digest": digest})


def decode(content: bytes) -> dict[str, Any]:
    """The body of a manifest.

    Raises:
      DamageError: if the content is not exactly what `encode` makes.
    """
    try:
        body = json.loads(content)
        digest = body.pop("digest")
        intact = encode(body) == content and hashlib.sha256(_canonical(body)).hexdigest() == digest
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise DamageError("manifest-damaged") from error
    if not intact:
        raise DamageError("manifest-damaged")
    if body.get("schema") != SCHEMA:
        raise DamageError(f"schema-{body.get('schema')}")
    return body


def read(folder: pathlib.Path) -> dict[str, Any]:
    """The body of a folder's manifest.

    Raises:
      DamageError: if it is missing or damaged.
    """
    try:
        content = (folder / NAME).read_bytes()
    except FileNotFoundError as error:
        raise DamageError("manifest-missing") from error
    return decode(content)


def verify(folder: pathlib.Path, *, below: Iterable[str] | None = None) -> dict[str, Any]:
    """Check files against the manifest and give its body.

    Args:
      folder: of the checkpoint.
      below: check only files whose path starts with one of these (all if None).

    Raises:
      DamageError: a file is missing, too much, of another size, or has other bytes.
    """
    body = read(folder)
    present = set(list_files(folder))
    listed = body["files"]
    if missing := sorted(set(listed) - present):
        raise DamageError(f"file-missing {missing[0]}")
    if extra := sorted(present - set(listed)):
        raise DamageError(f"file-unknown {extra[0]}")
    prefixes = None if below is None else tuple(below)
    for name, facts in listed.items():
        if prefixes is not None and not name.startswith(prefixes):
            continue
        path = folder / name
        if path.stat().st_size != facts["size"]:
            raise DamageError(f"size-differs {name}")
        if file_digest(path) != facts["sha256"]:
            raise DamageError(f"digest-differs {name}")
    return body


def sync_tree(folder: pathlib.Path) -> None:
    """Make durable every file and folder below and including `folder`."""
    for path in sorted(folder.rglob("*"), reverse=True):
        sync(path)
    sync(folder)


def sync(path: pathlib.Path) -> None:
    """Make durable one file or folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def config_hash(values: Mapping[str, Any]) -> str:
    """Short digest of a config as JSON values."""
    return hashlib.sha256(_canonical(values)).hexdigest()[:16]


def check_identity(
    saved: Mapping[str, Any],
    current: Mapping[str, Any],
    defaults: Mapping[str, Any],
) -> None:
    """Refuse to go on with another model, tokenizer or corpus than the checkpoint was trained on.

    Args:
      saved, current: nested JSON values, for example {'model': {...}, 'tokenizer': {...}}; only top
        names that stand in both are compared.
      defaults: dotted name -> value of an option that the checkpoint does not know because it came
        later: the default of a new option is what was done before it.

    Raises:
      ConfigError: naming every difference (at most eight).
    """
    differences = []
    for part in sorted(set(saved) & set(current)):
        before, now = _leaves(saved[part], part), _leaves(current[part], part)
        known = {name: _leaves(defaults[name], name)[name] for name in now if name in defaults}
        before = {**known, **before}
        for name in sorted(set(before) | set(now)):
            if before.get(name, "nothing") != now.get(name, "nothing"):
                differences.append(
                    f"{name}: the run has {before.get(name, 'nothing')!r}, "
                    f"now {now.get(name, 'nothing')!r}"
                )
    if differences:
        raise ConfigError(
            "this run directory was trained with other settings or data",
            details=[
                *differences[:8],
                "undo the change, or choose another --workdir (or start over with --fresh)",
            ],
        )


def _leaves(value: Any, prefix: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {prefix: list(value) if isinstance(value, tuple) else value}
    flat: dict[str, Any] = {}
    for name, inner in value.items():
        flat.update(_leaves(inner, f"{prefix}.{name}"))
    return flat


def _canonical(value: Mapping[str, Any]) -> bytes:
    text = json.dumps(value, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=True)
    return (text + "\n").encode()
