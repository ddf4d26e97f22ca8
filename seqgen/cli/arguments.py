"""What the command lines of all verbs share. Nothing here imports jax: `--help` must be quick."""

import argparse
import difflib
import pathlib
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from seqgen.errors import ConfigError
from seqgen.launch import allocator

_CONFIG_WORD = re.compile(r"--?(no)?config\.", flags=re.IGNORECASE)


class Parser(argparse.ArgumentParser):
    """argparse with examples before usage and errors as `ConfigError`."""

    def __init__(self, *args: Any, examples: str = "", **options: Any):
        """Args: examples: shown first by --help, one command a line."""
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, allow_abbrev=False, **options)
        self.examples = examples
        # Absent unless given: a verb's parser would otherwise put out what stood before the verb.
        self.add_argument(
            "-v",
            "--verbose",
            action="count",
            default=argparse.SUPPRESS,
            help="more talk; -vv shows tracebacks",
        )

    def format_help(self) -> str:
        """Examples, then what argparse makes."""
        if not self.examples:
            return super().format_help()
        lines = [f"  {line}" for line in self.examples.strip().splitlines()]
        return "\n".join(["examples:", *lines, "", super().format_help()])

    def error(self, message: str) -> NoReturn:
        """Bad usage, told as all errors are."""
        raise ConfigError(f"{self.prog}: {message}", details=[f"see            {self.prog} --help"])

    def chosen(self, words: Sequence[str]) -> "Parser":
        """The innermost parser that `words` lead to: this one, or that of a verb in `words`."""
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                for index, word in enumerate(words):
                    if word in action.choices:
                        return action.choices[word].chosen(words[index + 1 :])
        return self

    def refuse_unknown(self, words: Sequence[str]) -> None:
        """Raise for a misspelt long option before argparse complains that the right one lacks."""
        known = {flag for action in self._actions for flag in action.option_strings}
        for word in words:
            if word == "--":
                return
            if word.startswith("--") and word.partition("=")[0] not in known | {"--version"}:
                raise self.unknown(word)

    def unknown(self, word: str) -> ConfigError:
        """The error for a word that no option takes, naming the nearest option."""
        name, equals, value = word.partition("=")
        if not name.startswith("-"):
            return ConfigError(
                f"{self.prog} takes no further argument: {word}",
                details=[f"see            {self.prog} --help"],
            )
        known = [flag for action in self._actions for flag in action.option_strings]
        dotted, dot, rest = name.partition(".")
        guesses = difflib.get_close_matches(dotted, known, n=1, cutoff=0.6)
        details = [f"you typed      {word}"]
        if guesses:
            details.append(f"did you mean   {guesses[0]}{dot}{rest}{equals}{value}")
        details.append(f"see            {self.prog} --help")
        return ConfigError(f"unknown option  {name}", details=details)


def add_verb(verbs: Any, name: str, *, summary: str, examples: str, run: Any, **facts: Any) -> Any:
    """Declare a verb; `run(args) -> exit code` and `facts` become attributes of its `args`."""
    parser = verbs.add_parser(name, help=summary, description=summary, examples=examples)
    parser.set_defaults(run=run, **facts)
    return parser


