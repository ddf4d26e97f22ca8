"""`seqgen show`: the resolved config of a file or a run, or what two of them differ in."""

import argparse
import pathlib
from typing import Any

from seqgen.cli.arguments import add_verb, require_run
from seqgen.errors import ConfigError

EXAMPLES = """\
seqgen show --config=configs/quickstart.py
seqgen show --config=configs/quickstart.py --config.model.encoder.num_layers=4 --json
seqgen show --config=configs/number_words/lstm.py --diff=configs/number_words/gru.py
seqgen show --workdir=runs/quickstart --explain"""


def add_parser(verbs: Any) -> None:
    """Declare `show`."""
    parser = add_verb(
        verbs,
        "show",
        summary="Print every field of a config as it resolves; * marks what differs from its "
        "default.",
        examples=EXAMPLES,
        run=run,
        takes_config=True,
    )
    parser.add_argument("--config", metavar="FILE.py[:arg]", help="a config file")
    parser.add_argument("--workdir", type=pathlib.Path, metavar="RUN", help="a run directory")
    parser.add_argument(
        "--diff", metavar="OTHER", help="a config file or a run: print only what differs"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--explain", action="store_true", help="say what each field means and what it takes"
    )
    parser.add_argument("--changed", action="store_true", help="only what differs from defaults")


def run(args: argparse.Namespace) -> int:
    """Resolve and print."""
    if (args.config is None) == (args.workdir is None):
        raise ConfigError(
            "seqgen show needs --config=FILE.py or --workdir=RUN, and not both",
            details=["try            seqgen show --config=configs/quickstart.py"],
        )
    import json

    from seqgen import config, config_checks

    cfg = _resolve(args.config or str(args.workdir), args.overrides, config)
    if args.diff is not None:
        other = _resolve(args.diff, [], config)
        rows = differences(cfg, other)
        if args.json:
            print(json.dumps({path: [a, b] for path, a, b in rows}, allow_nan=False))
            return 0
        for line in _diff_lines(rows, (args.config or str(args.workdir), args.diff)):
            print(line)
        return 0
    if args.json:
        print(config.to_json(cfg), end="")
        return 0
    _print_all(cfg, explain=args.explain, changed_only=args.changed)
    for note in config_checks.notes(cfg):
        print(f"note: {note}")
    return 0


def _resolve(source: str, overrides: list[str], config: Any) -> Any:
    """A `Config` from `FILE.py[:arg]`, a run directory or a config.json, with overrides."""
    if source.partition(":")[0].endswith(".py"):
        return config.load(source, overrides)
    path = pathlib.Path(source)
    stored = path if path.suffix == ".json" else require_run(path) / "config.json"
    return config.load_stored(stored, overrides)


def differences(cfg: Any, other: Any) -> list[tuple[str, Any, Any]]:
    """(path, value here, value there) of each leaf that differs; '-' where there is none."""
    from seqgen import config_schema

    here = {path: value for path, _, value in config_schema.leaves(cfg)}
    there = {path: value for path, _, value in config_schema.leaves(other)}
    paths = [*here, *(path for path in there if path not in here)]
    return [
        (path, here.get(path, "-"), there.get(path, "-"))
        for path in paths
        if here.get(path, _ABSENT) != there.get(path, _ABSENT)
    ]


_ABSENT = object()


def _diff_lines(rows: list[tuple[str, Any, Any]], names: tuple[str, str]) -> list[str]:
    from seqgen import config_schema

    if not rows:
        return ["no difference"]
    cells = [("field", *names)]
    cells += [(path, config_schema.show(a), config_schema.show(b)) for path, a, b in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(2)]
    return [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c}" for a, b, c in cells]


def _print_all(cfg: Any, *, explain: bool, changed_only: bool) -> None:
    from seqgen import config_schema

    usual = default_values(cfg)
    rows = list(config_schema.leaves(cfg))
    width = max(len(path) for path, _, _ in rows)
    group = ""
    for path, leaf, value in rows:
        changed = value != usual[path]
        if changed_only and not changed:
            continue
        if path.partition(".")[0] != group and group:
            print()
        group = path.partition(".")[0]
        mark = "*" if changed else " "
        line = f"{mark} {path:<{width}} = {config_schema.show(value)}"
        print(f"{line}   (default {config_schema.show(usual[path])})" if changed else line)
        if explain:
            print(f"      {leaf.help} [{leaf}]")


def default_values(cfg: Any) -> dict[str, Any]:
    """Path of each leaf of `cfg` -> the default in its own variant."""
    from seqgen import config_schema

    usual = {}
    whole = {"": cfg} | {path: value for path, _, value in config_schema.nodes(cfg)}
    for path, node in whole.items():
        for name, value in config_schema.defaults(type(node)).items():
            usual[f"{path}.{name}".lstrip(".")] = value
    return usual
