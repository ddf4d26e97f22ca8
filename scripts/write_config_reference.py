"""Write docs/config.md, the reference of every config field, from the dataclasses themselves.

    python scripts/write_config_reference.py [--check]

With --check nothing is written; the exit code is 1 if the file is out of date.
"""

import argparse
import pathlib
import sys

from seqgen import config_schema
from seqgen.config import Config
from seqgen.config_schema import Leaf, Node

TARGET = pathlib.Path(__file__).resolve().parent.parent / "docs" / "config.md"

HEAD = """\
# Config reference

Written by `scripts/write_config_reference.py`; do not edit by hand.

A config file is Python with `get_config()`, or `get_config(arg)` for `FILE.py:arg`, which returns
an `ml_collections.ConfigDict` that names only what differs from the defaults below, and `tiny()`,
the same experiment shrunk for tests.

    seqgen train --config=FILE.py[:arg] --workdir=DIR [--config.SECTION.FIELD=VALUE ...]
    seqgen show  --config=FILE.py [--diff=OTHER] [--explain] [--json]

- Every field can be overridden, whether the file mentions it or not. `--config.a.b` and
  `--noconfig.a.b` set booleans, `none` empties an optional field, `bleu,ter` fills a tuple and `()`
  empties it.
- `model.encoder` and `model.decoder` come in variants, chosen by `kind`. Overriding `kind` changes
  the variant: fields that both have keep the file's values; a field that only the old one has and
  the file sets is refused by name, and the message holds a command that replaces the whole node:
  `--config.model.encoder="{'kind': 'lstm', 'num_layers': 2}"`.
- "or module:name" marks a component: a built-in name, or a class or function of your own in a
  module that Python can import (`PYTHONPATH=. seqgen train ...` finds those in this directory).
- Unknown keys, wrong types, values out of range and settings that contradict each other end with
  exit code 2 before anything is started.
- A run directory keeps the resolved config as strict JSON in `config.json`.
"""


def main() -> int:
    """Write the file, or compare it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, compare")
    args = parser.parse_args()
    text = reference()
    if not args.check:
        TARGET.write_text(text, encoding="utf-8")
        return 0
    if TARGET.is_file() and TARGET.read_text(encoding="utf-8") == text:
        return 0
    print(f"{TARGET} is out of date: python scripts/write_config_reference.py", file=sys.stderr)
    return 1


def reference() -> str:
    """The whole page."""
    parts = [HEAD, "## Top level\n", table(Config)]
    for name, entry in config_schema.schema(Config).items():
        if isinstance(entry, Node):
            parts += section(name, entry)
    return "\n".join(parts)


def section(path: str, node: Node) -> list[str]:
    """Headings and tables of a node, its variants and what they hold."""
    parts = []
    for variant in node.variants:
        summary = (variant.__doc__ or "").strip().splitlines()[0]
        title = f"## {path}"
        if len(node.variants) > 1:
            kind = config_schema.schema(variant)["kind"]
            assert isinstance(kind, Leaf) and kind.choices is not None
            title += f", kind = {' | '.join(kind.choices)}"
        parts += [title + "\n", summary + "\n", table(variant)]
        for name, entry in config_schema.schema(variant).items():
            if isinstance(entry, Node):
                parts += section(f"{path}.{name}", entry)
    return parts


def table(cls: type) -> str:
    """The leaves of one class, a row each."""
    usual = config_schema.defaults(cls)
    rows = ["| field | default | takes | meaning |", "|---|---|---|---|"]
    for name, entry in config_schema.schema(cls).items():
        if isinstance(entry, Leaf):
            cells = (f"`{name}`", f"`{config_schema.show(usual[name])}`", str(entry), entry.help)
            rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    sys.exit(main())
