"""Options of decoding, under the names that Hugging Face `generate` made familiar.

An option is either a KIND or a size, which the compiled program depends on (`SearchShape`, static),
or a VALUE (`SearchValues`, traced): changing a value never compiles anything again.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from seqgen.decoding.config_checks import BEAM_OPTIONS, check_options, check_overrides
from seqgen.decoding.id_tables import forced_ids, stop_ids, word_table
from seqgen.decoding.length_penalty import LENGTH_PENALTY_KINDS
from seqgen.decoding.required_words import RequiredWords, required_table
from seqgen.types import Array, option

TOKEN_OPTIONS = ("bad_words", "required_words", "forced_prefix", "stop_token_ids")  # name tokens
EARLY_STOPPING = ("safe", "first", "heuristic")


@dataclasses.dataclass(frozen=True)
class SearchShape:
    """What a compiled search depends on, beside the shapes of its arrays.

    Attributes:
      num_beams: K, live hypotheses a sentence (1 = greedy or sampling).
      num_return_sequences: N, answers a sentence.
      length_penalty_kind: see `length_penalty.length_penalty`.
      early_stopping: see `DecodeConfig.early_stopping`.
      do_sample: draw tokens instead of taking the best.
      num_beam_groups: G, groups that the beams are parted into.
      contrastive_k: candidates of contrastive search; 0 = another search.
      num_draft_tokens: tokens that a draft proposes at once; read where there is one.
    """

    num_beams: int
    num_return_sequences: int
    length_penalty_kind: str
    early_stopping: str
    do_sample: bool
    num_beam_groups: int = 1
    contrastive_k: int = 0
    num_draft_tokens: int = 0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SearchValues:
    """The numbers of a search, scalar arrays unless told otherwise; see `DecodeConfig`.

    From `min_p` on, None is a rule that is off, and no part of the compiled program.

    Attributes:
      bad_words: int32 [W, L] of `id_tables.word_table`.
      forced_prefix: int32 [P] of `id_tables.forced_ids`.
      stop_token_ids: int32 [n] of `id_tables.stop_ids`.
    """

    length_penalty: Array
    min_length: Array
    max_length: Array
    max_length_ratio: Array
    max_length_offset: Array
    suppress_unk: Array
    temperature: Array
    top_k: Array
    top_p: Array
    min_p: Array | None = None
    typical_p: Array | None = None
    repetition_penalty: Array | None = None
    frequency_penalty: Array | None = None
    presence_penalty: Array | None = None
    no_repeat_ngram_size: Array | None = None
    bad_words: Array | None = None
    forced_prefix: Array | None = None
    stop_token_ids: Array | None = None
    diversity_penalty: Array | None = None
    coverage_penalty: Array | None = None
    required_words: RequiredWords | None = None
    penalty_alpha: Array | None = None


@dataclasses.dataclass(frozen=True)
class DecodeConfig:
    """How text is generated. Lengths are in tokens.

    Raises:
      ConfigError: if a value is out of its range or two options contradict each other.
    """

    num_beams: int = option(
        1, minimum=1, maximum=256, help="live hypotheses a sentence; 1 is greedy (or sampling)"
    )
    num_return_sequences: int = option(
        1, minimum=1, maximum=256, help="answers a sentence: best ones of a beam, or samples"
    )
    num_beam_groups: int = option(
        1,
        minimum=1,
        maximum=256,
        help="diverse beam search: the beams are parted into so many groups",
    )
    diversity_penalty: float = option(
        0.5,
        minimum=0.0,
        maximum=100.0,
        help="taken off a logit for each beam of an earlier group that just took its token",
    )
    coverage_penalty: float = option(
        0.0,
        minimum=0.0,
        maximum=100.0,
        help="beta: scores fall where attention leaves source tokens out; 0 = off",
    )
    length_penalty: float = option(
        1.0, minimum=-10.0, maximum=10.0, help="alpha: above 0 favours long answers, below 0 short"
    )
    length_penalty_kind: str = option(
        "length",
        choices=LENGTH_PENALTY_KINDS,
        help="log-probability is divided by: length = len^alpha, wu = ((5+len)/6)^alpha, none = 1",
    )
    early_stopping: str = option(
        "safe",
        choices=EARLY_STOPPING,
        help="safe = when no better answer can come (proven); first = at num_beams answers; "
        "heuristic = when no answer of the present length would be better",
    )
    min_length: int = option(0, minimum=0, help="an answer has at least so many tokens before EOS")
    max_length: int = option(
        0,
        minimum=0,
        help="an answer has at most so many tokens with EOS; 0 = by max_length_ratio and offset",
    )
    max_length_ratio: float = option(
        2.0, minimum=0.0, maximum=100.0, help="limit = ratio * tokens of the own source + offset"
    )
    max_length_offset: int = option(10, minimum=1, help="see max_length_ratio")
    max_new_tokens: int = option(
        256, minimum=1, help="language models: at most so many tokens after a prompt"
    )
    stop: tuple[str, ...] = option(
        (), help="language models: texts before which an answer is cut; it ends when it holds one"
    )
    suppress_unk: bool = option(False, help="never generate the unknown token")
    repetition_penalty: float = option(
        1.0, minimum=1.0, maximum=100.0, help="CTRL's, on tokens generated before; 1 = none"
    )
    frequency_penalty: float = option(
        0.0, minimum=0.0, maximum=100.0, help="taken off a logit for each time its token came"
    )
    presence_penalty: float = option(
        0.0, minimum=0.0, maximum=100.0, help="taken off a logit once if its token came"
    )
    no_repeat_ngram_size: int = option(
        0, minimum=0, help="no so many tokens in a row come twice in an answer; 0 = any may"
    )
    bad_words: tuple[str, ...] = option((), help="texts that no answer holds, as they are cut")
    required_words: tuple[str, ...] = option(
        (), help="texts that every answer holds, as they are cut; needs several beams"
    )
    forced_prefix: str = option("", help="text that every answer begins with")
    stop_token_ids: tuple[int, ...] = option(
        (), minimum=0, help="target ids that end an answer as EOS does"
    )
    contrastive_k: int = option(
        0,
        minimum=0,
        maximum=256,
        help="contrastive search among so many likeliest tokens; 0 = off",
    )
    penalty_alpha: float = option(
        0.6,
        minimum=0.0,
        maximum=1.0,
        help="contrastive search: weight of unlikeness to earlier states against probability",
    )
    num_draft_tokens: int = option(
        4,
        minimum=1,
        maximum=64,
        help="speculative decoding: tokens that the draft proposes at once",
    )
    do_sample: bool = option(False, help="draw tokens from the model's distribution")
    temperature: float = option(
        1.0, minimum=1e-3, maximum=1e3, help="sampling: logits are divided by it"
    )
    top_k: int = option(0, minimum=0, help="sampling: only the k likeliest tokens; 0 = all")
    top_p: float = option(
        1.0,
        minimum=0.0,
        maximum=1.0,
        help="sampling: only the likeliest tokens whose probabilities first reach p",
    )
    min_p: float = option(
        0.0,
        minimum=0.0,
        maximum=1.0,
        help="sampling: only tokens of at least so much of the likeliest one's probability",
    )
    typical_p: float = option(
        1.0,
        minimum=0.0,
        maximum=1.0,
        help="sampling: only the tokens of most typical surprise that first reach this mass",
    )
    seed: int = option(0, minimum=0, maximum=2**31 - 1, help="sampling: seed of all draws")
    max_source_length: int = option(
        2048, minimum=1, help="longer source lines are cut here, with a warning"
    )
    batch_size: int = option(64, minimum=1, maximum=4096, help="sentences decoded together")
    batch_tokens: int = option(
        16384, minimum=1, help="at most so many source tokens x beams together (bounds memory)"
    )

    def __post_init__(self) -> None:
        check_options(self)

    def replace(self, **overrides: Any) -> "DecodeConfig":
        """A copy with some options changed; one text or id may stand for several.

        Asking for sampling means one beam, and asking for several beams means search, unless the
        other option is given too.

        Raises:
          ConfigError: if an option is unknown (the nearest is named), out of range, or would be
            ignored.
        """
        check_overrides(self, overrides)
        kinds = {field.name: type(field.default) for field in dataclasses.fields(self)}
        overrides = {n: _several(v) if kinds[n] is tuple else v for n, v in overrides.items()}
        if overrides.get("do_sample") is True:
            overrides.setdefault("num_beams", 1)
        elif overrides.get("num_beams", 1) != 1:
            overrides.setdefault("do_sample", False)
        return dataclasses.replace(self, **overrides)

    def plain(self, num_beams: int) -> "DecodeConfig":
        """Greedy or beam search for one answer, without the options that it would not read.

        Raises:
          ConfigError: if `num_beams` is out of its range.
        """
        aside = ["num_return_sequences", "do_sample", "num_beam_groups", "contrastive_k"]
        if num_beams == 1:
            aside += BEAM_OPTIONS
        defaults = {name: getattr(type(self), name) for name in aside}
        return dataclasses.replace(self, num_beams=num_beams, **defaults)

    def shape(self, *, drafted: bool = False) -> SearchShape:
        """The static part; `drafted`: a draft model proposes tokens."""
        return SearchShape(
            num_beams=self.num_beams,
            num_return_sequences=self.num_return_sequences,
            length_penalty_kind=self.length_penalty_kind,
            # One beam is greedy search or sampling, which end at EOS.
            early_stopping=self.early_stopping if self.num_beams > 1 else EARLY_STOPPING[0],
            do_sample=self.do_sample,
            num_beam_groups=self.num_beam_groups,
            contrastive_k=self.contrastive_k,
            num_draft_tokens=self.num_draft_tokens if drafted else 0,
        )

    def values(self, encode: Callable[[str], Sequence[int]] | None = None) -> SearchValues:
        """The traced part.

        Args:
          encode: the target tokenizer's, where texts are given.

        Raises:
          ConfigError: if `forced_prefix` or `required_words` hold what the vocabulary does not, or
            these cannot be met.
          ValueError: if a text is given without `encode`.
        """
        if encode is None and (self.bad_words or self.forced_prefix or self.required_words):
            raise ValueError("bad_words and others are texts: give values(encode)")
        required = None
        if encode is not None:
            required = required_table(
                self.required_words,
                encode,
                banned=self.bad_words,
                stop_token_ids=self.stop_token_ids,
            )
        return SearchValues(
            length_penalty=jnp.float32(self.length_penalty),
            min_length=jnp.int32(self.min_length),
            max_length=jnp.int32(self.max_length),
            max_length_ratio=jnp.float32(self.max_length_ratio),
            max_length_offset=jnp.int32(self.max_length_offset),
            suppress_unk=jnp.bool_(self.suppress_unk),
            temperature=jnp.float32(self.temperature),
            top_k=jnp.int32(self.top_k),
            top_p=jnp.float32(self.top_p),
            min_p=_unless(self.min_p, 0.0),
            typical_p=_unless(self.typical_p, 1.0),
            repetition_penalty=_unless(self.repetition_penalty, 1.0),
            frequency_penalty=_unless(self.frequency_penalty, 0.0),
            presence_penalty=_unless(self.presence_penalty, 0.0),
            no_repeat_ngram_size=_unless(self.no_repeat_ngram_size, 0),
            bad_words=word_table(self.bad_words, encode) if encode else None,
            forced_prefix=forced_ids(self.forced_prefix, encode) if encode else None,
            stop_token_ids=stop_ids(self.stop_token_ids),
            diversity_penalty=(
                jnp.float32(self.diversity_penalty) if self.num_beam_groups > 1 else None
            ),
            coverage_penalty=_unless(self.coverage_penalty, 0.0),
            required_words=required,
            penalty_alpha=jnp.float32(self.penalty_alpha) if self.contrastive_k else None,
        )

    def max_len(self, source_len: int) -> int:
        """Room for an answer to `source_len` source tokens: at least its limit, EOS included."""
        if self.max_length:
            return self.max_length
        # One more than the product says: the traced limits are rounded to float32.
        return max(1, math.floor(self.max_length_ratio * source_len) + 1 + self.max_length_offset)


def _several(value: Any) -> tuple[Any, ...]:
    """The value of an option that takes several: a list of them, or one."""
    return tuple(value) if isinstance(value, list | tuple) else (value,)


def _unless(value: float, off: float) -> Array | None:
    """A number as a scalar array of its type, None where it is `off`."""
    if value == off:
        return None
    return jnp.int32(value) if isinstance(off, int) else jnp.float32(value)
