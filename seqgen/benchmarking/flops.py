"""Model FLOPs: the arithmetic that a model needs, whatever a program makes of it.

A matrix of P numbers costs 2 P operations for every vector that it multiplies, forward; the
backward pass costs twice as much again, so that training costs 6 P a token (Kaplan et al., "Scaling
laws for neural language models", 2020, section 2.1; Chowdhery et al., "PaLM", 2022, appendix B).
Which vectors those are differs here between the matrices of one model:

    encoder, keys and values of the source         B * S        source tokens
    first decoder states (`bridge`)                B            sentences
    decoder, output layer                          B * K * T    target tokens of all beams
    input embeddings                               0            a lookup

Without an encoder the source stands in the decoder's rows: B * S + B * K * T vectors pass through.

Attention adds, for the scores and for the weighted sum of D wide values, 4 D for each pair of
positions (self-attention: all pairs, the masked ones too, as in PaLM's formula). Additive attention
adds 2 D for the weighted sum only: its scores are elementwise work. Nothing elementwise (gates,
softmax, norms, the optimiser) is counted, like in `training.compilation.count_flops`.
"""

import math

from seqgen.models import ModelConfig
from seqgen.models.checks import encoded_dims
from seqgen.models.config import (
    NoDecoderConfig,
    NoEncoderConfig,
    RecurrentDecoderConfig,
    TransformerEncoderConfig,
)
from seqgen.training.state import flatten
from seqgen.types import Params

BACKWARD = 2  # times the forward pass
KERNELS = ("kernel", "recurrent_kernel")
PER_SOURCE_TOKEN = ("cross_attention/key", "cross_attention/value", "decoder/attention/key")


def forward_flops(
    config: ModelConfig,
    abstract: Params,
    *,
    batch: int,
    source_len: int,
    target_len: int,
    beams: int = 1,
) -> int:
    """Operations of one pass over `batch` sentences.

    Args:
      config: the model.
      abstract: shapes of its parameters (`Definition.abstract`).
      batch: B, sentences.
      source_len: S, tokens of each source.
      target_len: T, tokens of each target.
      beams: K, hypotheses a sentence; 1 in training.
    """
    assert not isinstance(config.decoder, NoDecoderConfig), "counts models that write targets"
    source, target = batch * source_len, batch * beams * target_len
    total = 0
    for path, leaf in flatten(abstract).items():
        total += 2 * math.prod(leaf.shape) * _vectors(path, config, batch, source, target)
    width = config.embed_dim
    if isinstance(config.encoder, TransformerEncoderConfig):
        total += config.encoder.num_layers * 4 * source * source_len * width
    if isinstance(config.decoder, RecurrentDecoderConfig):
        memory = encoded_dims(config.encoder, width).memory
        if config.decoder.attention == "bahdanau":
            total += 2 * target * source_len * memory
        elif config.decoder.attention != "none":
            total += 4 * target * source_len * memory
    else:
        queries = target + (source if isinstance(config.encoder, NoEncoderConfig) else 0)
        pairs = queries * (target_len + source_len)
        total += config.decoder.num_layers * 4 * pairs * width
    return total


def training_flops(
    config: ModelConfig, abstract: Params, *, batch: int, source_len: int, target_len: int
) -> int:
    """Operations of one training step: forward, and twice that backward."""
    return (1 + BACKWARD) * forward_flops(
        config, abstract, batch=batch, source_len=source_len, target_len=target_len
    )


def _vectors(path: str, config: ModelConfig, batch: int, source: int, target: int) -> int:
    """How many vectors the parameter at `path` multiplies."""
    tied = config.tie_embeddings != "none"
    if path == ("target_embedding/table" if tied else "output/table"):
        return target
    if path.rsplit("/", 1)[-1] not in KERNELS:
        return 0
    if path.startswith("decoder/bridge/"):
        return batch
    if path.startswith("encoder/") or any(name in path for name in PER_SOURCE_TOKEN):
        return source
    return target + (source if isinstance(config.encoder, NoEncoderConfig) else 0)
