"""Options of a call as one model takes them: what it would not read or cannot do is refused."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from seqgen.decoding.config import TOKEN_OPTIONS, DecodeConfig, SearchValues
from seqgen.decoding.constraints import length_limits
from seqgen.decoding.prompts import Prompt
from seqgen.decoding.required_words import tokens_needed
from seqgen.errors import ConfigError, refuse
from seqgen.texts import Texts
from seqgen.types import Array, Sequences

_log = logging.getLogger("seqgen.inference")
_SOURCE_OPTIONS = ("max_length", "max_length_ratio", "max_length_offset")
_PROMPT_OPTIONS = ("max_new_tokens", "stop")


class SearchOptions:
    """What a model can be asked, and what its vocabulary makes of it.

    Numbers and tables of the last options are kept: they are made once for all batches of a call.
    """

    def __init__(self, texts: Texts, *, has_shortlist: bool, has_draft: bool):
        """Args: texts: the model's. has_shortlist, has_draft: what it answers with."""
        self._texts = texts
        self._has_shortlist, self._has_draft = has_shortlist, has_draft
        self._known: tuple[DecodeConfig, SearchValues, int] | None = None
        self._stop_tables: dict[tuple[str, ...], Array] = {}

    def check(self, config: DecodeConfig, overrides: Mapping[str, Any]) -> None:
        """Refuse what the model would not read or cannot do.

        Args:
          config: options of a call.
          overrides: those among them that the call gave.

        Raises:
          ConfigError: they are named.
        """
        self._check_readers(overrides)
        named = [name for name in TOKEN_OPTIONS if getattr(config, name)]
        if named and self._has_shortlist:
            refuse(
                f"{', '.join(named)}: tokens of the whole vocabulary, and a shortlist cuts it",
                ("leave out", "the option, or the shortlist"),
            )
        if self._has_draft:
            _check_draft(config)
        elif "num_draft_tokens" in overrides:
            refuse("num_draft_tokens: read only with a draft", ("add", "--draft=RUN"))
        if config.contrastive_k and self._has_shortlist:
            refuse(
                "contrastive_k: compares hidden states, and a shortlist leaves none",
                ("leave out", "one of them"),
            )
        vocab_size = self._texts.target_tokenizer.vocab_size
        if config.contrastive_k > vocab_size:
            refuse(
                f"contrastive_k={config.contrastive_k} of a vocabulary of {vocab_size} tokens",
                ("it takes", f"int, 0..{vocab_size}"),
            )
        self.values(config)  # what cannot be written in the vocabulary is refused here

    def _check_readers(self, overrides: Mapping[str, Any]) -> None:
        """Refuse options of other kinds of models."""
        reads_prompts = self._texts.reads_prompts
        idle = _SOURCE_OPTIONS if reads_prompts else _PROMPT_OPTIONS
        wrong = [name for name in idle if name in overrides]
        if wrong and reads_prompts:
            refuse(
                f"{', '.join(wrong)}: read only by models of pairs",
                ("this is", "a language model: max_new_tokens"),
            )
        if wrong:
            refuse(
                f"{', '.join(wrong)}: read only by language models",
                ("this is", "a model of pairs: max_length, or max_length_ratio"),
            )
        wanted, limit = overrides.get("max_new_tokens", 0), self._texts.max_target_len
        if limit is not None and wanted > limit:
            _log.warning("max_new_tokens=%d: this model has %d positions", wanted, limit)

    def values(self, config: DecodeConfig) -> SearchValues:
        """The numbers of `config`.

        Raises:
          ConfigError: see `DecodeConfig.values`.
        """
        return self._numbers(config)[0]

    def _numbers(self, config: DecodeConfig) -> tuple[SearchValues, int]:
        """`values`, and the fewest tokens of an answer that holds `required_words`, without EOS."""
        if self._known is None or self._known[0] != config:
            encode = self._texts.target_tokenizer.encode
            values, needed = config.values(encode), 0
            if values.required_words is not None:
                prefix = encode(config.forced_prefix) if config.forced_prefix else []
                needed = tokens_needed(values.required_words, prefix)
            self._known = config, values, needed
            return values, needed
        return self._known[1:]

    def stop_table(self, stop: tuple[str, ...]) -> Array:
        """`Texts.stop_table` on the device."""
        if stop not in self._stop_tables:
            self._stop_tables = {stop: jax.device_put(self._texts.stop_table(stop))}
        return self._stop_tables[stop]

    def check_room(
        self,
        config: DecodeConfig,
        source: Sequences,
        prompt: Prompt | None,
        *,
        max_len: int,
        lines: Sequence[int],
    ) -> None:
        """Refuse required words for which an answer has no room.

        Args:
          config: of the search.
          source: a batch, at least a row for each of `lines`.
          prompt: its prompts, of a language model.
          max_len: room for an answer, EOS included.
          lines: numbers of the lines.

        Raises:
          ConfigError: the first line whose answer is too short.
        """
        values, needed = self._numbers(config)
        if values.required_words is None:
            return
        if prompt is None:
            lengths = np.asarray(source.segments).sum(axis=1)
            limits = np.asarray(length_limits(values, lengths, max_len=max_len) - 1)
            room, remedy = " before the end of the sentence", "max_length, or its ratio"
        else:
            limits, room, remedy = np.asarray(prompt.limits), "", "max_new_tokens"
        for limit, line in zip(limits, lines):
            if needed > limit:
                prefix = " with forced_prefix" if config.forced_prefix else ""
                refuse(
                    f"line {line + 1}: required_words do not fit into an answer",
                    ("they need", f"{needed} tokens{prefix}"),
                    ("there is room", f"for {limit}{room}"),
                    ("raise", remedy),
                )


def _check_draft(config: DecodeConfig) -> None:
    if max(config.num_beams, config.num_return_sequences) > 1 or config.contrastive_k:
        raise ConfigError(
            "a draft proposes tokens to greedy search, or to one sample a line",
            details=["set            num_beams=1, num_return_sequences=1 and contrastive_k=0"],
        )
