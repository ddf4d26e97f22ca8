"""The program `seqgen`: finds the verb, hands the words to its module, and words what goes wrong.

A verb is a module of this package with `add_parser(verbs)`, which declares it and sets the default
`run`, a function of the parsed arguments that returns the exit code. A verb that also sets
`takes_config=True` finds the words `--config.a.b=value` in `args.overrides`. Heavy imports stand
inside `run`, so that help answers at once.
"""

import argparse
import difflib
import errno
import importlib
import logging
import os
import pathlib
import sys
import tempfile
import traceback
from collections.abc import Sequence
from typing import Any

from seqgen.cli.arguments import Parser, split_config_words
from seqgen.errors import ConfigError, SeqgenError
from seqgen.launch import allocator

VERBS = {
    "train": "train a model, or resume where it stopped",
    "evaluate": "score a finished run on a split",
    "generate": "answer lines of text with a finished run",
    "chat": "converse with a run trained on dialogues",
    "fill": "fill hidden tokens with a masked language model",
    "compare": "say whether one run is better than another",
    "show": "print the resolved config, or what two configs differ in",
    "bench": "measure models at equal parameters, tokens and time",
    "data": "check a directory of parallel text",
    "doctor": "say whether this machine is ready, and what to fix",
}

EXAMPLES = """\
seqgen train --config=configs/quickstart.py --workdir=runs/quickstart
seqgen evaluate --workdir=runs/quickstart --split=test
echo "forty two" | seqgen generate --workdir=runs/quickstart --num_beams=5
seqgen doctor"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (see `seqgen.errors`)."""
    words = list(sys.argv[1:] if argv is None else argv)
    verbosity = 0
    workdir: pathlib.Path | None = None
    try:
        args = _parse(words)
        if isinstance(args, int):
            return args
        verbosity = getattr(args, "verbose", 0)
        workdir = getattr(args, "workdir", None)
        if verbosity:
            logging.basicConfig(level=logging.INFO, stream=sys.stderr)
        if "malloc" in args:
            allocator.apply(args.malloc, restart=argv is None, say=_say)
        code = args.run(args)
        sys.stdout.flush()
        return code
    except SeqgenError as error:
        if verbosity >= 2 or words.count("-v") >= 2 or "-vv" in words:
            traceback.print_exc()
        _say(f"error: {error.cause}", *error.details)
        return error.exit_code
    except KeyboardInterrupt:
        _say("aborted")
        return 130
    except BrokenPipeError:
        # The reader has had enough (`seqgen generate | head`). Python would complain once more when
        # it flushes at exit, unless stdout leads nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if verbosity >= 2:
            traceback.print_exc()
        return _tell_unexpected(error, workdir)


def _parse(words: list[str]) -> argparse.Namespace | int:
    """Arguments with `run`, or an exit code where there is nothing to run."""
    parser, verbs = _top_parser()
    verb = next((word for word in words if not word.startswith("-")), None)
    if verb is None:
        args = parser.parse_args(words) if words else argparse.Namespace(version=False)
        if args.version:
            print(_version())
            return 0
        print(parser.format_help(), file=sys.stderr, end="")
        return 2
    if verb not in VERBS:
        guesses = difflib.get_close_matches(verb, VERBS, n=1, cutoff=0.5)
        details = [f"did you mean   seqgen {guesses[0]}"] if guesses else []
        details.append(f"verbs          {', '.join(VERBS)}")
        raise ConfigError(f"unknown verb {verb!r}", details=details)
    importlib.import_module(f"seqgen.cli.{verb}").add_parser(verbs)
    overrides, rest = split_config_words(words)
    parser.chosen(rest).refuse_unknown(rest)
    args, unknown = parser.parse_known_args(rest)
    if unknown:
        raise parser.chosen(rest).unknown(unknown[0])
    if overrides and not getattr(args, "takes_config", False):
        raise ConfigError(
            f"seqgen {verb} takes no config overrides",
            details=[
                f"you typed      {overrides[0]}",
                "a finished run keeps its config; overrides are for seqgen train and seqgen show",
            ],
        )
    args.overrides = overrides
    return args


def _top_parser() -> tuple[Parser, Any]:
    """The parser before the verb, and where verbs are added."""
    lines = "\n".join(f"  {name:<10} {text}" for name, text in VERBS.items())
    parser = Parser(
        prog="seqgen",
        usage="seqgen VERB [options]    (seqgen VERB --help tells more)",
        description=f"Train, resume, decode and score sequence generators.\n\nverbs:\n{lines}",
        examples=EXAMPLES,
    )
    parser.add_argument("--version", action="store_true", help="print the version")
    return parser, parser.add_subparsers(dest="verb", prog="seqgen", help=argparse.SUPPRESS)


def _version() -> str:
    import importlib.metadata

    try:
        return f"seqgen {importlib.metadata.version('seqgen')}"
    except importlib.metadata.PackageNotFoundError:
        return "seqgen (not installed)"


def _tell_unexpected(error: Exception, workdir: pathlib.Path | None) -> int:
    """Say in a few lines what broke and where the traceback lies; returns the exit code."""
    text = "".join(traceback.format_exception(error))
    cause = str(error).strip().splitlines()
    headline = f"{type(error).__name__}: {cause[0][:300]}" if cause else type(error).__name__
    where = f"traceback      {_keep(text, workdir)}"
    again = "to see it      the same command with -vv"
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in headline:
        _say(
            f"error: out of memory: {headline}",
            "fix            lower data.tokens_per_batch and raise train.accumulation_steps",
            where,
        )
        return 6
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
        _say(
            f"error: storage: {headline}", "fix            free space, or another --workdir", where
        )
        return 5
    _say(f"error: unexpected {headline}", where, again, "please report it with that file")
    return 1


def _keep(text: str, workdir: pathlib.Path | None) -> str:
    """Write a traceback into the run directory, or else into the temporary directory."""
    places = [workdir / "debug"] if workdir is not None and workdir.is_dir() else []
    for folder in [*places, pathlib.Path(tempfile.gettempdir())]:
        try:
            folder.mkdir(exist_ok=True)
            handle, name = tempfile.mkstemp(prefix="traceback-", suffix=".txt", dir=folder)
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                file.write(text)
            return name
        except OSError:
            continue
    return "(could not be written)"


def _say(headline: str, *details: str) -> None:
    """One headline and indented details on stderr."""
    print("\n  ".join([headline, *details]), file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
