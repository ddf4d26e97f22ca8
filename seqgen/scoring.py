"""What a model thinks of given texts: log-probabilities of their tokens, and of others instead."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from seqgen.decoding.batching import pad_rows, plan_batches
from seqgen.decoding.config import DecodeConfig
from seqgen.decoding.prompts import split_prompts
from seqgen.programs import Programs
from seqgen.texts import Texts, TokenChoice
from seqgen.types import NUM_CONTROL_IDS, Array, Params, Sequences


class Scoring(Protocol):
    """`score` of a model that answers texts; `inference.Generator` has what it asks for."""

    params: Params
    decode_config: DecodeConfig
    _texts: Texts
    _programs: Programs

    def options(self, **overrides: Any) -> DecodeConfig: ...

    def score(
        self,
        sources: Sequence[str],
        targets: Sequence[str | Sequence[int]] | None = None,
        *,
        include_eos: bool = True,
    ) -> list[float]:
        """Natural log-probability of each target given its source or its prompt.

        Equal to `Hypothesis.log_prob` for the ids of an answer that ended with EOS. Of others, with
        `include_eos=False`: for the ids and the stop token, where there was one.

        Args:
          sources: text; where there are no targets, what is scored itself: a language model's
            probability of each text behind BOS.
          targets: text, or ids.
          include_eos: the text ends there; without it, it may go on.

        Raises:
          ValueError: the lists differ in length, or no targets are given to a model of pairs.
        """
        rows = self.token_scores(sources, targets, include_eos=include_eos)
        return [float(log_probs.sum()) for log_probs in rows]

    def token_scores(
        self,
        sources: Sequence[str],
        targets: Sequence[str | Sequence[int]] | None = None,
        *,
        include_eos: bool = True,
    ) -> list[np.ndarray]:
        """Log-probability of each token that `score` adds up, EOS last: one float32 array a pair.

        Raises:
          ValueError: as `score` does.
        """
        if targets is None:
            if not self._texts.reads_prompts:
                raise ValueError("a model of pairs scores targets given their sources: give both")
            sources, targets = [""] * len(sources), sources
        if len(sources) != len(targets):
            raise ValueError(f"{len(sources)} sources and {len(targets)} targets")
        config = self.decode_config
        given = [self._texts.encode(text, line, config) for line, text in enumerate(sources)]
        labels = [
            self._texts.encode_target(target, line, behind=given[line], include_eos=include_eos)
            for line, target in enumerate(targets)
        ]
        results: list[np.ndarray] = [np.zeros(0, np.float32)] * len(labels)
        longest = [max(len(one), len(other)) for one, other in zip(given, labels)]
        limit = self._texts.max_target_len
        for members in plan_batches(longest, config):
            source, first_ids = self._read_given([given[i] for i in members], config)
            target = pad_rows([labels[i] for i in members], config, limit=limit)
            lengths = np.asarray(target.segments).sum(axis=1).astype(np.int32)
            log_probs = np.asarray(
                self._programs.target_log_probs(self.params, source, target.ids, lengths, first_ids)
            )
            for row, i in enumerate(members):
                results[i] = log_probs[row, : lengths[row]]
        return results

    def token_choices(
        self,
        source: str,
        target: str | Sequence[int],
        *,
        top_k: int = 3,
        include_eos: bool = True,
        **overrides: Any,
    ) -> list[TokenChoice]:
        """For each token that `token_scores` scores, the likeliest that could stand in its place.

        Args:
          source: one sentence or one prompt.
          target: text, or ids such as those of an answer.
          top_k: how many.
          include_eos: the text ends there.
          **overrides: fields of `DecodeConfig` that the answer was made with: some say how much of
            the source is read.
        """
        config = self.options(**overrides)
        given = self._texts.encode(source, 0, config)
        labels = self._texts.encode_target(target, 0, behind=given, include_eos=include_eos)
        if not labels:
            return []
        read, first_ids = self._read_given([given], config)
        padded = pad_rows([labels], config, limit=self._texts.max_target_len)
        lengths = np.asarray([len(labels)], np.int32)
        top_k = min(top_k, self._texts.target_tokenizer.vocab_size - NUM_CONTROL_IDS)
        found = self._programs.target_choices(
            self.params, read, padded.ids, lengths, first_ids, top_k=top_k
        )
        log_probs, best_log_probs, best = (np.asarray(part)[0] for part in found)
        piece = self._texts.piece
        return [
            TokenChoice(
                text=piece(label),
                id=label,
                log_prob=float(log_probs[place]),
                alternatives=tuple(
                    (piece(int(i)), int(i), float(p))
                    for i, p in zip(best[place], best_log_probs[place])
                ),
            )
            for place, label in enumerate(labels)
        ]

    def _read_given(
        self, texts: list[list[int]], config: DecodeConfig
    ) -> tuple[Sequences, Array | None]:
        """Sources or prompts in front of given targets, and what is read before the first label."""
        if self._texts.reads_prompts:
            limit = self._texts.max_target_len
            return split_prompts(texts, config, max_positions=limit)
        return pad_rows(texts, config, limit=self._texts.max_source_len), None
