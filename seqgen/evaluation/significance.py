"""Is one system better than another? Paired bootstrap resampling (Koehn 2004, EMNLP, "Statistical
Significance Tests for Machine Translation Evaluation").

Sentences are drawn with replacement, the same ones for both systems, and the corpus score of each
draw is computed from sums of per-sentence statistics (`line_statistics`) by the metric's own
formula, so the score of the undrawn corpus is exactly the reported one.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from seqgen.evaluation.config import EvaluationConfig
from seqgen.evaluation.line_statistics import LineStatistics, line_statistics
from seqgen.evaluation.references import References, as_lists

NUM_DRAWS = 1000


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
      metric: one of `COMPARED_METRICS`; 'exact_match' is a fraction, the others are out of 100.
      signature: the metric's settings, or ''.
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
    references: References,
    *,
    metric: str = "bleu",
    num_draws: int = NUM_DRAWS,
    seed: int = 0,
    rules: EvaluationConfig = EvaluationConfig(),  # noqa: B008 (it is frozen)
) -> Comparison:
    """Compare two systems on the same sentences, with one or several references each.

    Raises:
      ValueError: if the numbers of lines differ or are zero.
    """
    if not len(hypotheses_a) == len(hypotheses_b) == len(references) > 0:
        raise ValueError(
            f"{len(hypotheses_a)} and {len(hypotheses_b)} hypotheses, {len(references)} references"
        )
    lists = as_lists(references)
    systems = [
        line_statistics((metric,), lines, lists, rules=rules)[metric]
        for lines in (hypotheses_a, hypotheses_b)
    ]
    scores = np.empty((2, num_draws))
    for draw, times in enumerate(_draws(len(references), num_draws=num_draws, seed=seed)):
        scores[:, draw] = [system.score(times @ system.table) for system in systems]
    exact = [system.total for system in systems]
    differences = scores[1] - scores[0]
    observed = exact[1] - exact[0]
    turned = np.sum(differences <= 0) if observed > 0 else np.sum(differences >= 0)
    return Comparison(
        metric=metric,
        signature=systems[0].signature,
        a=_interval(exact[0], scores[0]),
        b=_interval(exact[1], scores[1]),
        difference=_interval(observed, differences),
        p_value=float(min(1.0, 2 * max(int(turned), 1) / num_draws)),
        num_draws=num_draws,
        num_examples=len(references),
    )


def intervals(
    statistics: Mapping[str, LineStatistics], *, num_draws: int = NUM_DRAWS, seed: int = 0
) -> dict[str, Interval]:
    """The bootstrap interval of each metric's score, by the same draws for all.

    Lines stand for the texts that might have been asked; another training of the model, which
    usually differs by more, is not in it.
    """
    counts = {len(one.table) for one in statistics.values()}
    if not counts:
        return {}
    (count,) = counts
    scores = {name: np.empty(num_draws) for name in statistics}
    for draw, times in enumerate(_draws(count, num_draws=num_draws, seed=seed)):
        for name, one in statistics.items():
            scores[name][draw] = one.score(times @ one.table)
    return {name: _interval(one.total, scores[name]) for name, one in statistics.items()}


def _draws(count: int, *, num_draws: int, seed: int) -> Iterator[np.ndarray]:
    """How often each of `count` lines is drawn, float64 [count], `num_draws` times."""
    rng = np.random.default_rng(seed)
    shares = np.full(count, 1.0 / count)
    for _ in range(num_draws):
        yield rng.multinomial(count, shares).astype(np.float64)


def _interval(score: float, draws: np.ndarray) -> Interval:
    low, high = np.quantile(draws, [0.025, 0.975])
    return Interval(float(score), float(low), float(high))


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
