"""What one field may be depends on another: checks over a whole experiment.

Types and ranges of single fields are checked where values are converted; here stand the rules
between fields. An error is what cannot work or would be ignored in silence; a note is what works
and is probably not meant.
"""

from typing import Any

from seqgen.data.config import CONTIGUOUS, SOURCE_NAMES
from seqgen.errors import ConfigError, labelled
from seqgen.evaluation.config import score_name
from seqgen.models.checks import check_model
from seqgen.types import nearest

LOSS_METRICS = ("loss", "perplexity", "token_accuracy")
TEXT_METRICS = (*LOSS_METRICS, "bits_per_byte", "bits_per_char")  # of text without sources


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
    _check_dialogue(cfg)
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
    if cfg.model.encoder.kind != "none":
        _refuse(
            f"model.encoder.kind={cfg.model.encoder.kind} has nothing to read: the data is text "
            "without sources",
            now,
            ("choose", "model.encoder.kind=none"),
        )
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
            ("measured are", ", ".join(TEXT_METRICS)),
            ("choose", "evaluation.metrics=()"),
        )


def _check_dialogue(cfg: Any) -> None:
    data = cfg.data
    if data.source != "dialogue":
        for field in ("speakers", "reply_speaker", "system_line"):
            value = getattr(data, field)
            if value != getattr(type(data), field) and data.source in SOURCE_NAMES:
                _refuse(f"data.{field}={value!r} is for data.source=dialogue, not {data.source}")
        return
    if not data.speakers or len(set(data.speakers)) < len(data.speakers):
        _refuse(f"data.speakers={','.join(data.speakers)!r}: name every speaker, each once")
    if data.reply_speaker and data.reply_speaker not in data.speakers:
        _refuse(
            f"data.reply_speaker={data.reply_speaker} is not one of data.speakers",
            ("they are", ", ".join(data.speakers)),
        )
    if not cfg.tokenizer.joint:
        _refuse("dialogues have one vocabulary", ("choose", "tokenizer.joint=true"))
    if cfg.decode.max_source_length < data.max_source_len:
        _refuse(
            f"decode.max_source_length={cfg.decode.max_source_length} would cut histories anywhere",
            ("shorten by turns", f"data.max_source_len={data.max_source_len} and less"),
        )


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
    names = TEXT_METRICS if cfg.data.contiguous else (*LOSS_METRICS, *scores)
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
