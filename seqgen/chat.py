"""What a conversation is to a run: the text that its model reads, and where a reply ends."""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from seqgen.data.chat_template import ChatTemplate, Turn, history_line
from seqgen.data.dialogue_tokenizer import DialogueTokenizer
from seqgen.errors import DataError, labelled, refuse
from seqgen.streaming import TextStream
from seqgen.texts import Hypothesis
from seqgen.types import Tokenizer

Said = Mapping[str, str] | tuple[str, str] | Turn | str
Conversed = Sequence[Said]


@dataclasses.dataclass(frozen=True)
class DialogueForm:
    """A run trained on dialogues: control tokens mark who speaks, and no text can write them.

    Attributes:
      template: of the run.
    """

    template: ChatTemplate
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def speakers(self) -> tuple[str, str]:
        """Who asks and who replies, where nothing else is said."""
        partner = self.template.partner
        return partner, self.template.next_speaker([Turn(partner, "")])

    @property
    def system_line(self) -> str:
        """What stands before every history; empty = the run has none."""
        return self.template.system_line

    def turns(self, history: Conversed) -> tuple[Turn, ...]:
        """A history given as texts that alternate, or as turns.

        Raises:
          DataError: it is neither, or names a speaker whom the run does not know.
        """
        texts = _texts(history)
        if texts is not None:
            return self.template.turns_of(texts)
        return tuple(
            self.template.turn(_object(item), where=f"turn {number}")
            for number, item in enumerate(history, start=1)
        )

    def line(self, history: Conversed, *, system: str | None = None) -> str:
        """What the model answers: one line of JSON.

        Raises:
          DataError: see `turns`; or there is a system line, and the run has none.
        """
        if system is not None:
            self.template.known_system_line(system)
        turns = self.turns(history)
        return history_line(turns, self.template.next_speaker(turns), system_line=system)


@dataclasses.dataclass(frozen=True)
class LineForm:
    """A language model of plain text: a turn is a line, and the reply is the next line.

    Nothing marks who speaks. Speakers have names here so that a conversation can be kept.
    """

    speakers: tuple[str, str] = ("user", "model")
    system_line: str = ""
    options: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {"stop": ("\n",)})

    def turns(self, history: Conversed) -> tuple[Turn, ...]:
        """A history given as texts that alternate, or as turns of any speakers.

        Raises:
          DataError: it is neither.
        """
        texts = _texts(history)
        if texts is not None:
            first = len(texts) + 1
            return tuple(Turn(self.speakers[(first + i) % 2], text) for i, text in enumerate(texts))
        template = ChatTemplate(tuple({_name(item): None for item in history}), "", "", 0)
        return DialogueForm(template).turns(history)

    def line(self, history: Conversed, *, system: str | None = None) -> str:
        """What the model goes on from: the turns, a line end behind each.

        Raises:
          DataError: see `turns`; or there is a system line.
        """
        if system is not None:
            raise DataError(
                "a language model of plain text knows no system line",
                details=[labelled("instead", "begin the history with that text")],
            )
        return "".join(f"{turn.text}\n" for turn in self.turns(history))


def chat_form(
    source: Tokenizer, target: Tokenizer, *, reads_prompts: bool
) -> DialogueForm | LineForm:
    """`DialogueForm` or `LineForm`, whichever suits a run.

    Args:
      source, target: the run's tokenizers.
      reads_prompts: the model is a language model without sources.

    Raises:
      ConfigError: the run is about anything but text or dialogues; it says what to do instead.
    """
    if isinstance(source, DialogueTokenizer) and not reads_prompts:
        return DialogueForm(source.template)
    if reads_prompts and target.multiline:
        return LineForm()
    return refuse(
        "this run was not trained on dialogues, and a conversation is nothing to it",
        ("it answers", "single lines: seqgen generate, or model.generate([...])"),
        ("to converse", "train on data.source=dialogue (configs/dialogue/*.py)"),
    )


class Conversing(Protocol):
    """`chat` of whatever answers texts; `inference.Generator` has what it asks for."""

    @property
    def source_tokenizer(self) -> Tokenizer: ...

    @property
    def target_tokenizer(self) -> Tokenizer: ...

    @property
    def reads_prompts(self) -> bool: ...

    def generate(self, texts: Sequence[str], **overrides: Any) -> list[list[Hypothesis]]: ...

    def stream_text(self, text: str, **overrides: Any) -> TextStream: ...

    @functools.cached_property
    def chat_form(self) -> DialogueForm | LineForm:
        """What a conversation is to this run.

        Raises:
          ConfigError: it was trained on neither dialogues nor plain text.
        """
        return chat_form(
            self.source_tokenizer, self.target_tokenizer, reads_prompts=self.reads_prompts
        )

    def chat(self, history: Conversed, *, system: str | None = None, **options: Any) -> Hypothesis:
        """The reply to a conversation: the first answer that `generate` gives to it.

        A run trained on dialogues replies as whoever `data.reply_speaker` names. To a language
        model of plain text every turn is a line, and the reply is the line that follows; nothing
        tells it who speaks.

        Args:
          history: oldest turn first: `{"speaker": ..., "text": ...}` or (speaker, text) each, or
            texts that alternate, the last of them by whom the reply answers.
          system: in place of the system line that the run was trained with.
          **options: fields of `DecodeConfig`.

        Raises:
          ConfigError: for an unknown option, a bad value, or an option of other models; or the run
            is about anything else.
          DataError: a turn is none, its speaker is not known, or the run has no system line.
        """
        form = self.chat_form
        line = form.line(history, system=system)
        return self.generate([line], **{**form.options, **options})[0][0]

    def chat_stream(
        self, history: Conversed, *, system: str | None = None, **options: Any
    ) -> TextStream:
        """`chat` piece by piece; the reply so far is `answer` of what is returned.

        Raises:
          ConfigError, DataError: as `chat`, at the call.
        """
        form = self.chat_form
        line = form.line(history, system=system)
        return self.stream_text(line, **{**form.options, **options})


def _texts(history: Conversed) -> list[str] | None:
    """A history that is given as texts alone."""
    if isinstance(history, str):
        raise DataError("a history is a list of turns", details=["one turn       [text]"])
    texts = [item for item in history if isinstance(item, str)]
    return texts if len(texts) == len(history) else None


def _object(item: Any) -> Any:
    """A turn as `ChatTemplate.turn` reads it."""
    if isinstance(item, Turn):
        return dataclasses.asdict(item)
    if isinstance(item, list | tuple) and len(item) == 2:
        return {"speaker": item[0], "text": item[1]}
    if isinstance(item, Mapping):
        return dict(item)
    raise DataError(
        "a history mixes texts with turns, or holds something else",
        details=[
            labelled("it holds", json.dumps(item, default=repr)[:80]),
            labelled("it takes", "all texts, or all {'speaker': NAME, 'text': TEXT} or pairs"),
        ],
    )


def _name(item: Any) -> Any:
    found = _object(item)
    return found.get("speaker") if isinstance(found.get("speaker"), str) else ""
