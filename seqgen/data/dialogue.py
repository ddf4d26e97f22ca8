"""Dialogues in JSON lines as pairs: every turn that is learnt, after the turns before it.

A line is an object with `turns`, a list of `{"speaker": NAME, "text": TEXT}`; other fields are not
read. A split is held in memory as its texts, each once, and a history is put together when asked
for: it would take a hundred times the room on disk.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from seqgen.data.cache import digest_file, digest_json
from seqgen.data.chat_template import ChatTemplate, Turn, history_line
from seqgen.data.config import DataConfig
from seqgen.data.jsonl import find_files, read_items
from seqgen.data.sources import Pair, Source
from seqgen.errors import DataError


class DialogueSource:
    """The replies of dialogues, in order: source = `history_line`, target = what is replied.

    Args:
      dialogues: the turns of each.
      template: whose turns are replies.
      fingerprint: of what the dialogues and the template are made of.

    Attributes:
      report: how many dialogues and turns there are.
    """

    def __init__(
        self, dialogues: Iterable[tuple[Turn, ...]], *, template: ChatTemplate, fingerprint: str
    ):
        self.fingerprint = fingerprint
        self._template = template
        self._dialogues = list(dialogues)
        wanted = template.reply_speaker
        self._replies = [
            (number, place)
            for number, turns in enumerate(self._dialogues)
            for place, turn in enumerate(turns)
            if not wanted or turn.speaker == wanted
        ]
        self.report: dict[str, Any] = {
            "dialogues": len(self._dialogues),
            "turns": sum(map(len, self._dialogues)),
        }

    def __len__(self) -> int:
        return len(self._replies)

    def __getitem__(self, index: int) -> Pair:
        number, place = self._replies[index]
        turns = self._dialogues[number]
        reply = turns[place]
        return {"source": history_line(turns[:place], reply.speaker), "target": reply.text}

    def vocabulary_texts(self, count: int) -> Iterator[str]:
        """What a vocabulary is learnt from: the first `count` replies, each after what was said
        since its speaker's last turn.

        A turn is given once, and twice where all are replies, however many histories it stands in.
        """
        if self._template.system_line:
            yield self._template.system_line
        for number, place in self._replies[:count]:
            turns = self._dialogues[number]
            first = place
            while first and turns[first - 1].speaker != turns[place].speaker:
                first -= 1
            for turn in turns[first : place + 1]:
                yield turn.text


def open_dialogue(cfg: DataConfig) -> dict[str, Source]:
    """The splits of the directory `cfg.dir`, read into memory.

    Raises:
      DataError: if the directory is missing, a line is no dialogue, a speaker is not in
        `cfg.speakers`, or a split has no reply.
    """
    template = ChatTemplate.of(cfg)
    splits: dict[str, Source] = {}
    for split, path in find_files(Path(cfg.dir)).items():
        source = DialogueSource(
            read_dialogues(path, template),
            template=template,
            fingerprint=digest_json(["dialogue", digest_file(path), template.reply_speaker]),
        )
        if not len(source):
            raise DataError(
                f"{path.name} has no turn of data.reply_speaker={template.reply_speaker!r}"
            )
        splits[split] = source
    return splits


def read_dialogues(path: Path, template: ChatTemplate) -> Iterator[tuple[Turn, ...]]:
    """The turns of every dialogue of a file.

    Raises:
      DataError: naming file and line, for anything but a dialogue of the template's speakers.
    """
    for where, item in read_items(path):
        turns = item.get("turns")
        if not isinstance(turns, list):
            raise DataError(
                f"{where} has no list 'turns'", details=[f"its fields     {', '.join(item)}"]
            )
        yield tuple(
            template.turn(turn, where=f"{where} turn {number}")
            for number, turn in enumerate(turns, start=1)
        )
