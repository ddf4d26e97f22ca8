"""Corpus scores as sums over lines: what each line adds, and the score of such a sum.

Scores, bootstrap intervals and paired comparisons are all formed from these.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.ter import TER

from seqgen.errors import ConfigError
from seqgen.evaluation import ngrams, rouge
from seqgen.evaluation.config import COPYING_METRICS, ROUGE_METRICS, EvaluationConfig
from seqgen.evaluation.references import as_streams

_REMEDIES = {
    "ja-mecab": "install it     pip install 'sacrebleu[ja]'",
    "ko-mecab": "install it     pip install 'sacrebleu[ko]'",
    "flores101": "sacrebleu downloads its model once; that needs the internet",
    "flores200": "sacrebleu downloads its model once; that needs the internet",
}


@dataclasses.dataclass(frozen=True)
class LineStatistics:
    """One metric over a corpus.

    Attributes:
      table: float64 [lines, statistics].
      score: the score of summed rows, whichever were drawn, however often.
      signature: the settings that are to be told with the score.
      signature_name: what a report calls them.
    """

    table: np.ndarray
    score: Callable[[np.ndarray], float]
    signature: str = ""
    signature_name: str = ""

    @property
    def total(self) -> float:
        """The score of the corpus."""
        return self.score(self.table.sum(axis=0))


def line_statistics(
    metrics: Sequence[str],
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    sources: Sequence[str] | None = None,
    rules: EvaluationConfig,
) -> dict[str, LineStatistics]:
    """Statistics of each metric.

    Args:
      metrics: names of `ALL_METRICS` but for distinct1 and distinct2, which are no sums.
      hypotheses: one line an example.
      references: one or several an example.
      sources: one an example; copied1..4 and novel1..4 need them.
      rules: how text is compared.

    Raises:
      ConfigError: if the tokenizer of `rules` cannot be had.
      ValueError: if a metric needs sources and has none, or is not known.
    """
    found: dict[str, LineStatistics] = {}
    rouge_names = [name for name in metrics if name in ROUGE_METRICS]
    if rouge_names:
        found |= _rouge(rouge_names, hypotheses, references, rules)
    for name in metrics:
        if name in found:
            continue
        if name in ("bleu", "chrf", "ter"):
            found[name] = _sacrebleu(name, hypotheses, references, rules)
        elif name == "exact_match":
            found[name] = _exact_match(hypotheses, references, rules)
        else:
            found[name] = _ngrams(name, hypotheses, references, sources, rules)
    return {name: found[name] for name in metrics}


def sacrebleu_metric(name: str, rules: EvaluationConfig) -> Any:
    """The object for 'bleu' (Papineni et al. 2002), 'chrf' (Popovic 2015) or 'ter' (Snover et al.
    2006), with sacrebleu's own defaults: TER ignores case.

    With the Chinese or Japanese tokenizer TER counts characters of those scripts as words.

    Raises:
      ConfigError: if BLEU's tokenizer needs what is not installed.
    """
    if name == "bleu":
        try:
            # `force` only silences the guess that the input looks tokenised.
            return BLEU(tokenize=rules.tokenize, lowercase=rules.lowercase, force=True)
        except (RuntimeError, ImportError, OSError) as error:
            raise ConfigError(
                f"evaluation.tokenize={rules.tokenize} cannot be had here",
                details=[line for line in (_REMEDIES.get(rules.tokenize),) if line],
            ) from error
    if name == "chrf":
        return CHRF(lowercase=rules.lowercase)
    if name == "ter":
        asian = rules.tokenize in ("zh", "ja-mecab")
        return TER(normalized=asian, asian_support=asian)
    raise ValueError(f"sacrebleu has no metric {name!r} here: bleu, chrf or ter")


def require_tokenizer(rules: EvaluationConfig) -> None:
    """Raises ConfigError if BLEU's tokenizer needs what is not installed."""
    sacrebleu_metric("bleu", rules)


def tokens(lines: Sequence[str], rules: EvaluationConfig) -> list[list[str]]:
    """Lower-cased lines cut by BLEU's tokenizer."""
    cut = _bleu_tokenizer(rules)
    return [cut(line.lower()).split() for line in lines]


def ngram_signature(rules: EvaluationConfig) -> str:
    """How the tokens of the n-gram metrics are made."""
    return f"tok:{_bleu_tokenizer(rules).signature()}|case:lc|shares:pooled"


@functools.cache  # some read a model file
def _bleu_tokenizer(rules: EvaluationConfig) -> Any:
    return sacrebleu_metric("bleu", rules).tokenizer


def _share(sums: np.ndarray) -> float:
    return float(sums[0] / sums[1]) if sums[1] else 0.0


def _sacrebleu(
    name: str, hypotheses: Sequence[str], references: Sequence[Sequence[str]], rules: Any
) -> LineStatistics:
    measure = sacrebleu_metric(name, rules)
    # sacrebleu's own bootstrap is built on these two methods; tests hold them to its program.
    table = np.array(
        measure._extract_corpus_statistics(list(hypotheses), as_streams(references)),
        dtype=np.float64,
    )
    integral = name != "ter"

    def score(sums: np.ndarray) -> float:
        numbers = [round(value) for value in sums] if integral else list(sums)
        return float(measure._compute_score_from_stats(numbers).score)

    key = "signature" if name == "bleu" else f"{name}_signature"
    return LineStatistics(table, score, str(measure.get_signature()), key)


def _exact_match(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], rules: EvaluationConfig
) -> LineStatistics:
    case = str.lower if rules.lowercase else str
    pairs = zip(hypotheses, references, strict=True)
    hits = [case(line) in [case(text) for text in several] for line, several in pairs]
    return LineStatistics(np.array([[float(hit), 1.0] for hit in hits]), _share)


def _rouge(
    names: Sequence[str],
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    rules: EvaluationConfig,
) -> dict[str, LineStatistics]:
    settings: dict[str, Any] = {"stemmer": rules.rouge_stemmer, "tokenize": rules.rouge_tokenize}
    counts = {len(several) for several in references}
    said = rouge.signature(str(counts.pop()) if len(counts) == 1 else "var", **settings)
    f1 = rouge.rouge_f1(hypotheses, references, metrics=names, **settings)
    return {
        name: LineStatistics(
            np.stack([f1[name], np.ones(len(hypotheses))], axis=1),
            lambda sums: 100.0 * _share(sums),
            said,
            "rouge_signature",
        )
        for name in names
    }


def _ngrams(
    name: str,
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    sources: Sequence[str] | None,
    rules: EvaluationConfig,
) -> LineStatistics:
    answers = tokens(hypotheses, rules)
    if name == "length_ratio":
        counts = ngrams.length_counts(answers, [tokens(several, rules) for several in references])
    elif name in COPYING_METRICS:
        if sources is None or len(sources) != len(hypotheses):
            raise ValueError(f"{name} needs the source of each of {len(hypotheses)} hypotheses")
        count = ngrams.novel_counts if name.startswith("novel") else ngrams.copied_counts
        counts = count(answers, tokens(sources, rules), int(name[-1]))
    elif name.startswith("repetition"):
        counts = ngrams.repetition_counts(answers, int(name[-1]))
    else:
        raise ValueError(f"no sum over lines gives the metric {name!r}")
    return LineStatistics(counts, _share, ngram_signature(rules), "ngram_signature")
