"""The sample that all samples agree with most: minimum-Bayes-risk choice by chrF."""

import collections
from collections.abc import Sequence

from seqgen.evaluation.scores import sacrebleu_metric


def expected_scores(samples: Sequence[str]) -> list[float]:
    """Mean sentence chrF (0..100) of each sample against all samples, itself included.

    The Monte Carlo estimate of expected utility (Eikema and Aziz 2020, arXiv:2005.10283, section 5)
    with chrF (Popovic 2015) of sacrebleu's default orders. Equal texts are compared once.

    Args:
      samples: answers to one line, each drawn from the model.
    """
    metric = sacrebleu_metric("chrf")
    counts = collections.Counter(samples)
    means = {
        text: sum(
            count * metric.sentence_score(text, [other]).score for other, count in counts.items()
        )
        / len(samples)
        for text in counts
    }
    return [means[text] for text in samples]


def choose(samples: Sequence[str]) -> int:
    """Place of the sample of highest expected chrF (Kumar and Byrne 2004); ties to the first.

    Raises:
      ValueError: if there are no samples.
    """
    if not samples:
        raise ValueError("no samples to choose from")
    scores = expected_scores(samples)
    return max(range(len(scores)), key=scores.__getitem__)
