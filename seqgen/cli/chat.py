"""`seqgen chat`: a conversation in the terminal, or through pipes.

Replies are all that is written to stdout. What begins with a slash is a command.
"""

import argparse
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

from seqgen.cli.arguments import (
    add_answer_arguments,
    add_run_arguments,
    add_verb,
    parse_checkpoint,
    runs_of,
)
from seqgen.cli.generate import add_decode_arguments, decode_options
from seqgen.cli.text_files import read_lines, unescape
from seqgen.errors import ConfigError, SeqgenError, labelled

EXAMPLES = """\
seqgen chat --workdir=runs/coffee_gpt
seqgen chat --workdir=runs/coffee_gpt -p 'Hi, can I get a latte?'
seqgen chat --workdir=RUN --do_sample --temperature=0.8 --top_p=0.9 --seed=1
printf 'A latte please\\nA small one\\n' | seqgen chat --workdir=RUN > replies.txt"""

COMMANDS = {
    "reset": "forget what was said; options and system line stay",
    "undo": "take back the last exchange",
    "set": "NAME=VALUE sets an option of the search, NAME= puts it back; alone: what is set",
    "system": "TEXT replaces the system line; alone: shows it",
    "why": "each token of the last reply: its log-probability and the likeliest others",
    "save": "FILE gets the conversation as one more line of JSON",
    "help": "this list; //text says a text that begins with /",
    "quit": "ends, as Ctrl-D does; Ctrl-C stops a reply",
}
# What a model writes must not steer the terminal.
_SAFE = {code: "\ufffd" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def add_parser(verbs: Any) -> None:
    """Declare `chat`."""
    parser = add_verb(
        verbs,
        "chat",
        summary="Converse with a run trained on dialogues, or with a language model of plain text, "
        "to which a turn is a line. Reads one turn a line from stdin and writes one reply a line; "
        "in a terminal the reply appears as it is made. /help lists the commands.",
        examples=EXAMPLES,
        run=run,
    )
    add_run_arguments(parser)
    add_answer_arguments(parser)
    parser.add_argument("-p", dest="text", metavar="TEXT", help="say TEXT, print the reply, end")
    add_decode_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Load, then read, reply and write until there is no more to read."""
    checkpoint = parse_checkpoint(args.checkpoint)
    workdirs, companions = runs_of(args)
    options = decode_options(args)
    from seqgen import loading
    from seqgen.conversation import Conversation
    from seqgen.filling import Filler

    model = loading.load(
        workdirs,
        checkpoint=checkpoint,
        compute_dtype=args.compute_dtype,
        quantize=args.quantize,
        shortlist=args.shortlist,
        **companions,
    )
    if isinstance(model, Filler):
        model.chat()  # says what to do instead
    talk = Conversation(model, **options)
    if args.text is not None:
        return Terminal(talk, live=sys.stdout.isatty()).one_shot(args.text)
    live = sys.stdin.isatty()
    if live and model.reads_prompts:
        _tell("note: a language model of plain text: a turn is a line, the reply the next line")
    return Terminal(talk, live=live).converse()


class Terminal:
    """Reads turns and commands, writes replies; everything else goes to stderr."""

    def __init__(self, talk: Any, *, live: bool):
        """Args: live: somebody watches: prompts, names, and replies that grow."""
        self.talk = talk
        self.live = live

    def one_shot(self, text: str) -> int:
        """Reply to one turn; the exit code is that of an interrupted program if it was stopped."""
        return 0 if self.say(text).done else 130

    def converse(self) -> int:
        """Reply to every turn until the input ends."""
        if self.live:
            _tell(f"{self.talk.replier} listens; /help lists the commands")
        for line in self._lines():
            if line.startswith("/") and not line.startswith("//"):
                if line.split()[0] in ("/quit", "/exit"):
                    break
                self._command(line)
            elif line.strip():
                self._reply(line[1:] if line.startswith("//") else line)
            elif not self.live:
                print(flush=True)  # line i is the reply to line i
        return 0

    def _reply(self, text: str) -> None:
        if not self.live:
            self.say(text)
            return
        print(f"{self.talk.replier}> ", end="", file=sys.stderr, flush=True)
        try:
            stream = self.say(text)
            if not stream.done:
                begun = stream.answer is not None
                _tell("(stopped; /undo takes it back)" if begun else "(stopped, nothing was said)")
        except SeqgenError as error:
            _tell_error(error)

    def say(self, text: str) -> Any:
        """Take a turn: show the reply and keep both. Returns the reply's `TextStream`."""
        from seqgen.texts import one_line

        stream = self.talk.ask(text)
        with Interrupt(enabled=self.live) as interrupt:
            for piece in stream:
                if self.live:
                    print(piece.translate(_SAFE), end="", flush=True)
                if interrupt.asked:
                    break
        self.talk.keep(text, stream)
        print("" if self.live else one_line(stream.text), flush=True)
        return stream

    def _lines(self) -> Iterator[str]:
        if not self.live:
            yield from read_lines("-")
            return
        import contextlib

        with contextlib.suppress(ImportError):
            import readline  # noqa: F401  (edits and remembers what `input` reads)
        while True:
            try:
                yield _printable(self._read())
            except EOFError:
                _tell("")
                return
            except KeyboardInterrupt:
                _tell("", "Ctrl-D or /quit ends")
            except UnicodeDecodeError:
                _tell("error: that line is not valid UTF-8")

    def _read(self) -> str:
        prompt = f"{self.talk.user}> "
        if sys.stdout.isatty():
            return input(prompt)
        print(prompt, end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.removesuffix("\n")

    def _command(self, line: str) -> None:
        """Run a slash command; what is wrong with it is told, and the conversation goes on."""
        name, _, rest = line[1:].partition(" ")
        commands: dict[str, Callable[[str], None]] = {
            name: getattr(self, f"_{name}") for name in COMMANDS if name != "quit"
        }
        try:
            if name not in commands:
                from seqgen.types import nearest

                guess = nearest(name, COMMANDS)
                raise ConfigError(
                    f"unknown command /{name}",
                    details=[
                        *([labelled("did you mean", f"/{guess}")] if guess else []),
                        labelled("commands", ", ".join(f"/{known}" for known in COMMANDS)),
                    ],
                )
            commands[name](rest.strip())
        except SeqgenError as error:
            _tell_error(error)

    def _reset(self, rest: str) -> None:
        self.talk.reset()
        _tell("what was said is forgotten")

    def _undo(self, rest: str) -> None:
        taken = self.talk.undo()
        _tell(f"taken back: {taken.said.text[:60]}")

    def _set(self, rest: str) -> None:
        name, equals, value = (part.strip() for part in rest.partition("="))
        if not name:
            pairs = [f"{name}={value!r}" for name, value in self.talk.options.items()]
            _tell(*(pairs or ["all options are those of the run's config"]))
            return
        if not equals:
            raise ConfigError("/set needs NAME=VALUE", details=[labelled("as in", "/set seed=1")])
        now = self.talk.set(name, unescape(value) if value else None)
        _tell(f"{name}={now}")

    def _system(self, rest: str) -> None:
        if rest:
            self.talk.set_system(rest)
        _tell(f"system line: {self.talk.system_line or '(none)'}")

    def _why(self, rest: str) -> None:
        choices = self.talk.why()
        for choice in choices:
            others = "  ".join(
                f"{_shown(text, token)} {log_prob:.2f}"
                for text, token, log_prob in choice.alternatives
                if token != choice.id
            )
            _tell(f"{choice.log_prob:7.2f}  {_shown(choice.text, choice.id):<16}  {others}")
        total = sum(choice.log_prob for choice in choices)
        _tell(f"{total:7.2f}  in all; natural logarithms, before temperature and filters")

    def _save(self, rest: str) -> None:
        if not rest:
            raise ConfigError("/save needs a file", details=[labelled("as in", "/save talk.jsonl")])
        _tell(f"saved as line {self.talk.save(rest)} of {rest}")

    def _help(self, rest: str) -> None:
        _tell(*(f"/{name:<7} {text}" for name, text in COMMANDS.items()))


class Interrupt:
    """While it is enabled and entered, Ctrl-C is noted; a second one interrupts as ever.

    Attributes:
      asked: whether it came.
    """

    def __init__(self, *, enabled: bool) -> None:
        self.asked = False
        self._enabled = enabled

    def __enter__(self) -> "Interrupt":
        if self._enabled:
            self._usual = signal.signal(signal.SIGINT, self._note)
        return self

    def __exit__(self, *error: Any) -> None:
        if self._enabled:
            signal.signal(signal.SIGINT, self._usual)

    def _note(self, number: int, frame: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


def _shown(text: str, token: int) -> str:
    """A token as it is shown: quoted, for its spaces; control tokens by number."""
    from seqgen.types import EOS_ID

    if token == EOS_ID:
        return "(end)"
    return repr(text) if text else f"(token {token})"


def _printable(line: str) -> str:
    """A line as UTF-8 can hold it; bytes that were none become U+FFFD."""
    return line.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _tell_error(error: SeqgenError) -> None:
    _tell("\n  ".join([f"error: {error.cause}", *error.details]))


def _tell(*lines: str) -> None:
    for line in lines:
        print(line, file=sys.stderr, flush=True)
