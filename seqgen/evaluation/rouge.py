"""ROUGE (Lin 2004, "ROUGE: A Package for Automatic Evaluation of Summaries") by rouge-score.

Only this file imports rouge-score, which follows the original ROUGE-1.5.5 program.
"""

import functools
import importlib.metadata
import re
from collections.abc import Sequence

import numpy as np

# Sentences end at line ends, after . ! ? before a space, and after their full-width forms.
_SENTENCE_END = re.compile(r"\n+|(?<=[.!?])\s+|(?<=[。！？])")
_WORD = re.compile(r"[^\W_]+")
_STEMMED_FROM = 4  # characters, as in rouge-score


def rouge_f1(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    metrics: Sequence[str],
    stemmer: bool = True,
    tokenize: str = "ascii",
) -> dict[str, np.ndarray]:
    """F1 of each line against its best reference, the best for each metric on its own.

    Args:
      hypotheses: one text a line.
      references: one or several texts a line.
      metrics: of 'rouge1', 'rouge2' (n-grams), 'rougeL' (longest common subsequence of the whole
        text), 'rougeLsum' (union over sentences of both sides).
      stemmer: Porter stems in the place of words.
      tokenize: see `EvaluationConfig.rouge_tokenize`.

    Returns:
      {metric: float64 [lines]}, 0 to 1; 0 where a side has no word.
    """
    from rouge_score.rouge_scorer import RougeScorer  # nltk takes a second to import

    scorer = RougeScorer(list(metrics), tokenizer=_Tokenizer(tokenize, stemmer=stemmer))
    found = {name: np.zeros(len(hypotheses)) for name in metrics}
    for line, (hypothesis, several) in enumerate(zip(hypotheses, references, strict=True)):
        best = scorer.score_multi(
            [sentence_lines(text) for text in several], sentence_lines(hypothesis)
        )
        for name in metrics:
            found[name][line] = best[name].fmeasure
    return found


def signature(num_references: str, *, stemmer: bool, tokenize: str) -> str:
    """The settings in sacrebleu's manner.

    Args:
      num_references: how many a line has, or 'var'.
      stemmer: see `rouge_f1`.
      tokenize: see `rouge_f1`.
    """
    version = importlib.metadata.version("rouge-score")
    return (
        f"nrefs:{num_references}|refs:best|measure:f1|stem:{'porter' if stemmer else 'no'}"
        f"|tok:{tokenize}|case:lc|sents:punct|version:rouge-score-{version}"
    )


def sentence_lines(text: str) -> str:
    """`text` with each sentence on a line of its own, which is how rouge-score tells them."""
    return "\n".join(part.strip() for part in _SENTENCE_END.split(text) if part.strip())


class _Tokenizer:
    """What rouge-score asks of a tokenizer; it remembers texts, which it sees several times."""

    def __init__(self, kind: str, *, stemmer: bool):
        from rouge_score.tokenizers import DefaultTokenizer

        own = DefaultTokenizer(use_stemmer=stemmer)
        split = {"ascii": own.tokenize, "unicode": _WORD.findall, "char": _characters}[kind]
        stem = _stemmer() if stemmer and kind == "unicode" else None

        def tokenize(text: str) -> list[str]:
            words = split(text.lower())
            if stem is None:
                return words
            return [stem.stem(word) if len(word) >= _STEMMED_FROM else word for word in words]

        self.tokenize = functools.lru_cache(maxsize=64)(tokenize)


def _stemmer():
    from nltk.stem.porter import PorterStemmer

    return PorterStemmer()


def _characters(text: str) -> list[str]:
    return [character for character in text if not character.isspace()]
