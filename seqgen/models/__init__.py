"""Architectures: recurrent and Transformer encoders and decoders, their union, either alone."""

from typing import Any

from seqgen.models.causal_lm import CausalLM
from seqgen.models.checks import check_model
from seqgen.models.config import ModelConfig, NoDecoderConfig, NoEncoderConfig
from seqgen.models.copying import CopyingEncoderDecoder
from seqgen.models.encoder_decoder import EncoderDecoder
from seqgen.models.labelled import DecoderLabeller, EncoderLabeller
from seqgen.models.masked_lm import MaskedLM
from seqgen.nn.parameters import Definition

__all__ = ["ModelConfig", "build_model", "check_model"]


def build_model(
    config: ModelConfig,
    *,
    source_vocab_size: int,
    target_vocab_size: int,
    compute_dtype: str = "float32",
) -> Definition:
    """The definition of the model that `config` describes, without parameters.

    Raises:
      ConfigError: if the config contradicts itself or the vocabularies (`check_model`).
    """
    model: Any = CopyingEncoderDecoder if config.copies else EncoderDecoder
    if config.tells_labels:
        alone = isinstance(config.encoder, NoEncoderConfig)
        model = DecoderLabeller if alone else EncoderLabeller
    elif isinstance(config.decoder, NoDecoderConfig):
        model = MaskedLM
    elif isinstance(config.encoder, NoEncoderConfig):
        model = CausalLM
    return Definition(
        lambda rngs: model(
            config,
            source_vocab_size=source_vocab_size,
            target_vocab_size=target_vocab_size,
            compute_dtype=compute_dtype,
            rngs=rngs,
        )
    )
