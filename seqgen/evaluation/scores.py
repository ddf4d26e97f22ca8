"""Scores of text against references: sacrebleu's BLEU, chrF and TER, and exact match.

All take plain (detokenised) text, one hypothesis and one reference a line.
"""

import functools
from collections.abc import Sequence
from typing import Any

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.ter import TER

from seqgen.errors import ConfigError
from seqgen.evaluation.config import METRICS, score_name
from seqgen.types import load_component


def sacrebleu_metric(name: str, *, tokenize: str = "13a", lowercase: bool = False) -> Any:
    """The object for 'bleu' (Papineni et al. 2002), 'chrf' (Popovic 2015) or 'ter' (Snover et al.
    2006), with sacrebleu's own defaults: TER ignores case.
    """
    if name == "bleu":
        # `force` only silences the guess that the input looks tokenised.
        return BLEU(tokenize=tokenize, lowercase=lowercase, force=True)
    if name == "chrf":
        return CHRF(lowercase=lowercase)
    if name == "ter":
        return TER()
    raise ValueError(f"sacrebleu has no metric {name!r} here: bleu, chrf or ter")


def corpus_scores(
    hypotheses: Sequence[str],
    references: Sequence[str],
    *,
    metrics: Sequence[str] = METRICS,
    tokenize: str = "13a",
    lowercase: bool = False,
) -> dict[str, Any]:
    """Scores over the whole corpus.

    Args:
      hypotheses: one line an example.
      references: as many lines.
      metrics: which of 'bleu', 'chrf', 'ter', 'exact_match'; or `module:name` of a function of a
        user's own, `(hypotheses, references) -> float`, whose score is called `name`.
      tokenize: sacrebleu's tokenizer for BLEU.
      lowercase: lower-case both sides (BLEU, chrF and exact match).

    Returns:
      {'bleu': 0..100, 'chrf': 0..100, 'ter': 0.., 'exact_match': 0..1} as asked for, and the
      sacrebleu signatures: 'signature' (BLEU's), 'chrf_signature', 'ter_signature'.

    Raises:
      ValueError: if there are no lines, or unlike numbers of them.
    """
    if len(hypotheses) != len(references) or not references:
        raise ValueError(f"{len(hypotheses)} hypotheses for {len(references)} references")
    scores: dict[str, Any] = {}
    signatures: dict[str, str] = {}
    for name in metrics:
        if name == "exact_match":
            scores[name] = exact_match(hypotheses, references, lowercase=lowercase)
            continue
        if name not in METRICS:
            builtins: dict[str, Any] = dict.fromkeys(METRICS)
            measure = load_component(name, builtins, what="metric")
            scores[score_name(name)] = float(measure(list(hypotheses), list(references)))
            continue
        metric = sacrebleu_metric(name, tokenize=tokenize, lowercase=lowercase)
        scores[name] = float(metric.corpus_score(list(hypotheses), [list(references)]).score)
        key = "signature" if name == "bleu" else f"{name}_signature"
        signatures[key] = str(metric.get_signature())
    return scores | signatures


def exact_match(
    hypotheses: Sequence[str], references: Sequence[str], *, lowercase: bool = False
) -> float:
    """Share of hypotheses that equal their reference, character for character."""
    pairs = zip(hypotheses, references, strict=True)
    hits = [h.lower() == r.lower() if lowercase else h == r for h, r in pairs]
    return sum(hits) / len(hits)


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
    hypotheses: Sequence[str], references: Sequence[str], *, lang: str
) -> dict[str, dict[str, Any]]:
    """BLEU under the three customs in which Multi30k figures are published.

    Returns:
      'moses_lowercase' (Moses tokens, lower-cased, tokenize=none), '13a_lowercase' and '13a_cased',
      each {'bleu': ..., 'signature': ...}.
    """
    moses = [moses_lowercase(lines, lang) for lines in (hypotheses, references)]
    plain = [hypotheses, references]
    return {
        "moses_lowercase": corpus_scores(*moses, metrics=("bleu",), tokenize="none"),
        "13a_lowercase": corpus_scores(*plain, metrics=("bleu",), lowercase=True),
        "13a_cased": corpus_scores(*plain, metrics=("bleu",)),
    }
