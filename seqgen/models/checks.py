"""What one field of a model may be depends on another: the rules between them, in one place.

A whole experiment is checked against them before any data is read, with the sizes known by then;
building a model checks again, with the vocabularies and with encoders of the user's own.
"""

from typing import Any, NoReturn

from seqgen.errors import refuse
from seqgen.models.config import (
    EncodedDims,
    ModelConfig,
    NoDecoderConfig,
    NoEncoderConfig,
    RecurrentDecoderConfig,
    RecurrentEncoderConfig,
    TransformerDecoderConfig,
    TransformerEncoderConfig,
)
from seqgen.models.transformer_checks import check_stack
from seqgen.nn.linear_recurrence import LinearCell
from seqgen.nn.recurrent import build_cell


def check_model(
    config: ModelConfig,
    *,
    source_vocab_size: int | None = None,
    target_vocab_size: int | None = None,
    max_source_len: int = 0,
    max_target_len: int = 0,
    block_len: int = 0,
    labelled_len: int = 0,
) -> None:
    """Refuse an architecture that cannot be built; sizes that are not known yet are left out.

    Raises:
      ConfigError: heads that do not divide the width, shared embeddings of unequal vocabularies,
        odd widths under sinusoidal or rotary positions, lengths beyond a learned position table,
        options that the chosen positions would ignore, a recurrent decoder that does not fit its
        encoder, or reads one where there is none; a copying decoder without anything to copy from,
        or with a vocabulary of its own; neither encoder nor decoder.
    """
    encoder, longest_row = config.encoder, ("data.max_target_len", max_target_len)
    if isinstance(config.decoder, NoDecoderConfig):
        _check_no_decoder(config)
    elif isinstance(encoder, NoEncoderConfig):
        _check_no_encoder(config, source_vocab_size, target_vocab_size)
        if encoder.source_prefix:
            both = max_source_len + max_target_len
            longest_row = ("data.max_source_len + data.max_target_len", both)
    elif config.tie_embeddings == "all" and source_vocab_size != target_vocab_size:
        refuse(
            "model.tie_embeddings=all needs one joint vocabulary",
            ("source", f"{source_vocab_size} tokens"),
            ("target", f"{target_vocab_size} tokens"),
            ("either", "tokenizer.joint=true, or model.tie_embeddings=target_output"),
        )
    if config.source_token_types:
        _check_source_types(config)
    _check_copying(config, source_vocab_size, target_vocab_size)
    longest_source = ("data.max_source_len", max_source_len)
    if block_len:
        longest_source = longest_row = ("data.block_len", block_len)
    if config.tells_labels:
        _check_head(config)
        longest_source = longest_row = ("data.max_source_len + 1", labelled_len)
    for side, part, longest in (
        ("encoder", encoder, longest_source),
        ("decoder", config.decoder, longest_row),
    ):
        if isinstance(part, TransformerEncoderConfig | TransformerDecoderConfig):
            check_stack(f"model.{side}", part, config.embed_dim, longest)
    if isinstance(config.decoder, RecurrentDecoderConfig):
        own = ":" in encoder.kind  # the user's class: its widths show when it is built
        dims = None if own else encoded_dims(encoder, config.embed_dim)
        check_recurrent_decoder(config.decoder, dims)


def _check_copying(config: ModelConfig, source_vocab: Any, target_vocab: Any) -> None:
    decoder = config.decoder
    if isinstance(decoder, NoDecoderConfig):
        return
    if decoder.coverage and not decoder.copy:
        refuse(
            "model.decoder.coverage=true is for decoders that copy",
            ("choose", "model.decoder.copy=true, or coverage=false"),
        )
    if not decoder.copy:
        return
    if isinstance(config.encoder, NoEncoderConfig):
        refuse(
            "model.decoder.copy=true copies what an encoder read, and model.encoder.kind=none",
            ("choose", "an encoder, such as model.encoder.kind=transformer"),
        )
    if isinstance(decoder, RecurrentDecoderConfig) and decoder.attention == "none":
        refuse(
            "model.decoder.copy=true copies what is attended to, and model.decoder.attention=none",
            ("choose", "model.decoder.attention=bahdanau, luong_dot or luong_general"),
        )
    if source_vocab != target_vocab:
        refuse(
            "model.decoder.copy=true needs one joint vocabulary",
            ("source", f"{source_vocab} tokens"),
            ("target", f"{target_vocab} tokens"),
            ("choose", "tokenizer.joint=true"),
        )


