"""Text in, text out: parameters, tokenizers and decoding options as one object.

A text is the source of an answer or, for a language model, a prompt that the answer goes on from.

Lines are cut into tokens, sorted by length inside a window, padded to a small set of shapes (each
compiled once) and decoded; answers come back in the order of the lines.
"""

import contextlib
import itertools
import math
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from seqgen.chat import Conversing
from seqgen.decoding.batching import pad_rows, plan_batches
from seqgen.decoding.config import DecodeConfig
from seqgen.decoding.hypotheses import Hypotheses
from seqgen.decoding.prompts import pack_prompts
from seqgen.decoding.shortlist import Shortlist
from seqgen.errors import ConfigError
from seqgen.programs import Programs
from seqgen.refusals import refused
from seqgen.scoring import Scoring
from seqgen.search_options import SearchOptions
from seqgen.streaming import TextStream
from seqgen.texts import Hypothesis, Texts
from seqgen.types import Params, Tokenizer

_WINDOW_BATCHES = 32  # lines sorted together, in batches of `batch_size`
# Batches at work at a time: most operations of a step are too small for several cores, and the host
# reads one batch's answers while the device computes another.
_WORKERS = 2


class Generator(Conversing, Scoring):
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
        reads_prompts: bool = False,
        shortlist: Shortlist | None = None,
        draft: tuple[Any, Params] | None = None,
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
          max_target_len: the same for target tokens, and for those of a prompt and its answer.
          reads_prompts: the model is a `CausalLM` without sources: texts are prompts, read by the
            target tokenizer.
          shortlist: what answers are made of; None = all tokens. Scores of given targets
            (`score`) are those of the whole vocabulary either way.
          draft: definition and parameters of a smaller model of the same vocabulary, which proposes
            tokens to this one (`decoding.speculative`).

        Raises:
          ConfigError: a shortlist for prompts, which are no sources to be translated.
        """
        if reads_prompts and shortlist is not None:
            raise ConfigError(
                "a shortlist holds translations of what a source says, and prompts are no sources",
                details=["this is       a language model: leave out the shortlist"],
            )
        self.definition = definition
        self.params = jax.device_put(params)
        self.decode_config = decode_config or DecodeConfig()
        self._texts = Texts(
            source_tokenizer,
            target_tokenizer,
            max_source_len=max_source_len,
            max_target_len=max_target_len,
            reads_prompts=reads_prompts,
        )
        self._shortlist = shortlist
        self._draft_params = None if draft is None else jax.device_put(draft[1])
        self._options = SearchOptions(
            self._texts, has_shortlist=shortlist is not None, has_draft=draft is not None
        )
        self._compiled: set[Hashable] = set()
        self._compiling = threading.Lock()
        self._programs = Programs(definition, None if draft is None else draft[0])

    fill = fill_stream = refused("generator", "fill hidden tokens")

    @property
    def reads_prompts(self) -> bool:
        """Whether texts are prompts."""
        return self._texts.reads_prompts

    @property
    def limits(self) -> tuple[int | None, int | None]:
        """`max_source_len` and `max_target_len`."""
        return self._texts.max_source_len, self._texts.max_target_len

    @property
    def source_tokenizer(self) -> Tokenizer:
        """Text to source ids."""
        return self._texts.source_tokenizer

    @property
    def target_tokenizer(self) -> Tokenizer:
        """Text of prompts and targets to ids, such as those of `stop_token_ids`, and back."""
        return self._texts.target_tokenizer

    def generate(self, texts: Sequence[str], **overrides: Any) -> list[list[Hypothesis]]:
        """`num_return_sequences` answers for each text, in the order of the texts.

        An empty source (nothing but white space) has the empty answer; the model is not asked, so
        its score and log-probability are NaN. An empty prompt is one: the text begins after BOS.

        Args:
          texts: one sentence or one prompt each.
          **overrides: fields of `DecodeConfig`, such as num_beams=5.

        Raises:
          ConfigError: for an unknown option, a bad value, or an option of other models.
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
          lines: one sentence or one prompt each.
          progress: called after each batch with the number of lines answered so far.
          **overrides: fields of `DecodeConfig`.

        Raises:
          ConfigError: for an unknown option, a bad value, or an option of other models, at the
            call.
        """
        config = self.options(**overrides)
        return self._stream(iter(lines), progress or (lambda count: None), config)

    def options(self, **overrides: Any) -> DecodeConfig:
        """The options of a call with these overrides.

        Raises:
          ConfigError: for an unknown option, a bad value, or an option of other models.
        """
        config = self.decode_config.replace(**overrides)
        self._options.check(config, overrides)
        return config

    def stream_text(self, text: str, **overrides: Any) -> TextStream:
        """One answer piece by piece, as it is made: that of `generate([text])`, bit for bit.

        Of several answers it is the first. With beams the text comes as one piece, at the end.

        Args:
          text: one sentence or one prompt.
          **overrides: fields of `DecodeConfig`.

        Raises:
          ConfigError: for an unknown option, a bad value, or an option of other models.
        """
        config = self.options(**overrides)
        return TextStream(self._slices(text, config), stop=config.stop)

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
        encoded = [self._texts.encode(text, first + i, config) for i, text in enumerate(window)]
        answers: list[list[Hypothesis]] = [_empty_answers(config)] * len(window)
        speaking = [i for i, text in enumerate(window) if self.reads_prompts or text.strip()]
        room = config.max_new_tokens if self.reads_prompts else 0

        def answer(places: list[int]) -> int:
            members = [speaking[place] for place in places]
            texts = [encoded[i] for i in members]
            found = self._run(texts, [first + i for i in members], config)
            for row, i in enumerate(members):
                answers[i] = self._texts.read(found, row, encoded[i], config, line=first + i)
            return len(members)

        finished = first + len(window) - len(speaking)
        batches = plan_batches([len(encoded[i]) + room for i in speaking], config)
        with ThreadPoolExecutor(_WORKERS) as workers:
            for count in workers.map(answer, batches):
                finished += count
                progress(finished)
        return answers

    def _slices(self, text: str, config: DecodeConfig) -> Iterator[tuple[Hypothesis | None, bool]]:
        """One answer so far, and whether it is whole, after each step of its search."""
        if not self.reads_prompts and not text.strip():
            yield _empty_answers(config)[0], True
            return
        given = self._texts.encode(text, 0, config)
        arguments, options, key = self._task([given], [0], config)
        state, done = None, False
        while not done:
            with self._first_use(("slice", state is None, key)):
                found, state, done = self._programs.search_slice(
                    self.params, state, *arguments, **options
                )
            found, done = jax.device_get((found, done))
            known = done or config.num_beams == 1  # a beam's best may yet be another
            yield (
                self._texts.read(found, 0, given, config, line=0)[0] if known else None,
                bool(done),
            )

    def _run(self, texts: list[list[int]], numbers: list[int], config: DecodeConfig) -> Hypotheses:
        arguments, options, key = self._task(texts, numbers, config)
        with self._first_use(key):
            found = self._programs.search(self.params, *arguments, **options)
        return jax.device_get(found)

    def _task(
        self, texts: list[list[int]], numbers: list[int], config: DecodeConfig
    ) -> tuple[tuple[Any, ...], dict[str, Any], Hashable]:
        """A batch as the arguments and static options of `_search`, and what is compiled for it."""
        prompt = None
        if self.reads_prompts:
            limit, stops = self._texts.max_target_len, self._options.stop_table(config.stop)
            source, prompt = pack_prompts(texts, config, stops=stops, max_positions=limit)
            max_len = config.max_new_tokens
        else:
            source = pad_rows(texts, config, limit=self._texts.max_source_len)
            max_len = config.max_len(source.ids.shape[1])
        max_len = -(-max_len // 8) * 8
        if self._texts.max_target_len is not None:
            max_len = min(max_len, self._texts.max_target_len)
        rows = source.ids.shape[0]
        padded = np.asarray(numbers + numbers[-1:] * (rows - len(numbers)), np.uint32)
        values = self._options.values(config)
        self._options.check_room(config, source, prompt, max_len=max_len, lines=numbers)
        rules = jax.tree.structure(values)  # which are on
        candidates = None if self._shortlist is None else self._shortlist.candidates(source)
        shapes = jax.tree.map(np.shape, (source, prompt, candidates))
        shape = config.shape(drafted=self._draft_params is not None)
        arguments = (source, padded, config.seed, values, prompt, candidates, self._draft_params)
        options = {"shape": shape, "max_len": max_len}
        return arguments, options, (str(shapes), shape, rules, max_len)

    @contextlib.contextmanager
    def _first_use(self, key: Hashable) -> Iterator[None]:
        """Let one thread alone compile what belongs to `key`."""
        if key in self._compiled:
            yield
            return
        with self._compiling:
            yield
            self._compiled.add(key)


def _empty_answers(config: DecodeConfig) -> list[Hypothesis]:
    empty = Hypothesis(text="", score=math.nan, ids=(), log_prob=math.nan)
    return [empty] * config.num_return_sequences
