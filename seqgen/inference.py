"""Text in, text out: parameters, tokenizers and decoding options as one object.

Lines are cut into tokens, sorted by length inside a window, padded to a small set of shapes (each
compiled once) and decoded; answers come back in the order of the lines.
"""

import contextlib
import dataclasses
import functools
import itertools
import logging
import math
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from seqgen.decoding.batching import pad_rows, plan_batches
from seqgen.decoding.config import TOKEN_OPTIONS, DecodeConfig, SearchShape, SearchValues
from seqgen.decoding.generate import search
from seqgen.decoding.hypotheses import Hypotheses
from seqgen.decoding.rescoring import target_log_probs
from seqgen.decoding.sampling import make_row_keys
from seqgen.decoding.shortlist import Candidates, Shortlist
from seqgen.errors import ConfigError
from seqgen.types import EOS_ID, Array, Params, Sequences, Tokenizer

_log = logging.getLogger("seqgen.inference")
_WINDOW_BATCHES = 32  # lines sorted together, in batches of `batch_size`
# Batches at work at a time: most operations of a step are too small for several cores, and the host
# reads one batch's answers while the device computes another.
_WORKERS = 2


@dataclasses.dataclass(frozen=True)
class Hypothesis:
    """One answer.

    Attributes:
      text: plain text.
      score: log-probability, that of penalised logits under penalties, divided by the length
        penalty; -inf if there is no such answer.
      ids: target ids, without EOS or the stop token that ended them.
      log_prob: natural logarithm of the model's probability of `ids` and what ended them, given the
        source.
    """

    text: str
    score: float
    ids: tuple[int, ...]
    log_prob: float


