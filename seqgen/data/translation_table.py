"""Word translation probabilities from sentence pairs: IBM model 1 by expectation-maximisation.

Brown et al. 1993, "The mathematics of statistical machine translation", section 4.2. Probabilities
are kept only of tokens that meet in a pair, so memory grows with these, not with the vocabularies.
"""

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np

NULL_ID = 0  # PAD, which no sentence holds, stands for the empty source word

_CHUNK_LINKS = 1 << 21


@dataclasses.dataclass(frozen=True)
class Pairs:
    """P sentence pairs as flat ids, without control ids around them.

    Attributes:
      source, target: int [tokens].
      source_lens, target_lens: int [P].
    """

    source: np.ndarray
    target: np.ndarray
    source_lens: np.ndarray
    target_lens: np.ndarray

    def __len__(self) -> int:
        return len(self.source_lens)

    @property
    def links(self) -> np.ndarray:
        """int64 [P]: in how many ways a target token of the pair may be linked."""
        return (self.source_lens.astype(np.int64) + 1) * self.target_lens


def spread(pairs: Pairs, *, max_links: int) -> Pairs:
    """All pairs, or as many as have about `max_links` links in all, evenly spread."""
    total = int(pairs.links.sum())
    if total <= max_links:
        return pairs
    count = max(1, len(pairs) * max_links // total)
    kept = np.zeros(len(pairs), bool)
    kept[np.arange(count) * len(pairs) // count] = True
    return select(pairs, kept)


def select(pairs: Pairs, kept: np.ndarray) -> Pairs:
    """The pairs for which `kept` (bool [P]) holds."""
    return Pairs(
        pairs.source[np.repeat(kept, pairs.source_lens)],
        pairs.target[np.repeat(kept, pairs.target_lens)],
        pairs.source_lens[kept],
        pairs.target_lens[kept],
    )


@dataclasses.dataclass(frozen=True)
class TranslationTable:
    """Probabilities of target tokens given a source token, in the order of (source, target).

    Attributes:
      source, target: int64 [entries] token ids; source NULL_ID is the empty word.
      probs: float64 [entries]; those of a source token sum to 1.
    """

    source: np.ndarray
    target: np.ndarray
    probs: np.ndarray

    def likeliest(self, count: int, *, source_vocab_size: int) -> np.ndarray:
        """int32 [source_vocab_size, count]: the likeliest target tokens, best first, then zeros.

        Ties go to the lower id. The row of the empty word stays empty.
        """
        order = np.lexsort((self.target, -self.probs, self.source))
        source = self.source[order]
        rank = np.arange(len(order)) - np.searchsorted(source, source)
        kept = (rank < count) & (source != NULL_ID)
        table = np.zeros((source_vocab_size, count), np.int32)
        table[source[kept], rank[kept]] = self.target[order][kept]
        return table


def learn_translation_table(
    pairs: Pairs, *, target_vocab_size: int, iterations: int = 5
) -> TranslationTable:
    """IBM model 1: each target token of a pair is the translation of one source token, or of none.

    An iteration shares each target token among the source tokens of its pair (and the empty word)
    in proportion to their probabilities, and makes these of the shares' sums. All start equal.

    Memory: 4 bytes a link (see `Pairs.links`), about 40 for each two tokens that ever meet.

    Args:
      pairs: sentence pairs; source ids other than NULL_ID.
      target_vocab_size: above every target id.
      iterations: of expectation and maximisation.
    """
    entries = np.zeros(0, np.int64)
    for keys, _ in _links(pairs, target_vocab_size):
        entries = _distinct(np.concatenate([entries, _distinct(keys)]))
    # Which entry each link is of: the links of a target token side by side.
    chunks = [
        (np.searchsorted(entries, keys).astype(np.int32), choices)
        for keys, choices in _links(pairs, target_vocab_size)
    ]
    source, target = np.divmod(entries, target_vocab_size)
    probs = np.ones(len(entries))
    for _ in range(iterations):
        counts = np.zeros(len(entries))
        for links, choices in chunks:
            shares = probs[links]
            sums = np.add.reduceat(shares, np.cumsum(choices) - choices)
            counts += np.bincount(links, shares / np.repeat(sums, choices), len(entries))
        probs = counts / np.bincount(source, counts)[source]
    return TranslationTable(source, target, probs)


def _distinct(keys: np.ndarray) -> np.ndarray:
    """`np.unique`, by sorting: by hashing, as numpy does it, it takes fifty times as long."""
    ordered = np.sort(keys)
    return ordered[np.append(np.ones(min(1, len(keys)), bool), ordered[1:] != ordered[:-1])]


def _links(pairs: Pairs, target_vocab_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """For a part of the pairs at a time: a key for each link, and the links of each target token.

    The key of a link is source id * target_vocab_size + target id.
    """
    lens = pairs.source_lens.astype(np.int64) + 1
    # The empty word stands before each sentence.
    source = np.insert(pairs.source.astype(np.int64), np.cumsum(lens - 1) - (lens - 1), NULL_ID)
    source_starts = np.cumsum(lens) - lens
    target_ends = np.cumsum(pairs.target_lens, dtype=np.int64)
    part = np.cumsum(pairs.links) // _CHUNK_LINKS
    edges = [0, *(np.flatnonzero(np.diff(part)) + 1), len(pairs)]
    for first, end in itertools.pairwise(edges):
        lengths = pairs.target_lens[first:end]
        choices = np.repeat(lens[first:end], lengths)
        if not len(choices):
            continue
        starts = np.repeat(source_starts[first:end], lengths)
        within = np.arange(choices.sum()) - np.repeat(np.cumsum(choices) - choices, choices)
        target = pairs.target[target_ends[first] - pairs.target_lens[first] : target_ends[end - 1]]
        words = source[np.repeat(starts, choices) + within]
        yield words * target_vocab_size + np.repeat(target.astype(np.int64), choices), choices
