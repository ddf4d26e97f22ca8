"""A conversation with a run: what was said, with which options, and why it was answered so."""

import dataclasses
import json
import pathlib
from typing import Any

from seqgen.config_schema import Leaf, schema, show
from seqgen.data.chat_template import Turn
from seqgen.decoding.config import DecodeConfig
from seqgen.errors import ConfigError, StorageError, labelled
from seqgen.inference import Generator
from seqgen.streaming import TextStream
from seqgen.texts import Hypothesis, TokenChoice
from seqgen.types import nearest


@dataclasses.dataclass(frozen=True)
class Exchange:
    """What the user said and what the model replied.

    Attributes:
      line: what the model read.
      answer: the reply with its ids.
      options: of the search.
    """

    said: Turn
    reply: Turn
    line: str
    answer: Hypothesis
    options: dict[str, Any]


class Conversation:
    """One user and one model, turn by turn.

    Attributes:
      model: whoever replies.
      options: overrides of `DecodeConfig`.
      system: in place of the run's system line; None = the run's.
      exchanges: oldest first.
    """

    def __init__(self, model: Generator, **options: Any):
        """Starts with nothing said.

        Raises:
          ConfigError: a wrong option, or a run that a conversation is nothing to.
        """
        self.model = model
        self._form = model.chat_form
        self.options = {**self._form.options, **options}
        self.system: str | None = None
        self.exchanges: list[Exchange] = []
        self.user, self.replier = self._form.speakers
        model.options(**self.options)

    @property
    def turns(self) -> tuple[Turn, ...]:
        """All that was said, oldest first."""
        return tuple(turn for each in self.exchanges for turn in (each.said, each.reply))

    def ask(self, text: str) -> TextStream:
        """The reply to `text`, which is not part of the conversation before `keep`."""
        return self.model.stream_text(self._line(text), **self.options)

    def keep(self, text: str, stream: TextStream) -> None:
        """Add what was said, and what of the reply was read; nothing if it had not begun."""
        if stream.answer is None:
            return
        said, reply = Turn(self.user, text), Turn(self.replier, stream.text)
        exchange = Exchange(said, reply, self._line(text), stream.answer, dict(self.options))
        self.exchanges.append(exchange)

    def reset(self) -> None:
        """Forget what was said; options and system line stay."""
        self.exchanges.clear()

    def undo(self) -> Exchange:
        """Take back the last exchange.

        Raises:
          ConfigError: there is none.
        """
        self._last()
        return self.exchanges.pop()

    def set(self, name: str, text: str | None) -> str:
        """Set an option by its name and its value as text; None = as in the run's config.

        Returns:
          Its value, as it is typed.

        Raises:
          ConfigError: an unknown option (the nearest is named), a bad value, an option that would
            be ignored or that the run does not read. Nothing is changed then.
        """
        leaf = _leaf(name)
        options = {key: value for key, value in self.options.items() if key != name}
        if text is not None:
            options[name] = _value(name, leaf, text)
        elif name in self._form.options:
            options[name] = self._form.options[name]
        config = self.model.options(**options)
        self.options = options
        return show(getattr(config, name))

    def set_system(self, text: str) -> None:
        """Replace the run's system line.

        Raises:
          DataError: it has none, or the line leaves no room for turns.
        """
        line = self._form.line([Turn(self.user, "")], system=text)
        self.model.source_tokenizer.encode(line)
        self.system = text

    @property
    def system_line(self) -> str:
        """What stands before every history; empty = nothing."""
        return self._form.system_line if self.system is None else self.system

    def why(self, *, top_k: int = 3) -> list[TokenChoice]:
        """Each token of the last reply with the likeliest others.

        Raises:
          ConfigError: there is no reply.
        """
        last = self._last()
        return self.model.token_choices(
            last.line,
            last.answer.ids,
            top_k=top_k,
            include_eos=last.answer.finish_reason == "eos",
            **last.options,
        )

    def save(self, path: str | pathlib.Path) -> int:
        """Add the conversation to a file as one line, which `data.source=dialogue` reads.

        Returns:
          How many lines the file has now.

        Raises:
          ConfigError: nothing was said.
          StorageError: the file cannot be written.
        """
        self._last()
        row: dict[str, Any] = {"turns": [dataclasses.asdict(turn) for turn in self.turns]}
        if self.system_line:
            row["system"] = self.system_line
        try:
            with open(path, "a+", encoding="utf-8") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                file.seek(0)
                return sum(1 for _ in file)
        except OSError as error:
            raise StorageError(f"cannot write {path}", details=[str(error)]) from error

    def _line(self, text: str) -> str:
        return self._form.line([*self.turns, Turn(self.user, text)], system=self.system)

    def _last(self) -> Exchange:
        if not self.exchanges:
            raise ConfigError("nothing was said yet")
        return self.exchanges[-1]


def _leaf(name: str) -> Leaf:
    """What an option takes.

    Raises:
      ConfigError: no such option.
    """
    known = schema(DecodeConfig)
    leaf = known.get(name)
    if isinstance(leaf, Leaf):
        return leaf
    guess = nearest(name, known)
    detail = labelled("did you mean", guess) if guess else labelled("there are", ", ".join(known))
    raise ConfigError(f"unknown option {name!r}", details=[detail])


def _value(name: str, leaf: Leaf, text: str) -> Any:
    """The value of an option that was typed.

    Raises:
      ConfigError: no such value.
    """
    kind = leaf.element or leaf.type
    try:
        if leaf.element is not None:
            parts = text.split(",") if kind is int else [text]
            return leaf.convert(tuple(kind(part) for part in parts))
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        return leaf.convert(kind(text))
    except (ValueError, KeyError):
        raise ConfigError(
            f"bad value for  {name}: {text!r}", details=[labelled("it takes", str(leaf))]
        ) from None
