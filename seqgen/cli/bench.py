"""`seqgen bench`: measures models at matched parameters, matched tokens and matched time."""

import argparse
import dataclasses
import json
import pathlib
import shlex
import sys
from collections.abc import Collection
from typing import Any

from seqgen.cli.arguments import add_malloc_argument, add_verb
from seqgen.errors import ConfigError

EXAMPLES = """\
seqgen bench --quick                                   # all parts, few and small points
seqgen bench train --models=lstm,transformer           # one part, two models
seqgen bench --data_dir=DIR --output=runs/bench        # everything; at most three hours
seqgen bench --quick --against=old/results.json        # names regressions, exit code 10"""

PARTS = ("train", "decode", "memory", "compare")
MIN_REPEATS = 5


def add_parser(verbs: Any) -> None:
    """Declare `bench`."""
    parser = add_verb(
        verbs,
        "bench",
        summary="Measure throughput, latency, memory, compile time and quality of models at equal "
        "parameters. The same command again resumes.",
        examples=EXAMPLES,
        run=run,
    )
    parser.add_argument(
        "part",
        nargs="?",
        metavar="train|decode|memory|compare",
        help="what to measure (default: all four)",
    )
    parser.add_argument(
        "--output",
        type=pathlib.Path,
        metavar="DIR",
        help="where results.json and the report go (default runs/bench, runs/bench-quick)",
    )
    parser.add_argument("--models", metavar="A,B", help="names out of the table; others are listed")
    parser.add_argument("--quick", action="store_true", help="few and small points, three models")
    parser.add_argument("--smoke", action="store_true", help="tiny points: does everything run?")
    parser.add_argument(
        "--against", type=pathlib.Path, metavar="OLD.json", help="an older results.json to beat"
    )
    parser.add_argument(
        "--repeats", type=int, default=MIN_REPEATS, metavar="N", help="timed samples (default 5)"
    )
    parser.add_argument(
        "--dtype",
        default="float32",
        choices=("float32", "bfloat16"),
        help="operands of matrix products (default float32)",
    )
    parser.add_argument(
        "--tasks", metavar="A,B", help="of compare: names out of its table; others are listed"
    )
    parser.add_argument(
        "--data_dir", default="", metavar="DIR", help="corpora of compare: DIR/multi30k and so on"
    )
    parser.add_argument(
        "--minutes",
        type=float,
        default=25.0,
        metavar="M",
        help="compare: of training a model on Multi30k; the other tasks take a tenth or a "
        "fortieth (default 25)",
    )
    parser.add_argument(
        "--hours", type=float, default=3.0, metavar="H", help="of everything (default 3)"
    )
    parser.add_argument("--json", action="store_true", help="print the rows as JSON")
    add_malloc_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Measure what is missing, write the report, compare."""
    _check(args)
    from seqgen.benchmarking import cells, models, quality, report, results, suite, tasks

    plan = cells.SMOKE if args.smoke else cells.QUICK if args.quick else cells.FULL
    if args.models is not None:
        plan = cells.with_models(plan, _chosen(args, "models", models.MODELS))
    if args.tasks is not None:
        chosen = _chosen(args, "tasks", tasks.TASKS[plan.scale])
        plan = dataclasses.replace(plan, tasks=chosen)
    old = results.read(args.against) if args.against else None
    folder = args.output or suite.default_folder(plan.scale)
    found = results.Results(folder, command=_command(args))
    work = suite.Suite(
        found,
        repeats=args.repeats,
        dtype=args.dtype,
        seconds=3600 * args.hours,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    note, code = "", 0
    try:
        for part in [args.part] if args.part else PARTS:
            if part == "compare":
                quality.measure(
                    work, plan, folder=folder, data_dir=_whole(args.data_dir), minutes=args.minutes
                )
            else:
                work.measure(plan, part)
    except (suite.Interrupted, KeyboardInterrupt):
        note, code = "Not everything is measured yet; the same command goes on.", 75
        print(f"stopped: {note.lower()}", file=sys.stderr)
    found.save()
    changes = [] if old is None else results.compare({r["key"]: r for r in old["rows"]}, found.rows)
    path = report.write(found, changes=changes, against=str(args.against or ""), note=note)
    failed = [row for row in found.rows.values() if "error" in row]
    for row in failed:
        print(f"failed: {row['key']}: {row['error']}", file=sys.stderr)
    worse = [change for change in changes if change.is_worse]
    for change in worse:
        print(f"worse: {change.line()}", file=sys.stderr)
    if args.json:
        print(json.dumps(list(found.rows.values()), allow_nan=False))
    else:
        print(path)
    if code == 0 and args.smoke and failed:
        return 1
    return code or (results.REGRESSED if worse else 0)


def _chosen(args: argparse.Namespace, option: str, known: Collection[str]) -> tuple[str, ...]:
    """The names of an option; see `named.check_names`."""
    from seqgen.benchmarking.named import check_names

    names = tuple(part.strip() for part in getattr(args, option).split(",") if part.strip())
    check_names(names, known, what=f"bench {option.removesuffix('s')}", option=f"--{option}")
    return names


def _check(args: argparse.Namespace) -> None:
    """Refuse what can be refused before anything heavy is imported.

    Raises:
      ConfigError: with the nearest valid name where there is one.
    """
    if args.part is not None and args.part not in PARTS:
        from difflib import get_close_matches

        guesses = get_close_matches(args.part, PARTS, n=1, cutoff=0.5)
        raise ConfigError(
            f"seqgen bench has no part {args.part!r}",
            details=[
                *(f"did you mean   seqgen bench {guess}" for guess in guesses),
                f"parts          {', '.join(PARTS)}",
            ],
        )
    if args.repeats < MIN_REPEATS:
        raise ConfigError(
            f"--repeats={args.repeats} is too few for a median with a range",
            details=[f"take           {MIN_REPEATS} or more"],
        )
    for name in ("minutes", "hours"):
        value = getattr(args, name)
        if not 0 < value < float("inf"):
            raise ConfigError(f"--{name}={value} is no time", details=["take           above 0"])
    if args.data_dir and not pathlib.Path(args.data_dir).is_dir():
        raise ConfigError(
            f"--data_dir={args.data_dir} is no folder",
            details=["it holds       train.en[.gz], train.de[.gz], val.*, test*.*"],
        )


def _command(args: argparse.Namespace) -> str:
    """What was typed, as it would be typed again; folders by their last name."""
    words = ["seqgen", "bench", *([args.part] if args.part else [])]
    words += [f"--{name}" for name in ("quick", "smoke") if getattr(args, name)]
    for name, default in (
        *(("models", None), ("repeats", MIN_REPEATS), ("dtype", "float32")),
        *(("minutes", 25.0), ("hours", 3.0), ("malloc", None)),
    ):
        if getattr(args, name) != default:
            words.append(f"--{name}={getattr(args, name)}")
    for name in ("data_dir", "output", "against"):
        value = getattr(args, name)
        if value:
            words.append(f"--{name}={pathlib.Path(value).name}")
    return shlex.join(words)


def _whole(folder: str) -> str:
    return str(pathlib.Path(folder).resolve()) if folder else ""
