"""What one field may be depends on another: checks over a whole experiment.

Types and ranges of single fields are checked where values are converted; here stand the rules
between fields. An error is what cannot work or would be ignored in silence; a note is what works
and is probably not meant.
"""

from typing import Any

from seqgen.data.config import CONTIGUOUS, NUM_SENTINELS, OBJECTIVES, SOURCE_NAMES
from seqgen.errors import ConfigError, labelled
from seqgen.evaluation.config import score_name
from seqgen.models.checks import check_model
from seqgen.types import nearest

LOSS_METRICS = ("loss", "perplexity", "token_accuracy")
TEXT_METRICS = (*LOSS_METRICS, "bits_per_byte", "bits_per_char")  # of text without sources
PAIR_METRICS = ("next_sentence_loss", "next_sentence_accuracy")


def check(cfg: Any) -> None:
    """Refuse settings that contradict each other.

    Args:
      cfg: a `seqgen.config.Config`.

    Raises:
      ConfigError: the first contradiction, with the fields concerned and what to change.
    """
    check_model(
        cfg.model,
        max_source_len=cfg.data.max_source_len,
        max_target_len=cfg.data.max_target_len,
        block_len=cfg.data.block_len if cfg.data.contiguous else 0,
    )
    _check_text(cfg)
    _check_contiguous(cfg)
    _check_objective(cfg)
    _check_optimizer(cfg.optimizer)
    _check_loop(cfg)


def notes(cfg: Any) -> list[str]:
    """Lines about settings that work and are probably not meant."""
    lines = []
    steps, warmup = cfg.train.num_steps, cfg.optimizer.warmup_steps
    if warmup > steps:
        lines.append(
            f"optimizer.warmup_steps={warmup} is longer than train.num_steps={steps}: the learning "
            "rate never reaches its top"
        )
    if cfg.optimizer.schedule in ("inverse_sqrt", "noam") and not warmup:
        lines.append(
            f"optimizer.schedule={cfg.optimizer.schedule} falls from the first update on: "
            "optimizer.warmup_steps=0"
        )
    tensor, fsdp = cfg.mesh.tensor, cfg.mesh.fsdp
    for name in ("encoder", "decoder"):
        part = getattr(cfg.model, name)
        for field in ("num_heads", "ff_dim", "hidden_dim"):
            size = getattr(part, field, None)
            if size is not None and size % tensor:
                lines.append(
                    f"model.{name}.{field}={size} is no multiple of mesh.tensor={tensor}: those "
                    "arrays stay whole on each device"
                )
    if cfg.model.embed_dim % fsdp:
        lines.append(
            f"model.embed_dim={cfg.model.embed_dim} is no multiple of mesh.fsdp={fsdp}: parameters "
            "stay whole on each device"
        )
    return lines


def _refuse(cause: str, *details: tuple[str, str]) -> None:
    raise ConfigError(cause, details=[labelled(label, text) for label, text in details])


def _check_text(cfg: Any) -> None:
    data, tokenizer = cfg.data, cfg.tokenizer
    kinds = {"encoder": cfg.model.encoder.kind, "decoder": cfg.model.decoder.kind}
    others = ("transformer", "none")
    recurrent = [f"model.{name}.kind={kind}" for name, kind in kinds.items() if kind not in others]
    has_prefix = getattr(cfg.model.encoder, "source_prefix", False)
    if data.batching == "packing" and has_prefix:
        _refuse(
            "model.encoder.source_prefix=true makes one row of each pair: packing has no place",
            ("choose", "data.batching=buckets"),
        )
    if has_prefix and not tokenizer.joint:
        _refuse(
            "model.encoder.source_prefix=true needs one vocabulary for both sides",
            ("choose", "tokenizer.joint=true"),
        )
    if data.batching == "packing" and recurrent:
        _refuse(
            "packing is for Transformers: a recurrent state would run from one pair into the next",
            ("now", ", ".join(recurrent)),
            ("choose", "data.batching=buckets"),
        )
    if cfg.model.tie_embeddings == "all" and not tokenizer.joint:
        _refuse(
            "model.tie_embeddings=all needs one vocabulary for both sides",
            ("either", "tokenizer.joint=true, or model.tie_embeddings=target_output"),
        )
    if tokenizer.kind == "given" and not tokenizer.path:
        _refuse(
            "tokenizer.kind=given needs tokenizer.path, a SentencePiece .model file",
            ("or", "tokenizer.kind=bpe trains one on the corpus"),
        )
    if tokenizer.sampling_alpha and tokenizer.kind not in ("bpe", "unigram", "given"):
        _refuse(
            f"tokenizer.sampling_alpha has no meaning for tokenizer.kind={tokenizer.kind}",
            ("choose", "tokenizer.sampling_alpha=0, or kind bpe or unigram"),
        )
    if data.min_length > data.max_length:
        _refuse(f"data.min_length={data.min_length} is above data.max_length={data.max_length}")