class Generator:
    """A trained model with its tokenizers, ready to answer text.

    Attributes:
      params: may be replaced by others of the same shapes (training does, at each evaluation);
        nothing is compiled again.
      decode_config: options that a call does not override.
    """

    def __init__(
        self,
        definition: Any,
        params: Params,
        source_tokenizer: Tokenizer,
        target_tokenizer: Tokenizer,
        decode_config: DecodeConfig | None = None,
        *,
        max_source_len: int | None = None,
        max_target_len: int | None = None,
        shortlist: Shortlist | None = None,
    ):
        """Binds the parts; nothing is compiled yet.

        Args:
          definition: gives a `Decodable` model by `bind(params)`.
          params: nested dict of arrays.
          source_tokenizer: text to source ids.
          target_tokenizer: target ids to text.
          decode_config: default options.
          max_source_len: most source tokens (EOS counted) the model can take, where its position
            table ends; None = any number.
          max_target_len: the same for target tokens.
          shortlist: what answers are made of; None = all tokens. Scores of given targets
            (`score`) are those of the whole vocabulary either way.
        """
        self.definition = definition
        self.params = jax.device_put(params)
        self.source_tokenizer = source_tokenizer
        self.target_tokenizer = target_tokenizer
        self.decode_config = decode_config or DecodeConfig()
        self._max_source_len = max_source_len
        self._max_target_len = max_target_len
        self._shortlist = shortlist
        self._compiled: set[Hashable] = set()
        self._compiling = threading.Lock()
        self._search = jax.jit(
            functools.partial(_search, definition), static_argnames=("shape", "max_len")
        )
        self._target_log_probs = jax.jit(functools.partial(_target_log_probs, definition))

    def generate(self, texts: Sequence[str], **overrides: Any) -> list[list[Hypothesis]]:
        """`num_return_sequences` answers for each text, in the order of the texts.

        An empty text (nothing but white space) has the empty answer; the model is not asked, so its
        score and log-probability are NaN.

        Args:
          texts: one sentence each.
          **overrides: fields of `DecodeConfig`, such as num_beams=5.

        Raises:
          ConfigError: for an unknown option or a bad value.
        """
        return list(self.stream(texts, **overrides))

    def stream(
        self,
        lines: Iterable[str],
        *,
        progress: Callable[[int], None] | None = None,
        **overrides: Any,
    ) -> Iterator[list[Hypothesis]]:
        """Answers for any number of lines, in order, as they become known.

        Lines are read a window at a time, so a file of any size passes through.

        Args:
          lines: one sentence each.
          progress: called after each batch with the number of lines answered so far.
          **overrides: fields of `DecodeConfig`.

        Raises:
          ConfigError: for an unknown option or a bad value, at the call.
        """
        config = self.decode_config.replace(**overrides)
        named = [name for name in TOKEN_OPTIONS if getattr(config, name)]
        if named and self._shortlist is not None:
            raise ConfigError(
                f"{', '.join(named)}: tokens of the whole vocabulary, and a shortlist cuts it",
                details=["leave out      the option, or the shortlist"],
            )
        return self._stream(iter(lines), progress or (lambda count: None), config)

    def score(self, sources: Sequence[str], targets: Sequence[str | Sequence[int]]) -> list[float]:
        """Natural log-probability of each target given its source (EOS included).

        Equal to `Hypothesis.log_prob` for the ids of an answer that ended with EOS. A target is
        text or a list of ids.

        Raises:
          ValueError: if the lists differ in length.
        """
        return [float(log_probs.sum()) for log_probs in self.token_scores(sources, targets)]

    def token_scores(
        self, sources: Sequence[str], targets: Sequence[str | Sequence[int]]
    ) -> list[np.ndarray]:
        """Log-probability of each target token, EOS last: one float32 array a pair.

        Raises:
          ValueError: if the lists differ in length.
        """
        if len(sources) != len(targets):
            raise ValueError(f"{len(sources)} sources and {len(targets)} targets")
        config = self.decode_config
        pairs = [
            (self._encode_source(source, line, config), self._encode_target(target, line))
            for line, (source, target) in enumerate(zip(sources, targets))
        ]
        results: list[np.ndarray] = [np.zeros(0, np.float32)] * len(pairs)
        longest = [max(len(source), len(target)) for source, target in pairs]
        for members in plan_batches(longest, config):
            source = self._pad_sources([pairs[i][0] for i in members], config)
            target = pad_rows([pairs[i][1] for i in members], config, limit=self._max_target_len)
            lengths = np.asarray(target.segments).sum(axis=1).astype(np.int32)
            log_probs = np.asarray(self._target_log_probs(self.params, source, target.ids, lengths))
            for row, i in enumerate(members):
                results[i] = log_probs[row, : lengths[row]]
        return results

    def _stream(
        self, lines: Iterator[str], progress: Callable[[int], None], config: DecodeConfig
    ) -> Iterator[list[Hypothesis]]:
        answered = 0
        while window := list(itertools.islice(lines, _WINDOW_BATCHES * config.batch_size)):
            yield from self._answer(window, answered, progress, config)
            answered += len(window)

    def _answer(
        self,
        window: list[str],
        first: int,
        progress: Callable[[int], None],
        config: DecodeConfig,
    ) -> list[list[Hypothesis]]:
        """Answers to lines that are sorted together; `first` is the number of the first one."""
        encoded = [self._encode_source(text, first + i, config) for i, text in enumerate(window)]
        answers: list[list[Hypothesis]] = [_empty_answers(config)] * len(window)
        speaking = [i for i, text in enumerate(window) if text.strip()]

        def answer(places: list[int]) -> int:
            members = [speaking[place] for place in places]
            source = self._pad_sources([encoded[i] for i in members], config)
            found = self._run(source, [first + i for i in members], config)
            for row, i in enumerate(members):
                answers[i] = self._read(found, row, line=first + i)
            return len(members)

        finished = first + len(window) - len(speaking)
        batches = plan_batches([len(encoded[i]) for i in speaking], config)
        with ThreadPoolExecutor(_WORKERS) as workers:
            for count in workers.map(answer, batches):
                finished += count
                progress(finished)
        return answers

    def _run(self, source: Sequences, numbers: list[int], config: DecodeConfig) -> Hypotheses:
        rows, width = source.ids.shape
        padded = np.asarray(numbers + numbers[-1:] * (rows - len(numbers)), np.uint32)
        max_len = -(-config.max_len(width) // 8) * 8
        if self._max_target_len is not None:
            max_len = min(max_len, self._max_target_len)
        values = config.values(self.target_tokenizer.encode)
        rules = jax.tree.structure(values)  # which are on
        candidates = None if self._shortlist is None else self._shortlist.candidates(source)
        size = None if candidates is None else candidates.ids.shape
        with self._first_use((source.ids.shape, config.shape(), rules, max_len, size)):
            found = self._search(
                self.params,
                source,
                padded,
                config.seed,
                values,
                candidates,
                shape=config.shape(),
                max_len=max_len,
            )
        return jax.device_get(found)

    @contextlib.contextmanager
    def _first_use(self, key: Hashable) -> Iterator[None]:
        """Let one thread alone compile what belongs to `key`."""
        if key in self._compiled:
            yield
            return
        with self._compiling:
            yield
            self._compiled.add(key)

    def _read(self, found: Hypotheses, row: int, *, line: int) -> list[Hypothesis]:
        if found.lengths[row, 0] == 0:
            _log.warning("line %d: the model gives no numbers, the answer is left empty", line + 1)
        answers = []
        for n in range(found.ids.shape[1]):
            ids = tuple(int(i) for i in found.ids[row, n, : max(found.lengths[row, n] - 1, 0)])
            answers.append(
                Hypothesis(
                    text=self.target_tokenizer.decode(ids),
                    score=float(found.scores[row, n]),
                    ids=ids,
                    log_prob=float(found.log_probs[row, n]),
                )
            )
        return answers

    def _pad_sources(self, lines: list[list[int]], config: DecodeConfig) -> Sequences:
        return pad_rows(lines, config, limit=self._max_source_len)

    def _encode_source(self, text: str, line: int, config: DecodeConfig) -> list[int]:
        ids = self.source_tokenizer.encode(text)
        limit = config.max_source_length
        if self._max_source_len is not None:
            limit = min(limit, self._max_source_len)
        return _cut(ids, limit, line=line, side="source")

    def _encode_target(self, target: str | Sequence[int], line: int) -> list[int]:
        ids = self.target_tokenizer.encode(target) if isinstance(target, str) else list(target)
        return _cut(ids, self._max_target_len, line=line, side="target")


def one_line(text: str) -> str:
    """Text that stays on its line: LF and CR become blanks."""
    return text.replace("\r\n", " ").replace("\n", " ").replace("\r", " ")


def _cut(ids: list[int], limit: int | None, *, line: int, side: str) -> list[int]:
    """Ids with EOS, cut to `limit` tokens with a warning."""
    if limit is not None and len(ids) + 1 > limit:
        _log.warning(
            "line %d: %s of %d tokens cut to %d, the longest this model takes",
            line + 1,
            side,
            len(ids) + 1,
            limit,
        )
        ids = ids[: limit - 1]
    return [*ids, EOS_ID]


def _empty_answers(config: DecodeConfig) -> list[Hypothesis]:
    empty = Hypothesis(text="", score=math.nan, ids=(), log_prob=math.nan)
    return [empty] * config.num_return_sequences


def _search(
    definition: Any,
    params: Params,
    source: Sequences,
    lines: Array,
    seed: Array,
    values: SearchValues,
    candidates: Candidates | None,
    *,
    shape: SearchShape,
    max_len: int,
) -> Hypotheses:
    return search(
        definition.bind(params),
        source,
        make_row_keys(seed, lines),
        shape=shape,
        values=values,
        max_len=max_len,
        candidates=candidates,
    )


def _target_log_probs(
    definition: Any, params: Params, source: Sequences, labels: Array, lengths: Array
) -> Array:
    return target_log_probs(definition.bind(params), source, labels, lengths)
