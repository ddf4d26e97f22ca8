"""Damaged text to be mended by an encoder-decoder: pure functions from ids to (source, target).

Span corruption: Raffel et al. 2020 (T5), section 3.1.4, cut as in the published code. Text
infilling and sentence permutation: Lewis et al. 2020 (BART), section 2.2. Ids are those of text
alone, without control tokens.
"""

import math

import numpy as np

from seqgen.data.order import permutation, uniform


def corrupt_spans(
    ids: np.ndarray,
    sentinel_ids: np.ndarray,
    *,
    key: tuple[int, ...],
    rate: float = 0.15,
    mean_span_length: float = 3.0,
) -> tuple[np.ndarray, np.ndarray]:
    """Text with spans taken out, and the spans.

    `round(rate * T)` tokens, at least 1 and at most T - 1, are cut out as `round(that /
    mean_span_length)` spans (at least 1), between which there is text; the row begins with text.
    All ways to cut them are equally likely.

    Args:
      ids: integers [T], T at least 2; no sentinel among them.
      sentinel_ids: distinct tokens; the i-th stands for the i-th span.
      key: numbers that everything drawn depends on, such as (seed, epoch, example).
      rate: share of the tokens that are cut out.
      mean_span_length: tokens a span, about.

    Returns:
      Source: the text, a sentinel in the place of each span. Target: each sentinel followed by its
      span. Both int32, without EOS_ID. `restore_spans` is the inverse.

    Raises:
      ValueError: the text is too short, or has sentinels, or there are not enough of them.
    """
    ids, sentinels = np.asarray(ids, np.int32), np.asarray(sentinel_ids, np.int32)
    if len(ids) < 2:
        raise ValueError(f"{len(ids)} tokens cannot be cut into text and a span")
    if np.isin(ids, sentinels).any():
        raise ValueError("the text has sentinels in it")
    num_noise, num_spans = span_counts(len(ids), rate, mean_span_length)
    if num_spans > len(sentinels):
        raise ValueError(f"{num_spans} spans need as many sentinels, there are {len(sentinels)}")
    noise = _segments(num_noise, num_spans, (*key, 0))
    text = _segments(len(ids) - num_noise, num_spans, (*key, 1))
    parts = np.split(ids, np.cumsum(np.stack([text, noise], 1).reshape(-1))[:-1])
    marks = [sentinels[at : at + 1] for at in range(num_spans)]
    source = [part for pair in zip(parts[::2], marks, strict=True) for part in pair]
    target = [part for pair in zip(marks, parts[1::2], strict=True) for part in pair]
    return np.concatenate(source), np.concatenate(target)


def span_counts(length: int, rate: float, mean_span_length: float) -> tuple[int, int]:
    """How many tokens `corrupt_spans` cuts out of a text of `length`, and as how many spans."""
    num_noise = min(max(round(length * rate), 1), length - 1)
    num_spans = max(round(num_noise / mean_span_length), 1)
    return num_noise, min(num_spans, num_noise, length - num_noise)


def restore_spans(source: np.ndarray, target: np.ndarray, sentinel_ids: np.ndarray) -> np.ndarray:
    """The text, int32 [T], of which `corrupt_spans` made `source` and `target`."""
    starts = np.flatnonzero(np.isin(target, sentinel_ids))
    spans = {int(span[0]): span[1:] for span in np.split(target, starts)[1:]}
    pieces = [spans.get(int(token), np.array([token], np.int32)) for token in source]
    return np.concatenate([*pieces, np.zeros(0, np.int32)]).astype(np.int32)


def infill(
    ids: np.ndarray,
    mask_id: int,
    *,
    key: tuple[int, ...],
    rate: float = 0.3,
    mean_span_length: float = 3.0,
) -> np.ndarray:
    """Text [T'] with spans taken out, one `mask_id` in the place of each, whatever its length.

    Spans have Poisson lengths, 0 among them (a mask where nothing is missing), and are drawn until
    `round(rate * T)` tokens are gone, the last cut to fit. At least one token stands between two
    masks; where spans cannot be kept apart otherwise, the last is longer. The target is the text
    itself.

    Args:
      ids: integers [T].
      mask_id: stands for a span.
      key: numbers that everything drawn depends on.
      rate: share of the tokens that are taken out.
      mean_span_length: the Poisson mean.
    """
    ids = np.asarray(ids, np.int32)
    budget = round(rate * len(ids))
    num_kept = len(ids) - budget
    if not budget:
        return ids.copy()
    lengths = poisson(uniform(num_kept + 1, *key, 0), mean_span_length)
    total = np.cumsum(lengths)
    count = min(int(np.searchsorted(total, budget)) + 1, num_kept + 1)
    lengths = lengths[:count]
    lengths[-1] += budget - lengths.sum()
    gaps = np.sort(permutation(num_kept + 1, *key, 1)[:count])  # kept tokens before each span
    starts = gaps + np.cumsum(lengths) - lengths
    pieces, at = [], 0
    for start, length in zip(starts, lengths, strict=True):
        pieces += [ids[at:start], np.array([mask_id], np.int32)]
        at = start + length
    return np.concatenate([*pieces, ids[at:]])


def permute_sentences(
    ids: np.ndarray, sentence_starts: np.ndarray, *, key: tuple[int, ...]
) -> np.ndarray:
    """The sentences of a text, int32 [T], in random order.

    Args:
      ids: integers [T].
      sentence_starts: bool [T], where a sentence begins; the first token always does.
      key: numbers that the order depends on.
    """
    cuts = np.flatnonzero(np.asarray(sentence_starts, bool)[1:]) + 1
    sentences = np.split(np.asarray(ids, np.int32), cuts)
    return np.concatenate([sentences[at] for at in permutation(len(sentences), *key)])


def denoise(
    ids: np.ndarray,
    mask_id: int,
    *,
    key: tuple[int, ...],
    sentence_starts: np.ndarray | None = None,
    rate: float = 0.3,
    mean_span_length: float = 3.0,
) -> tuple[np.ndarray, np.ndarray]:
    """BART's task: (source, target), the sentences in disorder, then infilled; see those."""
    source = target = np.asarray(ids, np.int32)
    if sentence_starts is not None:
        source = permute_sentences(source, sentence_starts, key=(*key, 2))
    source = infill(source, mask_id, key=key, rate=rate, mean_span_length=mean_span_length)
    return source, target


def poisson(draws: np.ndarray, mean: float) -> np.ndarray:
    """Poisson numbers, int64, from uniform draws in [0, 1), by inverting their distribution."""
    terms = np.arange(int(mean + 12 * math.sqrt(mean)) + 12)
    logs = terms * math.log(mean) - mean - np.array([math.lgamma(term + 1) for term in terms])
    return np.searchsorted(np.cumsum(np.exp(logs)), draws, side="right")


def _segments(total: int, count: int, key: tuple[int, ...]) -> np.ndarray:
    """`count` positive integers that sum to `total`, all such lists equally likely."""
    cuts = np.sort(permutation(total - 1, *key)[: count - 1]) + 1
    return np.diff(np.concatenate([[0], cuts, [total]]))
