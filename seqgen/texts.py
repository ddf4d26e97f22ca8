"""Texts as the ids that a model reads, and the ids that it wrote as texts."""

import dataclasses
import logging
from collections.abc import Sequence

import numpy as np

from seqgen.decoding.config import DecodeConfig
from seqgen.decoding.hypotheses import Hypotheses
from seqgen.decoding.prompts import prompt_limit
from seqgen.decoding.stops import find_stop, stop_table
from seqgen.types import BOS_ID, EOS_ID, Tokenizer

_log = logging.getLogger("seqgen.inference")


@dataclasses.dataclass(frozen=True)
class Hypothesis:
    """One answer.

    Attributes:
      text: plain text; of a language model what comes after the prompt, with the space before it.
      score: log-probability, that of penalised logits under penalties, divided by the length
        penalty; -inf if there is no such answer.
      ids: target ids, without EOS or the stop token that ended them. Those of a stop string are
        there, `text` ends before it.
      log_prob: natural logarithm of the model's probability of `ids` and the token that ended them,
        if one did, given the source or the prompt.
      finish_reason: 'eos', 'stop' (a stop token or a stop string) or 'length' (a language model's
        limit; other answers end there with EOS).
    """

    text: str
    score: float
    ids: tuple[int, ...]
    log_prob: float
    finish_reason: str = "eos"


@dataclasses.dataclass(frozen=True)
class TokenChoice:
    """A token of an answer, and what could have stood in its place.

    Attributes:
      text: what it adds to the answer; '' for control tokens.
      id: its id.
      log_prob: natural logarithm of the model's probability, given all before it; rules,
        temperature and filters do not change it.
      alternatives: (text, id, log_prob) of the likeliest tokens, likeliest first, itself among
        them if it is one.
    """

    text: str
    id: int
    log_prob: float
    alternatives: tuple[tuple[str, int, float], ...]


