"""Scores of text against references: sacrebleu's BLEU, chrF and TER, exact match, ROUGE, and what
n-grams tell of answers.

All take plain (detokenised) text, one hypothesis and one or several references a line.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from seqgen.errors import ConfigError
from seqgen.evaluation import ngrams
from seqgen.evaluation.config import (
    ALL_METRICS,
    DISTINCT_METRICS,
    METRICS,
    EvaluationConfig,
    score_name,
)
from seqgen.evaluation.line_statistics import (
    LineStatistics,
    line_statistics,
    ngram_signature,
    tokens,
)
from seqgen.evaluation.references import References, as_lists
from seqgen.types import load_component


def corpus_scores(
    hypotheses: Sequence[str],
    references: References,
    *,
    sources: Sequence[str] | None = None,
    metrics: Sequence[str] = METRICS,
    rules: EvaluationConfig = EvaluationConfig(),  # noqa: B008 (it is frozen)
) -> dict[str, Any]:
    """Scores over the whole corpus.

    Args:
      hypotheses: one line an example.
      references: as many items, each a text or a list of texts.
      sources: as many lines; copied1..4 and novel1..4 need them.
      metrics: names of `ALL_METRICS`; or `module:name` of a function of a user's own,
        `(hypotheses, references) -> float`, whose score is called `name`. It is given lists of
        texts as references where a line has several.
      rules: how text is compared.

    Returns:
      {'bleu': 0..100, 'chrf': 0..100, 'ter': 0.., 'exact_match': 0..1, 'rouge1'..: 0..100 (mean
      F1 of the lines), the n-gram metrics: 0..1 ('length_ratio': 0..)} as asked for, and what was
      measured how: 'signature' (BLEU's), 'chrf_signature', 'ter_signature', 'rouge_signature',
      'ngram_signature'.

    Raises:
      ValueError: if there are no lines, or unlike numbers of them.
    """
    return measured_scores(hypotheses, references, sources=sources, metrics=metrics, rules=rules)[0]


def measured_scores(
    hypotheses: Sequence[str],
    references: References,
    *,
    sources: Sequence[str] | None = None,
    metrics: Sequence[str] = METRICS,
    rules: EvaluationConfig = EvaluationConfig(),  # noqa: B008
) -> tuple[dict[str, Any], Mapping[str, LineStatistics]]:
    """`corpus_scores`, and the statistics of the metrics that are sums over lines."""
    if len(hypotheses) != len(references) or not references:
        raise ValueError(f"{len(hypotheses)} hypotheses for {len(references)} references")
    lists = as_lists(references)
    summed = [name for name in metrics if name in ALL_METRICS and name not in DISTINCT_METRICS]
    statistics = line_statistics(summed, hypotheses, lists, sources=sources, rules=rules)
    scores: dict[str, Any] = {}
    signatures: dict[str, str] = {}
    for name in metrics:
        if name in statistics:
            one = statistics[name]
            scores[name] = one.total
            signatures |= {one.signature_name: one.signature} if one.signature else {}
        elif name in DISTINCT_METRICS:
            scores[name] = ngrams.distinct(tokens(hypotheses, rules), int(name[-1]))
            signatures["ngram_signature"] = ngram_signature(rules)
        else:
            builtins: dict[str, Any] = dict.fromkeys(ALL_METRICS)
            measure = load_component(name, builtins, what="metric")
            several = any(len(item) > 1 for item in lists)
            given = lists if several else [item[0] for item in lists]
            scores[score_name(name)] = float(measure(list(hypotheses), given))
    return scores | signatures, statistics


def moses_lowercase(lines: Sequence[str], lang: str) -> list[str]:
    """Lines lower-cased and tokenised as by the Moses scripts, for BLEU with tokenize='none'.

    Raises:
      ConfigError: if sacremoses is not installed.
    """
    tokenizer = _moses_tokenizer(lang)
    return [tokenizer.tokenize(line.lower(), return_str=True, escape=False) for line in lines]


def require_moses() -> None:
    """Raises ConfigError if the optional package sacremoses is missing."""
    _moses_tokenizer("en")


@functools.cache
def _moses_tokenizer(lang: str) -> Any:
    try:
        from sacremoses import MosesTokenizer  # an optional extra
    except ImportError as error:
        raise ConfigError(
            "Moses tokenisation needs the package sacremoses",
            details=["install it     pip install -e '.[moses]'  (in the checkout)"],
        ) from error
    return MosesTokenizer(lang=lang)


def bleu_three_ways(
    hypotheses: Sequence[str], references: References, *, lang: str
) -> dict[str, dict[str, Any]]:
    """BLEU under the three customs in which Multi30k figures are published.

    Returns:
      'moses_lowercase' (Moses tokens, lower-cased, tokenize=none), '13a_lowercase' and '13a_cased',
      each {'bleu': ..., 'signature': ...}.
    """
    lists = as_lists(references)
    moses = moses_lowercase(hypotheses, lang), [moses_lowercase(item, lang) for item in lists]
    customs = {
        "moses_lowercase": (moses, EvaluationConfig(tokenize="none")),
        "13a_lowercase": ((hypotheses, lists), EvaluationConfig(lowercase=True)),
        "13a_cased": ((hypotheses, lists), EvaluationConfig()),
    }
    return {
        name: corpus_scores(*lines, metrics=("bleu",), rules=rules)
        for name, (lines, rules) in customs.items()
    }
