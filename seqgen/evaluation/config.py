"""What is measured during training, and how text is compared."""

import dataclasses

from seqgen.types import option

METRICS = ("bleu", "chrf", "ter", "exact_match")
BLEU_TOKENIZERS = ("13a", "intl", "char", "none", "zh")


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """In-loop evaluation, and the scoring rules that every verb shares."""

    split: str = option("val", help="split evaluated during training")
    max_examples: int = option(
        0, help="evaluate on the first so many examples during training; 0 = all", minimum=0
    )
    metrics: tuple[str, ...] = option(
        ("bleu", "chrf", "exact_match"),
        help="scores of decoded text during training; () decodes only the samples; `module:name` "
        "is a function (hypotheses, references) -> float",
        choices=METRICS,
        open_choices=True,
    )
    num_beams: int = option(1, help="beams of in-loop decoding", minimum=1, maximum=256)
    num_samples: int = option(
        2, help="sentences shown at each evaluation, always the same", minimum=0, maximum=1000
    )
    tokenize: str = option("13a", help="sacrebleu's tokenizer for BLEU", choices=BLEU_TOKENIZERS)
    lowercase: bool = option(False, help="compare lower-cased text")


def score_name(metric: str) -> str:
    """What the score of a metric is called: 'bleu' for 'bleu', 'f1' for 'my.metrics:f1'."""
    return metric.rpartition(":")[2]
