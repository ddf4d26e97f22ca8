"""Hidden tokens for masked language models, drawn anew for every (seed, epoch, example).

Which tokens are hidden: Devlin et al. 2019 (BERT), section 3.1; whole words: the note of May 2019
to the published code; spans: Joshi et al. 2020 (SpanBERT), section 3.1. The count is exact, not
drawn: with n tokens that may be hidden, `max(1, round(rate * n))` of them are (none if n is 0).
Words are hidden whole or not at all, and those that would go beyond the count are passed over:
where they have several tokens, fewer can be hidden, and none if no word is short enough.
"""

import dataclasses
import functools

import numpy as np

from seqgen.data.order import permutation, uniform
from seqgen.types import NUM_CONTROL_IDS

UNITS = ("token", "word", "span")


@dataclasses.dataclass(frozen=True)
class MaskRules:
    """What is hidden, and what stands in its place.

    Attributes:
      vocab_size: V.
      mask_id: the token that stands for a hidden one.
      unit: 'token', 'word' (all tokens of a word), or 'span' (of whole words).
      rate: share of the tokens that are hidden.
      mask_rate, random_rate: of what is hidden, how much becomes `mask_id` and how much another
        token; the rest stays as it is. Drawn for each token, for spans once a span.
      span_stop_rate, max_span_words: lengths of spans in words are geometric with this parameter,
        up to this length (SpanBERT's give 3.8 in the mean).
      control_ids: tokens that are never hidden and never put in another's place, as is `mask_id`.
    """

    vocab_size: int
    mask_id: int
    unit: str = "token"
    rate: float = 0.15
    mask_rate: float = 0.8
    random_rate: float = 0.1
    span_stop_rate: float = 0.2
    max_span_words: int = 10
    control_ids: tuple[int, ...] = tuple(range(NUM_CONTROL_IDS))

    def __post_init__(self):
        if self.unit not in UNITS:
            raise ValueError(f"unit {self.unit!r} is not one of {', '.join(UNITS)}")
        replaced = self.mask_rate + self.random_rate
        if not (0 < self.rate < 1 and 0 <= self.mask_rate <= replaced <= 1):
            raise ValueError(
                f"rate={self.rate} must lie in (0, 1), and mask_rate={self.mask_rate} + "
                f"random_rate={self.random_rate} in [0, 1]"
            )
        if not (0 < self.span_stop_rate < 1 and self.max_span_words >= 1):
            raise ValueError(
                f"span_stop_rate={self.span_stop_rate} must lie in (0, 1), and "
                f"max_span_words={self.max_span_words} be at least 1"
            )

    @functools.cached_property
    def others(self) -> np.ndarray:
        """Int64 [n], ascending: the tokens that may be put in another's place."""
        return np.setdiff1d(np.arange(self.vocab_size), (*self.control_ids, self.mask_id))


@dataclasses.dataclass(frozen=True)
class MaskedRow:
    """One example.

    Attributes:
      ids: int32 [T], some of them hidden.
      positions: int32 [P], the places that are to be told, ascending.
      labels: int32 [P], what stood there.
    """

    ids: np.ndarray
    positions: np.ndarray
    labels: np.ndarray


def mask_tokens(
    ids: np.ndarray,
    rules: MaskRules,
    *,
    key: tuple[int, ...],
    word_starts: np.ndarray | None = None,
) -> MaskedRow:
    """Hide some tokens of a row.

    Args:
      ids: integers [T].
      rules: what and how.
      key: numbers that everything drawn depends on, such as (seed, epoch, example).
      word_starts: bool [T], where a word begins; by default every token is one. A control token
        ends a word and a span.
    """
    ids = np.asarray(ids, np.int32)
    starts = np.ones(len(ids), bool) if word_starts is None else np.asarray(word_starts, bool)
    if starts.shape != ids.shape:
        raise ValueError(f"word_starts {starts.shape} must tell of each of the ids {ids.shape}")
    open_places = ~np.isin(ids, (*rules.control_ids, rules.mask_id))
    count = int(open_places.sum())
    budget = max(1, round(rules.rate * count)) if count else 0
    if rules.unit == "token":
        order = permutation(count, *key, 0)
        spans = [np.array([place]) for place in np.flatnonzero(open_places)[order[:budget]]]
    else:
        words = _words(open_places, starts)
        spans = _choose(words, budget, rules, key)
    chosen = np.concatenate([*spans, np.zeros(0, np.int64)]).astype(np.int32)
    draws = uniform(len(ids), *key, 1)
    fates = np.concatenate(
        [draws[span if rules.unit != "span" else span[:1].repeat(len(span))] for span in spans]
        or [np.zeros(0)]
    )
    other = rules.others[(uniform(len(ids), *key, 2)[chosen] * len(rules.others)).astype(np.int64)]
    hidden = ids.copy()
    replaced = np.where(fates < rules.mask_rate + rules.random_rate, other, ids[chosen])
    hidden[chosen] = np.where(fates < rules.mask_rate, rules.mask_id, replaced)
    positions = np.sort(chosen)
    return MaskedRow(hidden, positions, ids[positions])


def _words(open_places: np.ndarray, starts: np.ndarray) -> list[np.ndarray]:
    """The places of each word; what a control token cuts in two counts as two."""
    places = np.flatnonzero(open_places)
    after_gap = np.diff(places, prepend=-2) > 1
    return np.split(places, np.flatnonzero(starts[places] | after_gap)[1:]) if len(places) else []


def _choose(
    words: list[np.ndarray], budget: int, rules: MaskRules, key: tuple[int, ...]
) -> list[np.ndarray]:
    """Spans of one or more words: each word in random order begins one, while there is room."""
    lengths = np.ones(len(words), np.int64)
    if rules.unit == "span":
        lengths = span_lengths(uniform(len(words), *key, 3), rules)
    taken = np.zeros(len(words), bool)
    spans = []
    for first in permutation(len(words), *key, 0):
        span: list[np.ndarray] = []
        for at in range(first, min(first + lengths[first], len(words))):
            apart = span and words[at][0] != span[-1][-1] + 1
            if taken[at] or apart or len(words[at]) > budget:
                break
            taken[at] = True
            budget -= len(words[at])
            span.append(words[at])
        if span:
            spans.append(np.concatenate(span))
        if not budget:
            break
    return spans


def span_lengths(draws: np.ndarray, rules: MaskRules) -> np.ndarray:
    """Words a span, int64, from uniform draws in [0, 1): geometric, cut off and scaled up."""
    odds = (1 - rules.span_stop_rate) ** np.arange(rules.max_span_words)
    return 1 + np.searchsorted(np.cumsum(odds / odds.sum())[:-1], draws, side="right")
