"""What a pre-training objective needs of the model, and what it would leave unread."""

from typing import Any

from seqgen.data.config import NUM_SENTINELS, OF_DECODERS_ALONE
from seqgen.errors import refuse


def check_objective(cfg: Any) -> None:
    """Refuse what an objective cannot be learnt by.

    Args:
      cfg: a `seqgen.config.Config`.

    Raises:
      ConfigError: the first contradiction, with the fields concerned and what to change.
    """
    objective, decoder = cfg.data.objective, cfg.model.decoder
    name = objective.name
    readers = {
        "rate": ("masked", "span_corruption", "denoising"),
        "mean_span_length": ("span_corruption", "denoising"),
        "unit": ("masked",),
        "pairs": ("masked",),
    }
    for field, names in readers.items():
        value = getattr(objective, field)
        if value != getattr(type(objective), field) and name not in names:
            refuse(
                f"data.objective.{field}={value} would be ignored by data.objective.name={name}",
                ("it is read by", ", ".join(names)),
            )
    _check_prefix(cfg)
    if name == "causal":
        return
    now = ("now", f"model.encoder.kind={cfg.model.encoder.kind}, decoder.kind={decoder.kind}")
    if not cfg.data.contiguous:
        refuse(
            f"data.objective.name={name} is learnt of text without sources",
            ("choose", "data.source=plain_text, data.batching=blocks"),
        )
    if (decoder.kind == "none") != (name == "masked"):
        wanted = "an encoder alone: decoder.kind=none" if name == "masked" else "a decoder"
        refuse(f"data.objective.name={name} needs {wanted}", now)
    if cfg.model.encoder.kind == "none" and name not in OF_DECODERS_ALONE:
        alone = [("or", "data.objective.name=prefix_lm: a decoder alone")]
        refuse(f"data.objective.name={name} needs an encoder", now, *(alone * (name == "prefix")))
    if name == "masked":
        pairs = objective.pairs != "none"
        if pairs != decoder.next_sentence:
            refuse(
                f"data.objective.pairs={objective.pairs}, and model.decoder.next_sentence="
                f"{str(decoder.next_sentence).lower()}",
                ("choose", f"model.decoder.next_sentence={str(pairs).lower()}"),
                ("or", f"data.objective.pairs={'none' if pairs else 'next_sentence'}"),
            )
        if pairs and decoder.num_token_types < 2:
            refuse("pairs need model.decoder.num_token_types=2")
    if not objective.rate:
        _check_pairs_alone(objective)
    smallest = 8
    if cfg.data.block_len < smallest:
        refuse(f"data.block_len={cfg.data.block_len} is too short: at least {smallest}")
    if name == "span_corruption":
        spans = cfg.data.block_len * objective.rate / objective.mean_span_length
        if spans > NUM_SENTINELS - 1:
            refuse(
                f"a row of data.block_len={cfg.data.block_len} would have {spans:.0f} spans, and "
                f"there are {NUM_SENTINELS} sentinels",
                ("either", "lower data.block_len or data.objective.rate"),
                ("or", "raise data.objective.mean_span_length"),
            )


def _check_pairs_alone(objective: Any) -> None:
    """A rate of 0: pairs are all that is told."""
    if objective.name != "masked" or objective.pairs == "none":
        refuse(
            "data.objective.rate=0 leaves nothing to tell",
            ("either", "a rate above 0"),
            ("or", "name=masked with pairs=next_sentence or sentence_order: pairs alone"),
        )
    if objective.unit != type(objective).unit:
        refuse(f"data.objective.unit={objective.unit} would be ignored: data.objective.rate=0")


def _check_prefix(cfg: Any) -> None:
    """Rows that begin with a prefix: whether it sees all of itself, in training and after."""
    encoder, objective = cfg.model.encoder, cfg.data.objective.name
    if encoder.kind != "none":
        return
    full = encoder.prefix_attention == "full"
    if objective == "prefix_lm" and cfg.model.decoder.kind == "transformer" and not full:
        refuse(
            "data.objective.name=prefix_lm is of prefixes that see all of themselves",
            ("choose", "model.encoder.prefix_attention=full"),
        )
    prefixed = encoder.source_prefix and not cfg.data.contiguous
    if full and not prefixed and objective != "prefix_lm":
        refuse(
            "model.encoder.prefix_attention=full, and training shows no prefix",
            ("either", "data.objective.name=prefix_lm, of plain text"),
            ("or", "model.encoder.source_prefix=true, of pairs"),
        )
