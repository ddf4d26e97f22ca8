"""What one field may be depends on another: checks over a whole experiment.

Types and ranges of single fields are checked where values are converted; here stand the rules
between fields. An error is what cannot work or would be ignored in silence; a note is what works
and is probably not meant.
"""

from typing import Any

from seqgen.config_conversion import labelled
from seqgen.errors import ConfigError
from seqgen.evaluation.config import score_name
from seqgen.types import nearest

LOSS_METRICS = ("loss", "perplexity", "token_accuracy")


def check(cfg: Any) -> None:
    """Refuse settings that contradict each other.

    Args:
      cfg: a `seqgen.config.Config`.

    Raises:
      ConfigError: the first contradiction, with the fields concerned and what to change.
    """
    _check_transformer("encoder", cfg.model.encoder, cfg, cfg.data.max_source_len)
    _check_transformer("decoder", cfg.model.decoder, cfg, cfg.data.max_target_len)
    _check_recurrent_decoder(cfg.model)
    _check_text(cfg)
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


def _check_transformer(name: str, part: Any, cfg: Any, longest: int) -> None:
    if part.kind != "transformer":
        return
    where, width = f"model.{name}", cfg.model.embed_dim
    if width % part.num_heads:
        _refuse(
            f"{where}.num_heads={part.num_heads} does not divide model.embed_dim={width}",
            ("choose", f"one of {', '.join(map(str, _divisors(width)))}"),
        )
    groups = part.num_kv_heads
    if groups is not None and part.num_heads % groups:
        _refuse(
            f"{where}.num_kv_heads={groups} does not divide {where}.num_heads={part.num_heads}",
            ("choose", f"one of {', '.join(map(str, _divisors(part.num_heads)))}, or none"),
        )
    if part.positions == "rotary" and (width // part.num_heads) % 2:
        _refuse(
            f"rotary positions need an even head width, not {width // part.num_heads}",
            ("head width", f"model.embed_dim={width} / {where}.num_heads={part.num_heads}"),
        )
    if part.positions == "sinusoidal" and width % 2:
        _refuse(f"sinusoidal positions need an even model.embed_dim, not {width}")
    if part.positions == "learned" and part.max_positions < longest:
        field = "max_source_len" if name == "encoder" else "max_target_len"
        _refuse(
            f"{where}.max_positions={part.max_positions} is less than data.{field}={longest}",
            ("either", f"raise {where}.max_positions, or lower data.{field}"),
            ("or", f"{where}.positions=sinusoidal, which has no limit"),
        )


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, min(number, 128) + 1) if number % d == 0]


def _check_recurrent_decoder(model: Any) -> None:
    decoder, encoder = model.decoder, model.encoder
    if decoder.kind == "transformer":
        return
    if decoder.attention == "none" and decoder.input_feeding:
        _refuse(
            "model.decoder.input_feeding feeds the attentional state back, but there is none",
            ("either", "choose model.decoder.attention, or input_feeding=false"),
            ("perhaps", "context_every_step=true: the encoder's summary at every step"),
        )
    if decoder.attention != "none" and decoder.context_every_step:
        _refuse(
            "model.decoder.context_every_step is for decoders without attention",
            ("now", f"model.decoder.attention={decoder.attention}"),
        )
    memory = model.embed_dim
    if encoder.kind != "transformer":
        memory = encoder.hidden_dim * (2 if encoder.bidirectional else 1)
    if decoder.attention == "luong_dot" and memory != decoder.hidden_dim:
        _refuse(
            "model.decoder.attention=luong_dot needs states as wide as the encoder's memory",
            ("encoder", f"memory {memory} wide"),
            ("decoder", f"model.decoder.hidden_dim={decoder.hidden_dim}"),
            ("or", "model.decoder.attention=luong_general, which fits any widths"),
        )
    if decoder.bridge == "copy":
        _check_copy_bridge(encoder, decoder)


def _check_copy_bridge(encoder: Any, decoder: Any) -> None:
    if encoder.kind == "transformer":
        _refuse(
            "model.decoder.bridge=copy needs a recurrent encoder: a Transformer has no last state",
            ("choose", "model.decoder.bridge=dense or zero"),
        )
    width = encoder.hidden_dim * (2 if encoder.bidirectional else 1)
    if width != decoder.hidden_dim or encoder.num_layers != decoder.num_layers:
        _refuse(
            "model.decoder.bridge=copy needs the same layers and widths on both sides",
            ("encoder", f"{encoder.num_layers} layers, states {width} wide (both directions)"),
            ("decoder", f"{decoder.num_layers} layers, {decoder.hidden_dim} wide"),
            ("or", "model.decoder.bridge=dense, which fits any sizes"),
        )
    if (decoder.kind == "lstm") != (encoder.kind == "lstm"):
        _refuse(
            "model.decoder.bridge=copy: an LSTM has a cell state, other cells have none",
            ("now", f"{encoder.kind} encoder, {decoder.kind} decoder"),
            ("choose", "the same kind on both sides, or model.decoder.bridge=dense"),
        )


def _check_text(cfg: Any) -> None:
    data, tokenizer = cfg.data, cfg.tokenizer
    kinds = {"encoder": cfg.model.encoder.kind, "decoder": cfg.model.decoder.kind}
    recurrent = [
        f"model.{name}.kind={kind}" for name, kind in kinds.items() if kind != "transformer"
    ]
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
    decode = cfg.decode
    if decode.max_length and decode.min_length >= decode.max_length:
        _refuse(
            f"decode.min_length={decode.min_length} leaves no room below "
            f"decode.max_length={decode.max_length}"
        )


def _check_optimizer(optimizer: Any) -> None:
    readers = {"weight_decay": ("adamw", "adafactor"), "momentum": ("sgd",)}
    for field, names in readers.items():
        value = getattr(optimizer, field)
        if value and optimizer.name not in names and ":" not in optimizer.name:
            _refuse(
                f"optimizer.{field}={value:g} would be ignored by optimizer.name={optimizer.name}",
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
    if train.patience and not train.eval_every_steps:
        _refuse("train.patience counts evaluations, and train.eval_every_steps=0 makes none")
    known = [f"eval/{name}" for name in (*LOSS_METRICS, *map(score_name, cfg.evaluation.metrics))]
    if train.best_metric not in known:
        guess = nearest(train.best_metric, known)
        details = [("did you mean", guess)] if guess else []
        _refuse(
            f"train.best_metric={train.best_metric} is measured by no evaluation",
            *details,
            ("measured are", ", ".join(known)),
            ("scores: set", "evaluation.metrics"),
        )