def check_reads_sources(config: ModelConfig) -> None:
    """Refuse a model that has no place for the sources of the data it would be trained on.

    What tells labels reads its texts in any one stack.

    Raises:
      ConfigError: it has no encoder, and its rows hold no sources either; or it has no decoder.
    """
    if config.tells_labels:
        return
    if isinstance(config.decoder, NoDecoderConfig):
        refuse(
            "model.decoder.kind=none: a masked language model has no place for pairs",
            ("choose", "a decoder, such as model.decoder.kind=transformer"),
            ("or", "text without sources: data.source=plain_text, data.objective.name=masked"),
        )
    if isinstance(config.encoder, NoEncoderConfig) and not config.encoder.source_prefix:
        refuse(
            "model.encoder.kind=none: a language model has no place for the sources of pairs",
            ("either", "model.encoder.source_prefix=true puts source and target into one row"),
            ("or", "choose an encoder, such as model.encoder.kind=transformer"),
            ("or", "data for language models: text without sources (data.source=plain_text)"),
        )


def check_carries_state(decoder: Any) -> None:
    """Refuse a decoder module whose state does not go on from batch to batch.

    Raises:
      ConfigError: it has no `init_carry`.
    """
    if not hasattr(decoder, "init_carry"):
        refuse_stateless(type(decoder).__name__)


def check_weighs(decoder: Any) -> None:
    """Refuse a decoder module that does not say what it attends to, for models that copy that.

    Raises:
      ConfigError: it has no `read_and_weigh`.
    """
    if not hasattr(decoder, "read_and_weigh"):
        refuse(
            "model.decoder.copy=true copies what is attended to, and "
            f"{type(decoder).__name__} does not tell that",
            ("either", "give it the method read_and_weigh (see models/base.py)"),
            ("or", "model.decoder.copy=false"),
        )


def refuse_stateless(decoder: str) -> NoReturn:
    """Refuse streams for a decoder that has no state to carry.

    Raises:
      ConfigError: always.
    """
    refuse(
        f"data.batching=streams carries a recurrent state from batch to batch, and {decoder} has "
        "none",
        ("either", "data.batching=blocks: rows that stand for themselves"),
        ("or", "a recurrent decoder, such as model.decoder.kind=lstm"),
    )


def _check_no_encoder(config: ModelConfig, source_vocab: Any, target_vocab: Any) -> None:
    if config.tie_embeddings == "all":
        refuse(
            "model.tie_embeddings=all shares the encoder's embedding, and there is no encoder",
            ("choose", "model.tie_embeddings=target_output, or none"),
        )
    assert isinstance(config.encoder, NoEncoderConfig)
    if config.encoder.source_prefix and source_vocab != target_vocab:
        refuse(
            "model.encoder.source_prefix=true needs one joint vocabulary",
            ("source", f"{source_vocab} tokens"),
            ("target", f"{target_vocab} tokens"),
            ("choose", "tokenizer.joint=true"),
        )


def _check_no_decoder(config: ModelConfig) -> None:
    if isinstance(config.encoder, NoEncoderConfig):
        refuse(
            "model.encoder.kind=none and model.decoder.kind=none: there is no model left",
            ("either", "model.encoder.kind=transformer: a masked language model"),
            ("or", "model.decoder.kind=transformer: a causal one"),
        )
    if config.tie_embeddings == "all":
        refuse(
            "model.tie_embeddings=all shares the decoder's embedding, and there is no decoder",
            ("choose", "model.tie_embeddings=target_output, or none"),
        )


def _check_head(config: ModelConfig) -> None:
    both = not isinstance(config.decoder, NoDecoderConfig)
    if both and not isinstance(config.encoder, NoEncoderConfig):
        refuse(
            f"model.head.kind={config.head.kind} stands above one stack, and there are two",
            ("either", "model.decoder.kind=none: an encoder alone"),
            ("or", "model.encoder.kind=none: a decoder alone"),
        )
    if getattr(config.encoder, "source_prefix", False):
        refuse(
            f"model.head.kind={config.head.kind} reads one text a row, and "
            "model.encoder.source_prefix=true is for two",
            ("choose", "model.encoder.source_prefix=false"),
        )


def _check_source_types(config: ModelConfig) -> None:
    types = f"model.source_token_types={config.source_token_types}"
    if isinstance(config.decoder, NoDecoderConfig):
        refuse(
            f"{types} is for encoder-decoders",
            ("choose", "model.decoder.num_token_types, that of masked language models"),
        )
    if isinstance(config.encoder, NoEncoderConfig):
        refuse(f"{types} is read by an encoder", ("now", "model.encoder.kind=none"))


