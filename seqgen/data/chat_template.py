"""Histories of dialogues as text of one line, and the control tokens that they become."""

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from seqgen.data.config import DataConfig
from seqgen.errors import DataError, labelled
from seqgen.types import nearest

TURN_END, OMITTED, SYSTEM_LINE = "turn_end", "omitted", "system_line"


@dataclasses.dataclass(frozen=True)
class Turn:
    """What one speaker says before another does."""

    speaker: str
    text: str


@dataclasses.dataclass(frozen=True)
class History:
    """The turns so far, oldest first, and whose turn is next.

    Attributes:
      system_line: in place of the template's; None = the template's.
    """

    turns: tuple[Turn, ...]
    reply_speaker: str
    system_line: str | None = None


@dataclasses.dataclass(frozen=True)
class ChatTemplate:
    """How a history becomes tokens.

    Attributes:
      speakers: their names, in the order of their control tokens.
      reply_speaker: whose turns are learnt and answered; empty = everybody's.
      system_line: what stands before every history and is never left out; empty = nothing.
      max_len: most tokens of a history with all its marks, EOS included.
    """

    speakers: tuple[str, ...]
    reply_speaker: str
    system_line: str
    max_len: int

    @classmethod
    def of(cls, cfg: DataConfig) -> "ChatTemplate":
        """The template that a config describes."""
        return cls(cfg.speakers, cfg.reply_speaker, cfg.system_line, cfg.max_source_len)

    @property
    def control_names(self) -> tuple[str, ...]:
        """Of the tokens after the tokenizer's own vocabulary."""
        return (TURN_END, OMITTED, SYSTEM_LINE, *map(speaker_mark, self.speakers))

    @property
    def partner(self) -> str:
        """Whom `reply_speaker` replies to: the first of the others."""
        others = [name for name in self.speakers if name != self.reply_speaker]
        return (others or self.speakers)[0]

    def next_speaker(self, turns: Sequence[Turn]) -> str:
        """Who replies: `reply_speaker`, or where all do, who follows the last one in `speakers`."""
        if self.reply_speaker:
            return self.reply_speaker
        last = self.speakers.index(turns[-1].speaker) if turns else -1
        return self.speakers[(last + 1) % len(self.speakers)]

    def read(self, line: str) -> History:
        """A history from one line of text.

        Args:
          line: a JSON list of turns, `{"speaker": ..., "text": ...}` each. The last may have no
            text: it says who replies, else `next_speaker` does. A first object
            `{"system": TEXT}` replaces the template's system line. Anything that is not a list of
            JSON objects is one turn of `partner`.

        Raises:
          DataError: a list of objects which are not turns, a speaker without a control token, or a
            system line where the template has none.
        """
        items = _json_objects(line)
        if items is None:
            turns = (Turn(self.partner, line),)
            return History(turns, self.next_speaker(turns))
        system_line, reply_speaker = None, ""
        if items and items[0].keys() == {"system"}:
            system_line = self.known_system_line(items.pop(0)["system"])
        if items and items[-1].keys() == {"speaker"}:
            reply_speaker = self.known(items.pop()["speaker"])
        turns = tuple(self.turn(item) for item in items)
        return History(turns, reply_speaker or self.next_speaker(turns), system_line)

    def turn(self, item: Any, *, where: str = "a turn") -> Turn:
        """A turn from a JSON object with 'speaker' and 'text'; other fields are not read.

        Raises:
          DataError: it is none, or the speaker has no control token.
        """
        if not isinstance(item, dict) or not isinstance(item.get("text"), str):
            raise DataError(
                f'{where} is not an object {{"speaker": NAME, "text": TEXT}}',
                details=[labelled("it is", json.dumps(item)[:80])],
            )
        return Turn(self.known(item.get("speaker"), where=where), item["text"])

    def turns_of(self, texts: Sequence[str]) -> tuple[Turn, ...]:
        """Turns of texts that alternate, the last of them said by whom the reply answers.

        Where all turns are replies the first text is the first speaker's, and all take turns.
        """
        if not self.reply_speaker:
            names = self.speakers
            return tuple(Turn(names[i % len(names)], text) for i, text in enumerate(texts))
        pair = (self.partner, self.reply_speaker)
        return tuple(Turn(pair[(len(texts) - 1 - i) % 2], text) for i, text in enumerate(texts))

    def known_system_line(self, text: Any) -> str:
        """`text`, where the template has a system line.

        Raises:
          DataError: it has none, or `text` is no text.
        """
        if self.system_line and isinstance(text, str) and text:
            return text
        if self.system_line:
            raise DataError(f"a system line is a text that is not empty, not {json.dumps(text)}")
        raise DataError(
            "this run was trained without a system line, and knows none",
            details=[labelled("given by", "--config.data.system_line=TEXT (before training)")],
        )

    def known(self, speaker: Any, *, where: str = "a turn") -> str:
        """`speaker`, who has a control token.

        Raises:
          DataError: there is none.
        """
        if speaker in self.speakers:
            return speaker
        guess = nearest(str(speaker), self.speakers)
        raise DataError(
            f"{where} has the speaker {speaker!r}, whom the run does not know",
            details=[
                *([labelled("did you mean", guess)] if guess else []),
                labelled("speakers are", ", ".join(self.speakers)),
                labelled("named by", "--config.data.speakers=NAME,NAME (before training)"),
            ],
        )


def speaker_mark(speaker: str) -> str:
    """Name of the control token that begins a speaker's turns."""
    return f"speaker:{speaker}"


def history_line(
    turns: Sequence[Turn], reply_speaker: str = "", *, system_line: str | None = None
) -> str:
    """What `ChatTemplate.read` reads: JSON on one line, with what is given of the rest."""
    items = [{"speaker": turn.speaker, "text": turn.text} for turn in turns]
    if system_line is not None:
        items.insert(0, {"system": system_line})
    if reply_speaker:
        items.append({"speaker": reply_speaker})
    return json.dumps(items, ensure_ascii=False)


def _json_objects(line: str) -> list[dict[str, Any]] | None:
    """The objects of a JSON list of objects; None if the line is anything else."""
    if not line.lstrip().startswith("["):
        return None
    try:
        items = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return items if all(isinstance(item, dict) for item in items) else None