def _check_contiguous(cfg: Any) -> None:
    """Text without sources: what it needs, and what it would leave unread."""
    data, mesh = cfg.data, cfg.mesh
    if data.source == "plain_text" and not data.contiguous:
        _refuse(
            f"data.batching={data.batching} is for pairs, and data.source=plain_text has none",
            ("choose", f"data.batching={' or '.join(CONTIGUOUS)}"),
        )
    if not data.contiguous:
        return
    now = ("now", f"data.batching={data.batching}")
    if data.source in SOURCE_NAMES and data.source != "plain_text":
        _refuse(
            f"data.source={data.source} gives pairs, and {now[1]} is for text without sources",
            ("choose", "data.batching=buckets or packing"),
        )
    if cfg.model.encoder.kind != "none" and data.objective.name == "causal":
        _refuse(
            f"model.encoder.kind={cfg.model.encoder.kind} has nothing to read: the data is text "
            "without sources",
            now,
            ("choose", "model.encoder.kind=none"),
            ("or", f"data.objective.name={' or '.join(OBJECTIVES[1:])}"),
        )
    if data.streams:
        _check_streams(cfg)
    if not cfg.tokenizer.joint:
        _refuse("text without sources has one vocabulary", ("choose", "tokenizer.joint=true"))
    if cfg.tokenizer.sampling_alpha:
        _refuse("tokenizer.sampling_alpha is for pairs: text without sources is cut once", now)
    if data.num_rows % (mesh.data * mesh.fsdp):
        _refuse(
            f"data.num_rows={data.num_rows} does not divide over mesh.data * mesh.fsdp = "
            f"{mesh.data * mesh.fsdp} devices"
        )
    if cfg.evaluation.metrics not in ((), type(cfg.evaluation).metrics):
        _refuse(
            "evaluation.metrics compares answers with references: text without sources has none",
            ("measured are", ", ".join(_text_metrics(cfg))),
            ("choose", "evaluation.metrics=()"),
        )


def _check_streams(cfg: Any) -> None:
    """State that goes on from batch to batch: who has one, and what would tear it."""
    if cfg.model.decoder.kind == "transformer":
        _refuse(
            "data.batching=streams carries a recurrent state from batch to batch, and "
            "model.decoder.kind=transformer has none",
            ("either", "data.batching=blocks"),
            ("or", "a recurrent decoder, such as model.decoder.kind=lstm"),
        )
    if cfg.train.accumulation_steps > 1:
        _refuse(
            "data.batching=streams makes an update of every batch",
            ("now", f"train.accumulation_steps={cfg.train.accumulation_steps}"),
            ("choose", "train.accumulation_steps=1, and a larger data.num_rows"),
        )


