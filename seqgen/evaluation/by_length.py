"""Scores apart by the length of the source: in words, or in characters where there are no words."""

import itertools
import re
from collections.abc import Sequence
from typing import Any

from seqgen.evaluation.config import EvaluationConfig
from seqgen.evaluation.references import References
from seqgen.evaluation.scores import corpus_scores

# Scripts written without spaces between words: Thai, Lao, Myanmar, Khmer, kana, Han.
_UNSEGMENTED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\U00020000-\U0003ffff]"
)


def length_unit(lines: Sequence[str]) -> str:
    """'characters' if most of the text is in a script that puts no spaces between words, else
    'words'.
    """
    text = "".join(lines)
    signs = sum(character.isalnum() for character in text)
    return "characters" if 2 * len(_UNSEGMENTED.findall(text)) > signs else "words"


def scores_by_length(
    sources: Sequence[str],
    hypotheses: Sequence[str],
    references: References,
    *,
    edges: Sequence[int] = (),
    num_groups: int = 5,
    rules: EvaluationConfig = EvaluationConfig(),  # noqa: B008 (it is frozen)
) -> list[dict[str, Any]]:
    """One row for each group of examples whose sources are alike in length.

    Args:
      sources: their words (runs of non-blank characters) are counted, or their non-blank
        characters: see `length_unit`.
      hypotheses: as many lines.
      references: as many items.
      edges: first length of each group after the first; () = about equally many examples in each
        of `num_groups`.
      num_groups: see `edges`.
      rules: how text is compared.

    Returns:
      Rows {'min_words', 'max_words' (lengths that occur; 'min_characters', 'max_characters' for
      unsegmented sources), 'examples', 'bleu', 'chrf', 'exact_match'}; groups without examples are
      left out.
    """
    unit = length_unit(sources)
    words = [source.split() for source in sources]
    lengths = [len(parts) if unit == "words" else sum(map(len, parts)) for parts in words]
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
            rules=rules,
        )
        inside = [lengths[index] for index in members]
        rows.append(
            {
                f"min_{unit}": min(inside),
                f"max_{unit}": max(inside),
                "examples": len(members),
                **{name: scores[name] for name in ("bleu", "chrf", "exact_match")},
            }
        )
    return rows
