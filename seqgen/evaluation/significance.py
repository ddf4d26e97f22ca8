"""Is one system better than another? Paired bootstrap resampling (Koehn 2004, EMNLP, "Statistical
Significance Tests for Machine Translation Evaluation").

Sentences are drawn with replacement, the same ones for both systems, and the corpus score of each
draw is computed from sums of per-sentence statistics by sacrebleu's own formulas, so the score of
the undrawn corpus is exactly sacrebleu's.
"""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from seqgen.evaluation.scores import sacrebleu_metric


@dataclasses.dataclass(frozen=True)
class Interval:
    """A score and the middle 95 % of its bootstrap draws."""

    score: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Comparison:
    """The outcome of a paired bootstrap.

    Attributes:
      metric: 'bleu', 'chrf', 'ter' or 'exact_match' (a fraction).
      signature: sacrebleu's, or ''.
      a: the first system.
      b: the second system.
      difference: B minus A.
      p_value: two-sided: twice the share of draws in which the sign of the difference turns (at
        least one draw is counted, so that it is never 0).
      num_draws: bootstrap draws.
      num_examples: sentences.
    """

    metric: str
    signature: str
    a: Interval
    b: Interval
    difference: Interval
    p_value: float
    num_draws: int
    num_examples: int

    @property
    def is_real(self) -> bool:
        """Whether the 95 % interval of the difference leaves out zero."""
        return self.difference.low > 0 or self.difference.high < 0


def paired_bootstrap(
    hypotheses_a: Sequence[str],
    hypotheses_b: Sequence[str],
    references: Sequence[str],
    *,
    metric: str = "bleu",
    num_draws: int = 1000,
    seed: int = 0,
    tokenize: str = "13a",
    lowercase: bool = False,
) -> Comparison:
    """Compare two systems on the same sentences.

    Raises:
      ValueError: if the numbers of lines differ or are zero.
    """
    if not len(hypotheses_a) == len(hypotheses_b) == len(references) > 0:
        raise ValueError(
            f"{len(hypotheses_a)} and {len(hypotheses_b)} hypotheses, {len(references)} references"
        )
    signature, (stats_a, stats_b), score = _statistics(
        metric, (hypotheses_a, hypotheses_b), references, tokenize=tokenize, lowercase=lowercase
    )
    count = len(references)
    rng = np.random.default_rng(seed)
    scores = np.empty((2, num_draws))
    for draw in range(num_draws):
        times = rng.multinomial(count, np.full(count, 1.0 / count)).astype(np.float64)
        scores[0, draw] = score(times @ stats_a)
        scores[1, draw] = score(times @ stats_b)
    exact = [score(stats.sum(axis=0)) for stats in (stats_a, stats_b)]
    differences = scores[1] - scores[0]
    observed = exact[1] - exact[0]
    turned = np.sum(differences <= 0) if observed > 0 else np.sum(differences >= 0)
    return Comparison(
        metric=metric,
        signature=signature,
        a=_interval(exact[0], scores[0]),
        b=_interval(exact[1], scores[1]),
        difference=_interval(observed, differences),
        p_value=float(min(1.0, 2 * max(int(turned), 1) / num_draws)),
        num_draws=num_draws,
        num_examples=count,
    )


def _interval(score: float, draws: np.ndarray) -> Interval:
    low, high = np.quantile(draws, [0.025, 0.975])
    return Interval(float(score), float(low), float(high))


def _statistics(
    metric: str,
    systems: Sequence[Sequence[str]],
    references: Sequence[str],
    *,
    tokenize: str,
    lowercase: bool,
) -> tuple[str, list[np.ndarray], Callable[[np.ndarray], float]]:
    """Signature, [sentences, statistics] of each system, and the score of summed statistics."""
    if metric == "exact_match":

        def hits(hypotheses: Sequence[str]) -> np.ndarray:
            pairs = zip(hypotheses, references, strict=True)
            equal = [h.lower() == r.lower() if lowercase else h == r for h, r in pairs]
            return np.array([[float(hit), 1.0] for hit in equal])

        return "", [hits(system) for system in systems], lambda sums: sums[0] / sums[1]

    measure = sacrebleu_metric(metric, tokenize=tokenize, lowercase=lowercase)
    # sacrebleu's own bootstrap is built on these two methods; a test holds them to corpus_score.
    tables = [
        np.array(
            measure._extract_corpus_statistics(list(system), [list(references)]), dtype=np.float64
        )
        for system in systems
    ]
    measure.corpus_score(list(systems[0]), [list(references)])  # the signature wants one reference
    integral = metric != "ter"

    def score(sums: np.ndarray) -> float:
        numbers = [round(value) for value in sums] if integral else list(sums)
        return float(measure._compute_score_from_stats(numbers).score)

    return str(measure.get_signature()), tables, score


def verdict(comparison: Comparison, *, name_a: str = "A", name_b: str = "B") -> str:
    """One plain sentence: which system is better, and whether that can be told."""
    gap = comparison.difference.score
    lower_is_better = comparison.metric == "ter"
    better = name_b if (gap < 0) == lower_is_better and gap != 0 else name_a
    span = f"95 % interval {comparison.difference.low:+.2f}..{comparison.difference.high:+.2f}"
    if gap == 0 or not comparison.is_real:
        return (
            f"no real difference: {name_b} minus {name_a} is {gap:+.2f} {comparison.metric} "
            f"({span}, p = {comparison.p_value:.3f}); chance explains it"
        )
    return (
        f"{better} is better: {name_b} minus {name_a} is {gap:+.2f} {comparison.metric} "
        f"({span}, p = {comparison.p_value:.3f})"
    )