def _check_objective(cfg: Any) -> None:
    """What a pre-training objective needs of the model, and what it would leave unread."""
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
            _refuse(
                f"data.objective.{field}={value} would be ignored by data.objective.name={name}",
                ("it is read by", ", ".join(names)),
            )
    if name == "causal":
        return
    now = ("now", f"model.encoder.kind={cfg.model.encoder.kind}, decoder.kind={decoder.kind}")
    if not cfg.data.contiguous:
        _refuse(
            f"data.objective.name={name} is learnt of text without sources",
            ("choose", "data.source=plain_text, data.batching=blocks"),
        )
    if (decoder.kind == "none") != (name == "masked"):
        wanted = "an encoder alone: decoder.kind=none" if name == "masked" else "a decoder"
        _refuse(f"data.objective.name={name} needs {wanted}", now)
    if cfg.model.encoder.kind == "none":
        _refuse(f"data.objective.name={name} needs an encoder", now)
    if name == "masked":
        pairs = objective.pairs != "none"
        if pairs != decoder.next_sentence:
            _refuse(
                f"data.objective.pairs={objective.pairs}, and model.decoder.next_sentence="
                f"{str(decoder.next_sentence).lower()}",
                ("choose", f"model.decoder.next_sentence={str(pairs).lower()}"),
                ("or", f"data.objective.pairs={'none' if pairs else 'next_sentence'}"),
            )
        if pairs and decoder.num_token_types < 2:
            _refuse("pairs need model.decoder.num_token_types=2")
    smallest = 8
    if cfg.data.block_len < smallest:
        _refuse(f"data.block_len={cfg.data.block_len} is too short: at least {smallest}")
    if name == "span_corruption":
        spans = cfg.data.block_len * objective.rate / objective.mean_span_length
        if spans > NUM_SENTINELS - 1:
            _refuse(
                f"a row of data.block_len={cfg.data.block_len} would have {spans:.0f} spans, and "
                f"there are {NUM_SENTINELS} sentinels",
                ("either", "lower data.block_len or data.objective.rate"),
                ("or", "raise data.objective.mean_span_length"),
            )


def _text_metrics(cfg: Any) -> tuple[str, ...]:
    """What evaluations measure of text without sources."""
    objective = cfg.data.objective
    if objective.name == "causal":
        return TEXT_METRICS
    return LOSS_METRICS + (PAIR_METRICS if objective.pairs != "none" else ())


def _check_optimizer(optimizer: Any) -> None:
    adam = ("adam", "adamw")
    falling = ("cosine", "linear")
    readers = {
        "weight_decay": ("name", ("adamw", "adafactor")),
        "momentum": ("name", ("sgd",)),
        **dict.fromkeys(("b1", "b2", "eps"), ("name", adam)),
        **dict.fromkeys(("decay_steps", "final_learning_rate_fraction"), ("schedule", falling)),
    }
    for field, (chooser, names) in readers.items():
        value, chosen = getattr(optimizer, field), getattr(optimizer, chooser)
        if value != getattr(type(optimizer), field) and chosen not in names and ":" not in chosen:
            _refuse(
                f"optimizer.{field}={value:g} would be ignored by optimizer.{chooser}={chosen}",
                ("it is read by", ", ".join(names)),
            )
    if 0 < optimizer.decay_steps <= optimizer.warmup_steps:
        _refuse(
            f"optimizer.decay_steps={optimizer.decay_steps} ends the schedule before its "
            f"warm-up does (optimizer.warmup_steps={optimizer.warmup_steps})"
        )


def _check_loop(cfg: Any) -> None:
    train = cfg.train
    if train.teacher_forcing_rate < 1.0 and cfg.model.decoder.kind == "transformer":
        _refuse(
            f"train.teacher_forcing_rate={train.teacher_forcing_rate:g} is for recurrent decoders",
            ("now", "model.decoder.kind=transformer"),
        )
    if train.teacher_forcing_rate < 1.0 and getattr(cfg.model.encoder, "source_prefix", False):
        _refuse(
            f"train.teacher_forcing_rate={train.teacher_forcing_rate:g} would exchange tokens of "
            "the source, too",
            ("now", "model.encoder.source_prefix=true"),
        )
    if train.patience and not train.eval_every_steps:
        _refuse("train.patience counts evaluations, and train.eval_every_steps=0 makes none")
    scores = map(score_name, cfg.evaluation.metrics)
    names = _text_metrics(cfg) if cfg.data.contiguous else (*LOSS_METRICS, *scores)
    known = [f"eval/{name}" for name in names]
    if train.best_metric not in known:
        guess = nearest(train.best_metric, known)
        details = [("did you mean", guess)] if guess else []
        _refuse(
            f"train.best_metric={train.best_metric} is measured by no evaluation",
            *details,
            ("measured are", ", ".join(known)),
            *([] if cfg.data.contiguous else [("scores: set", "evaluation.metrics")]),
        )