def split_config_words(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Part a command line into overrides (`--config.a.b=value`, one word each) and the rest.

    `--config.a.b value` is joined to one word; `--config.a.b` followed by another flag, or by
    nothing, stays as it is (a boolean set to true).
    """
    overrides: list[str] = []
    rest: list[str] = []
    index = 0
    while index < len(words):
        word = words[index]
        index += 1
        if word == "--":
            rest += words[index - 1 :]
            break
        if not _CONFIG_WORD.match(word):
            rest.append(word)
            continue
        negated = re.match(r"--?no", word)
        if "=" not in word and not negated and index < len(words):
            following = words[index]
            if not following.startswith("-") or re.fullmatch(r"-[0-9.].*", following):
                word = f"{word}={following}"
                index += 1
        overrides.append(word)
    return overrides, rest


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of verbs that read a finished run."""
    parser.add_argument(
        "--workdir", required=True, metavar="RUN", help="the run's directory", type=pathlib.Path
    )
    parser.add_argument(
        "--checkpoint",
        default="best",
        metavar="best|last|avg:N|STEP",
        help="which weights: best by the run's metric, last, mean of the last N, or of that step "
        "(default best)",
    )
    parser.add_argument(
        "--compute_dtype",
        default="float32",
        choices=("float32", "bfloat16"),
        help="operands of matrix products; with bfloat16, faster on most machines, a line's answer "
        "may depend on its batch (default float32)",
    )
    parser.add_argument(
        "--quantize",
        default="none",
        choices=("none", "int8"),
        help="hold the matrices in 8 bits and round what they are multiplied with (default none)",
    )
    add_malloc_argument(parser)


def add_answer_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of verbs whose runs answer text; `runs_of` reads those about other runs."""
    parser.add_argument(
        "--shortlist",
        type=int,
        default=0,
        metavar="N",
        help="answer with the N likeliest translations of each source token and the most frequent "
        "tokens only; learnt from the training pairs at the first use (default 0: all tokens)",
    )
    parser.add_argument(
        "--ensemble",
        default="",
        metavar="RUNS",
        help="answer together with these runs of the same vocabulary, as runs/b,runs/c",
    )
    parser.add_argument(
        "--ensemble_mean",
        metavar="probs|log_probs",
        help="of an ensemble: mean of probabilities or of log-probabilities (default probs)",
    )
    parser.add_argument(
        "--draft",
        type=pathlib.Path,
        metavar="RUN",
        help="a smaller run of the same vocabulary proposes tokens: the same greedy text in fewer "
        "passes of the model",
    )


def add_malloc_argument(parser: argparse.ArgumentParser) -> None:
    """The option of verbs that compute for long; `main` acts on it before they run."""
    parser.add_argument(
        "--malloc",
        choices=allocator.CHOICES,
        help="tuned: on a CPU under Linux, start once more with allocator settings that spare page "
        f"faults (docs/performance.md); without it what ${allocator.VARIABLE} says, else default",
    )


def parse_checkpoint(text: str) -> str | int:
    """'best', 'last', 'avg:N', or a step as int.

    Raises:
      ConfigError: anything else.
    """
    if text in ("best", "last") or re.fullmatch(r"avg:[1-9][0-9]*", text):
        return text
    if re.fullmatch(r"[0-9]+", text):
        return int(text)
    raise ConfigError(
        f"bad --checkpoint={text}",
        details=["it takes       best, last, avg:N (mean of the last N) or a step"],
    )


def runs_of(args: argparse.Namespace) -> tuple[list[pathlib.Path], dict[str, Any]]:
    """The runs that answer together, `--workdir` first, and what `loading.load` is told of them.

    Raises:
      ConfigError: one is no run directory, or an option of ensembles is given without one.
    """
    others = [pathlib.Path(name) for name in args.ensemble.split(",") if name]
    if args.ensemble_mean is not None and not others:
        raise ConfigError(
            "--ensemble_mean is read only for an ensemble",
            details=["add            --ensemble=RUN,RUN"],
        )
    options: dict[str, Any] = {}
    if args.ensemble_mean is not None:
        options["ensemble_mean"] = args.ensemble_mean
    if args.draft is not None:
        options["draft"] = require_run(args.draft)
    return [require_run(path) for path in (args.workdir, *others)], options


def require_run(path: pathlib.Path) -> pathlib.Path:
    """`path`, if a run is there.

    Raises:
      ConfigError: if it is no run directory.
    """
    if (path / "config.json").is_file():
        return path
    state = "is no run directory: it has no config.json" if path.is_dir() else "does not exist"
    near = sorted(p.parent.name for p in path.parent.glob("*/config.json"))
    guesses = difflib.get_close_matches(path.name, near, n=1, cutoff=0.5)
    details = [f"did you mean   --workdir={path.parent / guesses[0]}"] if guesses else []
    details.append("make one       seqgen train --config=FILE.py --workdir=DIR")
    raise ConfigError(f"{path} {state}", details=details)
