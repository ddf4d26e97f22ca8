"""`seqgen train`: trains a model; the same command again resumes."""

import argparse
import gc
import pathlib
import sys
from typing import Any

from seqgen.cli.arguments import add_malloc_argument, add_verb
from seqgen.errors import ConfigError

EXAMPLES = """\
seqgen train --config=configs/quickstart.py --workdir=runs/quickstart
seqgen train --config=configs/quickstart.py --workdir=runs/longer --config.train.num_steps=4000
seqgen train --workdir=runs/quickstart           # resume a run by its own config"""


def add_parser(verbs: Any) -> None:
    """Declare `train`."""
    parser = add_verb(
        verbs,
        "train",
        summary="Train a model. The same command again resumes where it stopped.",
        examples=EXAMPLES,
        run=run,
        takes_config=True,
    )
    parser.add_argument(
        "--config",
        metavar="FILE.py[:arg]",
        help="the experiment; --config.a.b=value overrides one field (seqgen show lists them)",
    )
    parser.add_argument(
        "--workdir", required=True, type=pathlib.Path, metavar="DIR", help="the run's directory"
    )
    parser.add_argument(
        "--fresh", action="store_true", help="throw away what the run directory holds and restart"
    )
    add_malloc_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Read the config and train."""
    stored = args.workdir / "config.json"
    if args.config is None and not stored.is_file():
        raise ConfigError(
            "seqgen train needs --config=FILE.py",
            details=[
                f"{args.workdir} holds no earlier run whose config could be used",
                "try            seqgen train --config=configs/quickstart.py "
                f"--workdir={args.workdir}",
            ],
        )
    # Imports and tracing make hundreds of thousands of objects that stay: looking for garbage after
    # every 700 of them takes a tenth of the time to the first step.
    gc.set_threshold(50_000, 20, 100)
    from seqgen import config, config_checks, experiment

    if args.config is not None:
        cfg = config.load(args.config, args.overrides)
    else:
        cfg = config.load_stored(stored, args.overrides)
    for note in config_checks.notes(cfg):
        print(f"note: {note}", file=sys.stderr)
    given = [f"--config={args.config}"]
    if args.config is None:  # a run resumed by its own config keeps the record of how it began
        record = args.workdir / "overrides.txt"
        given = record.read_text(encoding="utf-8").splitlines() if record.is_file() else []
    outcome = experiment.train(
        cfg, args.workdir, overrides=[*given, *args.overrides], fresh=args.fresh
    )
    return outcome.exit_code
