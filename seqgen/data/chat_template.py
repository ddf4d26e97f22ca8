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
    """The turns so far, oldest first, and whose turn is next."""

    turns: tuple[Turn, ...]
    reply_speaker: str


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
            text: it says who replies, else `next_speaker` does. Anything that is not a list of
            JSON objects is one turn of the first speaker who is not `reply_speaker`.

        Raises:
          DataError: a list of objects which are not turns, or a speaker without a control token.
        """
        items = _json_objects(line)
        if items is None:
            others = [name for name in self.speakers if name != self.reply_speaker]
            turns = (Turn((others or self.speakers)[0], line),)
            return History(turns, self.next_speaker(turns))
        reply_speaker = ""
        if items and items[-1].keys() == {"speaker"}:
            reply_speaker = self.known(items.pop()["speaker"])
        turns = tuple(self.turn(item) for item in items)
        return History(turns, reply_speaker or self.next_speaker(turns))

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


def history_line(turns: Sequence[Turn], reply_speaker: str = "") -> str:
    """What `ChatTemplate.read` reads: JSON on one line, with who replies if that is given."""
    items = [{"speaker": turn.speaker, "text": turn.text} for turn in turns]
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
