"""What answers are like, by their n-grams: copied from the source, repeated, various; their length.

Counts of each line, which add up to shares over the corpus (each n-gram counts once, not each
answer). Tokens are lists of words, or of characters where text is not segmented.
"""

from collections.abc import Sequence

import numpy as np

Tokens = Sequence[str]


def ngrams(tokens: Tokens, n: int) -> list[tuple[str, ...]]:
    """Every run of `n` tokens in order; none in a shorter text."""
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def novel_counts(answers: Sequence[Tokens], sources: Sequence[Tokens], n: int) -> np.ndarray:
    """Float64 [lines, 2]: n-grams of the answer that its source has not, and all of the answer.

    The share of novel n-grams is that of See et al. 2017 ("Get To The Point", section 7.2).
    """
    rows = []
    for answer, source in zip(answers, sources, strict=True):
        there, own = set(ngrams(source, n)), ngrams(answer, n)
        rows.append((sum(gram not in there for gram in own), len(own)))
    return np.array(rows, dtype=np.float64)


def copied_counts(answers: Sequence[Tokens], sources: Sequence[Tokens], n: int) -> np.ndarray:
    """Float64 [lines, 2]: n-grams of the answer that its source has, and all of the answer."""
    counts = novel_counts(answers, sources, n)
    return np.stack([counts[:, 1] - counts[:, 0], counts[:, 1]], axis=1)


def repetition_counts(answers: Sequence[Tokens], n: int) -> np.ndarray:
    """Float64 [lines, 2]: n-grams that stood earlier in the same answer, and all of the answer.

    Their share in one answer is seq-rep-n of Welleck et al. 2020 ("Neural Text Generation With
    Unlikelihood Training", section 6.1).
    """
    rows = [(len(own) - len(set(own)), len(own)) for own in (ngrams(a, n) for a in answers)]
    return np.array(rows, dtype=np.float64)


def length_counts(answers: Sequence[Tokens], references: Sequence[Sequence[Tokens]]) -> np.ndarray:
    """Float64 [lines, 2]: tokens of the answer, and of the reference nearest to it in length.

    Of two that are as near the shorter counts, as in BLEU (Papineni et al. 2002, section 2.2.2).
    """
    rows = []
    for answer, several in zip(answers, references, strict=True):
        own = len(answer)
        rows.append((own, min(map(len, several), key=lambda other: (abs(other - own), other))))
    return np.array(rows, dtype=np.float64)


def distinct(answers: Sequence[Tokens], n: int) -> float:
    """Different n-grams of all answers together / n-grams of all answers (Li et al. 2016,
    "A Diversity-Promoting Objective Function for Neural Conversation Models", section 5.2).

    It falls as the corpus grows: compare corpora of the same size. 0 where there is no n-gram.
    """
    every = [gram for answer in answers for gram in ngrams(answer, n)]
    return len(set(every)) / len(every) if every else 0.0