@dataclasses.dataclass(frozen=True)
class Texts:
    """How texts of a model become ids and back.

    Attributes:
      source_tokenizer: reads sources.
      target_tokenizer: reads prompts and targets, writes answers.
      max_source_len: most source tokens (EOS counted) the model can take; None = any number.
      max_target_len: the same for target tokens, and for those of a prompt and its answer.
      reads_prompts: texts are prompts.
    """

    source_tokenizer: Tokenizer
    target_tokenizer: Tokenizer
    max_source_len: int | None
    max_target_len: int | None
    reads_prompts: bool

    def encode(self, text: str, line: int, config: DecodeConfig) -> list[int]:
        """Ids of a source, which end with EOS, or of a prompt, which begin with BOS."""
        if self.reads_prompts:
            return self._encode_prompt(text, line, config)
        ids = self.source_tokenizer.encode(text)
        limit = config.max_source_length
        if self.max_source_len is not None:
            limit = min(limit, self.max_source_len)
        return _cut([*ids, EOS_ID], limit, line=line, side="source")

    def _encode_prompt(self, text: str, line: int, config: DecodeConfig) -> list[int]:
        ids = self.target_tokenizer.encode(text)
        limit = prompt_limit(config, self.max_target_len)
        if len(ids) + 1 > limit:
            _log.warning(
                "line %d: prompt of %d tokens cut to its last %d, so that an answer has room",
                line + 1,
                len(ids),
                limit - 1,
            )
            ids = ids[len(ids) + 1 - limit :]
        return [BOS_ID, *ids]

    def encode_target(
        self, target: str | Sequence[int], line: int, *, behind: list[int], include_eos: bool
    ) -> list[int]:
        """Ids of a target text, or given ids, of what `encode` made of its source or prompt."""
        ids = self.target_tokenizer.encode(target) if isinstance(target, str) else list(target)
        limit = self.max_target_len
        if limit is not None and self.reads_prompts:
            limit -= len(behind) - 1
        return _cut([*ids, EOS_ID] if include_eos else ids, limit, line=line, side="target")

    def piece(self, token: int) -> str:
        """What a target token adds to a text; bytes that are no character become U+FFFD."""
        return self.target_tokenizer.piece_bytes(token).decode("utf-8", "replace")

    def stop_table(self, stop: tuple[str, ...]) -> np.ndarray:
        """`stops.stop_table` over the target vocabulary."""
        tokenizer = self.target_tokenizer
        pieces = [tokenizer.piece_bytes(i) for i in range(tokenizer.vocab_size)]
        return stop_table(stop, pieces, drops_line_space=self._drops_line_space)

    def read(
        self, found: Hypotheses, row: int, given: list[int], config: DecodeConfig, *, line: int
    ) -> list[Hypothesis]:
        """The answers to one text.

        Args:
          found: of a batch, on the host.
          row: the text's.
          given: what `encode` made of it.
          config: options of the search.
          line: its number.
        """
        if found.lengths[row, 0] == 0:
            _log.warning("line %d: the model gives no numbers, the answer is left empty", line + 1)
        answers = []
        for n in range(found.ids.shape[1]):
            ids = tuple(int(i) for i in found.ids[row, n, : found.lengths[row, n]])
            text, reason = self._answer(ids, given, config)
            answers.append(
                Hypothesis(
                    text=text,
                    score=float(found.scores[row, n]),
                    ids=ids[:-1] if ids and _ends(ids[-1], config) else ids,
                    log_prob=float(found.log_probs[row, n]),
                    finish_reason=reason,
                )
            )
        return answers

    def _answer(
        self, ids: tuple[int, ...], given: list[int], config: DecodeConfig
    ) -> tuple[str, str]:
        """Text and `finish_reason` of all tokens of an answer."""
        last = ids[-1] if ids else EOS_ID
        kept = ids[:-1] if ids and _ends(last, config) else ids
        reason = "eos" if last == EOS_ID else "stop" if len(kept) < len(ids) else "length"
        if not self.reads_prompts:
            return self.target_tokenizer.decode(kept), reason
        place = find_stop(self._spell(ids), config.stop)
        if place is not None:
            kept, reason = ids, "stop"
        spelt = self._spell(kept)
        text = spelt[:place].decode("utf-8", "replace")
        # Words carry the space before them, and some tokenizers take it off a text's first word.
        decoded = self.target_tokenizer.decode(kept)
        if self._begins(given) and decoded != spelt.decode("utf-8", "replace"):
            text = text.removeprefix(" ")
        return text, reason

    def _spell(self, ids: Sequence[int]) -> bytes:
        """What `ids` add to a text that they stand inside of, in UTF-8."""
        spelt = b"".join(self.target_tokenizer.piece_bytes(i) for i in ids)
        return spelt.replace(b"\n ", b"\n") if self._drops_line_space else spelt

    def _begins(self, given: list[int]) -> bool:
        """Whether an answer begins a text, or a line that is cut into tokens as one."""
        if self._drops_line_space and self.target_tokenizer.piece_bytes(given[-1]) == b"\n":
            return True
        return given[-1] == BOS_ID

    @property
    def _drops_line_space(self) -> bool:
        return self.target_tokenizer.drops_line_space


def one_line(text: str) -> str:
    """Text that stays on its line: LF and CR become blanks."""
    return text.replace("\r\n", " ").replace("\n", " ").replace("\r", " ")


def _ends(token: int, config: DecodeConfig) -> bool:
    return token == EOS_ID or token in config.stop_token_ids


def _cut(ids: list[int], limit: int | None, *, line: int, side: str) -> list[int]:
    """Ids cut to `limit` tokens with a warning; an EOS at their end stays there."""
    if limit is None or len(ids) <= limit:
        return ids
    _log.warning(
        "line %d: %s of %d tokens cut to %d, the longest this model takes",
        line + 1,
        side,
        len(ids),
        limit,
    )
    return [*ids[: limit - 1], EOS_ID] if ids[-1] == EOS_ID else ids[:limit]