def encoded_dims(
    encoder: TransformerEncoderConfig | RecurrentEncoderConfig | NoEncoderConfig, embed_dim: int
) -> EncodedDims:
    """The widths of what an encoder of this package gives its decoder; 0 without an encoder."""
    if isinstance(encoder, NoEncoderConfig):
        return EncodedDims(memory=0, summary=0)
    if isinstance(encoder, TransformerEncoderConfig):
        return EncodedDims(memory=embed_dim, summary=embed_dim)
    width = encoder.hidden_dim * (2 if encoder.bidirectional else 1)
    return EncodedDims(
        memory=width,
        summary=width,
        states=(width,) * encoder.num_layers,
        has_cell=has_cell_state(encoder),
    )


def has_cell_state(cfg: RecurrentEncoderConfig | RecurrentDecoderConfig) -> bool:
    """Whether the recurrent cell keeps a cell state beside its hidden state, as LSTM and SRU do."""
    return "c" in build_cell(cfg.cell or cfg.kind).states


def check_recurrent_decoder(decoder: RecurrentDecoderConfig, encoded: EncodedDims | None) -> None:
    """Refuse options that exclude each other or do not fit the encoder (None = not known).

    Raises:
      ConfigError: the first of them.
    """
    cell = build_cell(decoder.cell or decoder.kind)
    if decoder.weight_dropout_rate and isinstance(cell, LinearCell):
        refuse(
            f"model.decoder.weight_dropout_rate={decoder.weight_dropout_rate:g} drops weights of "
            "recurrent kernels, and this cell has none",
            ("now", f"model.decoder.kind={decoder.kind}"),
            ("choose", "model.decoder.weight_dropout_rate=0, or kind simple, lstm or gru"),
        )
    if encoded is not None and not encoded.memory:
        _check_decoder_alone(decoder)
        return
    if decoder.attention == "none" and decoder.input_feeding:
        refuse(
            "model.decoder.input_feeding feeds the attentional state back, but there is none",
            ("either", "choose model.decoder.attention, or input_feeding=false"),
            ("perhaps", "context_every_step=true: the encoder's summary at every step"),
        )
    if decoder.attention != "none" and decoder.context_every_step:
        refuse(
            "model.decoder.context_every_step is for decoders without attention",
            ("now", f"model.decoder.attention={decoder.attention}"),
        )
    if decoder.attention == "none" and decoder.bridge == "zero" and not decoder.context_every_step:
        refuse(
            "nothing of the source reaches the decoder",
            ("now", "model.decoder.attention=none, bridge=zero, context_every_step=false"),
            ("choose", "bridge=dense, context_every_step=true, or an attention"),
        )
    if encoded is None:
        return
    if decoder.attention == "luong_dot" and encoded.memory != decoder.hidden_dim:
        refuse(
            "model.decoder.attention=luong_dot needs states as wide as the encoder's memory",
            ("encoder", f"memory {encoded.memory} wide"),
            ("decoder", f"model.decoder.hidden_dim={decoder.hidden_dim}"),
            ("or", "model.decoder.attention=luong_general, which fits any widths"),
        )
    if decoder.bridge == "copy":
        _check_copy_bridge(decoder, encoded)


def _check_decoder_alone(decoder: RecurrentDecoderConfig) -> None:
    without = {
        "attention": "none",
        "input_feeding": False,
        "bridge": "zero",
        "context_every_step": False,
    }
    given = {name: getattr(decoder, name) for name in without}
    wrong = [name for name, value in without.items() if given[name] != value]
    if wrong:
        refuse(
            "model.decoder reads an encoder, and model.encoder.kind=none",
            ("now", ", ".join(f"{name}={_typed(given[name])}" for name in wrong)),
            ("choose", ", ".join(f"model.decoder.{n}={_typed(without[n])}" for n in wrong)),
        )


def _typed(value: Any) -> str:
    return str(value).lower()


def _check_copy_bridge(decoder: RecurrentDecoderConfig, encoded: EncodedDims) -> None:
    if not encoded.states:
        refuse(
            "model.decoder.bridge=copy needs a recurrent encoder: a Transformer has no last state",
            ("choose", "model.decoder.bridge=dense or zero"),
        )
    if encoded.states != (decoder.hidden_dim,) * decoder.num_layers:
        width = encoded.states[0]
        refuse(
            "model.decoder.bridge=copy needs the same layers and widths on both sides",
            ("encoder", f"{len(encoded.states)} layers, states {width} wide (both directions)"),
            ("decoder", f"{decoder.num_layers} layers, {decoder.hidden_dim} wide"),
            ("or", "model.decoder.bridge=dense, which fits any sizes"),
        )
    if has_cell_state(decoder) != encoded.has_cell:
        sides = ("encoder", "decoder") if encoded.has_cell else ("decoder", "encoder")
        refuse(
            "model.decoder.bridge=copy: lstm, sru and ssru have a cell state, other cells none",
            ("now", "the {} has one, the {} has none".format(*sides)),
            ("choose", "the same kind on both sides, or model.decoder.bridge=dense"),
        )
