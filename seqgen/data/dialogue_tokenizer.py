"""Histories of dialogues as ids: marks around turns, and whole turns left out from the left."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from seqgen.data import order
from seqgen.data.base_tokenizer import WrappedTokenizer
from seqgen.data.chat_template import (
    OMITTED,
    SYSTEM_LINE,
    TURN_END,
    ChatTemplate,
    History,
    speaker_mark,
)
from seqgen.data.control_tokens import ControlTokenizer
from seqgen.errors import DataError, labelled

LEAST_ROOM = 8  # tokens beside the system line


class DialogueTokenizer(WrappedTokenizer):
    """The source side of dialogues: text is what `ChatTemplate.read` reads.

    A history is `[system line] [omitted] turn ... turn reply`, where the system line is its mark,
    its text and the mark of a turn's end, a turn is the mark of its speaker, its text and the mark
    of its end, and `reply` is the mark of who replies. With EOS it takes at most
    `template.max_len` tokens: of a longer history the newest turns that fit stay, whole, after the
    mark `omitted`; if not even the last turn fits, it loses tokens of its beginning.

    Args:
      inner: of the replies; it has the template's control tokens. Both sides share its vocabulary.
      template: how turns are marked, and how long a history may be.

    Raises:
      DataError: the system line leaves no room for a turn.
    """

    def __init__(self, inner: ControlTokenizer, template: ChatTemplate):
        super().__init__(inner, "dialogue", dataclasses.asdict(template))
        self.template = template
        ids = inner.control_ids
        self._end, self._omitted = ids[TURN_END], ids[OMITTED]
        self._speaker = {name: ids[speaker_mark(name)] for name in template.speakers}
        self._mark_of_line = ids[SYSTEM_LINE]
        self._head, self._room = self._begin(template.system_line)

    def _begin(self, system_line: str) -> tuple[list[int], int]:
        """Ids of the system line, and the room for turns beside them, the reply's mark and EOS.

        Raises:
          DataError: it leaves no room for a turn.
        """
        head: list[int] = []
        if system_line:
            head = [self._mark_of_line, *self.inner.encode(system_line), self._end]
        room = self.template.max_len - len(head) - 2
        if room + 2 < LEAST_ROOM:
            raise DataError(
                f"data.max_source_len={self.template.max_len} leaves no room for a turn",
                details=[
                    labelled("system line", f"{len(head)} tokens"),
                    labelled("set", f"--config.data.max_source_len={len(head) + LEAST_ROOM}"),
                ],
            )
        return head, room

    @property
    def vocabulary_fingerprint(self) -> str:
        """That of the replies."""
        return self.inner.vocabulary_fingerprint

    @property
    def record(self) -> dict[str, Any]:
        """The control tokens and the template."""
        return {**self.inner.record, "dialogue": dataclasses.asdict(self.template)}

    def encode(self, text: str) -> list[int]:
        """Ids of a history, without BOS_ID and EOS_ID.

        Raises:
          DataError: it names a speaker whom the template does not know.
        """
        return self._ids(self.template.read(text), self.inner.encode)

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text; a turn that several histories share is cut once."""
        histories = [self.template.read(text) for text in texts]
        turns = list({turn.text: None for history in histories for turn in history.turns})
        known = dict(zip(turns, self.inner.encode_many(turns), strict=True))
        return [self._ids(history, known.__getitem__) for history in histories]

    def sample(self, text: str, *, seed: int) -> list[int]:
        """One of several segmentations of every turn, a pure function of text and seed."""
        history = self.template.read(text)
        seeds = (order.fold(seed, turn) for turn in reversed(range(len(history.turns))))
        return self._ids(history, lambda turn: self.inner.sample(turn, seed=next(seeds)))

    def count_truncated(self, ids: np.ndarray) -> int:
        """How many of the histories in flat `ids` have lost something of their beginning."""
        return int((ids == self._omitted).sum())

    def _ids(self, history: History, cut: Callable[[str], Sequence[int]]) -> list[int]:
        reply = self._speaker[history.reply_speaker]
        head, room = self._head, self._room
        if history.system_line is not None:
            head, room = self._begin(history.system_line)
        kept: list[list[int]] = []  # newest first
        used = 0
        for turn in reversed(history.turns):
            ids = [self._speaker[turn.speaker], *cut(turn.text), self._end]
            kept.append(ids)
            used += len(ids)
            if used > room:
                break
        if used > room:
            head = [*head, self._omitted]
            while used > room - 1 and len(kept) > 1:
                used -= len(kept.pop())
            if used > room - 1:
                speaker, *text = kept[0]
                kept[0] = [speaker, *text[len(text) - (room - 2) :]]
        return [*head, *(i for ids in reversed(kept) for i in ids), reply]
