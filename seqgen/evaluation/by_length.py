"""Scores apart by the length of the source, in words."""

import itertools
from collections.abc import Sequence
from typing import Any

from seqgen.evaluation.scores import corpus_scores


def scores_by_length(
    sources: Sequence[str],
    hypotheses: Sequence[str],
    references: Sequence[str],
    *,
    edges: Sequence[int] = (),
    num_groups: int = 5,
    tokenize: str = "13a",
    lowercase: bool = False,
) -> list[dict[str, Any]]:
    """One row for each group of examples whose sources are alike in length.

    Args:
      sources: their words (runs of non-blank characters) are counted.
      hypotheses: as many lines.
      references: as many lines.
      edges: first length of each group after the first; () = about equally many examples in each
        of `num_groups`.
      num_groups: see `edges`.
      tokenize: sacrebleu's tokenizer for BLEU.
      lowercase: compare lower-cased text.

    Returns:
      Rows {'min_words', 'max_words' (lengths that occur), 'examples', 'bleu', 'chrf',
      'exact_match'}; groups without examples are left out.
    """
    lengths = [len(source.split()) for source in sources]
    if not edges:
        ordered = sorted(lengths)
        edges = sorted({ordered[len(ordered) * i // num_groups] for i in range(1, num_groups)})
    limits = [-1, *sorted(edges), max(lengths, default=0) + 1]
    rows = []
    for low, high in itertools.pairwise(limits):
        members = [index for index, length in enumerate(lengths) if low <= length < high]
        if not members:
            continue
        scores = corpus_scores(
            [hypotheses[index] for index in members],
            [references[index] for index in members],
            metrics=("bleu", "chrf", "exact_match"),
            tokenize=tokenize,
            lowercase=lowercase,
        )
        inside = [lengths[index] for index in members]
        rows.append(
            {
                "min_words": min(inside),
                "max_words": max(inside),
                "examples": len(members),
                **{name: scores[name] for name in ("bleu", "chrf", "exact_match")},
            }
        )
    return rows
