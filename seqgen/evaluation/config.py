"""What is measured during training, and how text is compared."""

import dataclasses
from collections.abc import Iterable

from seqgen.errors import refuse
from seqgen.types import nearest, option

METRICS = ("bleu", "chrf", "ter", "exact_match")  # in every report of `seqgen evaluate`
ROUGE_METRICS = ("rouge1", "rouge2", "rougeL", "rougeLsum")
NGRAM_SIZES = (1, 2, 3, 4)
COPYING_METRICS = tuple(f"{kind}{n}" for kind in ("copied", "novel") for n in NGRAM_SIZES)
DISTINCT_METRICS = ("distinct1", "distinct2")
NGRAM_METRICS = (
    *COPYING_METRICS,
    *(f"repetition{n}" for n in NGRAM_SIZES),
    *DISTINCT_METRICS,
    "length_ratio",
)
ALL_METRICS = (*METRICS, *ROUGE_METRICS, *NGRAM_METRICS)
COMPARED_METRICS = (*METRICS, *ROUGE_METRICS)  # of two values one is the better
BLEU_TOKENIZERS = (
    *("13a", "intl", "char", "none", "zh"),
    *("ja-mecab", "ko-mecab", "flores101", "flores200"),
)
ROUGE_TOKENIZERS = ("ascii", "unicode", "char")


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """In-loop evaluation, and the scoring rules that every verb shares."""

    split: str = option("val", help="split evaluated during training")
    max_examples: int = option(
        0, help="evaluate on the first so many examples during training; 0 = all", minimum=0
    )
    metrics: tuple[str, ...] = option(
        ("bleu", "chrf", "exact_match"),
        help="scores of decoded text during training, and what `seqgen evaluate` reports beside "
        "bleu, chrf, ter and exact_match; () decodes only the samples; `module:name` is a function "
        "(hypotheses, references) -> float",
        choices=ALL_METRICS,
        open_choices=True,
    )
    num_beams: int = option(1, help="beams of in-loop decoding", minimum=1, maximum=256)
    num_samples: int = option(
        2, help="sentences shown at each evaluation, always the same", minimum=0, maximum=1000
    )
    tokenize: str = option(
        "13a",
        help="sacrebleu's tokenizer for BLEU and for the n-gram metrics: zh for Chinese, ja-mecab "
        "and ko-mecab with their packages, char for other unsegmented text",
        choices=BLEU_TOKENIZERS,
    )
    lowercase: bool = option(False, help="compare lower-cased text")
    rouge_stemmer: bool = option(True, help="ROUGE compares English words by their Porter stems")
    rouge_tokenize: str = option(
        "ascii",
        help="ROUGE's words, lower-cased: of a-z and 0-9 as rouge-score's own, of the letters and "
        "digits of every script, or single characters",
        choices=ROUGE_TOKENIZERS,
    )


def check_metrics(names: Iterable[str], *, option: str) -> None:
    """Refuse a metric that is none of `ALL_METRICS` and no `module:name`.

    Raises:
      ConfigError: it names the nearest; `option` is where the names come from.
    """
    for name in names:
        if name not in ALL_METRICS and ":" not in name:
            guess = nearest(name, ALL_METRICS)
            refuse(
                f"bad {option}: {name}",
                *([("did you mean", guess)] if guess else []),
                ("it takes", f"{', '.join(ALL_METRICS)} or module:name"),
            )


def score_name(metric: str) -> str:
    """What the score of a metric is called: 'bleu' for 'bleu', 'f1' for 'my.metrics:f1'."""
    return metric.rpartition(":")[2]
