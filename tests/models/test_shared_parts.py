"""The parts of the model families are the same functions of the same parameters."""

import dataclasses

import jax
import numpy as np
import pytest

from seqgen.errors import ConfigError
from seqgen.models import ModelConfig, build_model
from seqgen.models.config import (
    NoDecoderConfig,
    NoEncoderConfig,
    RecurrentDecoderConfig,
    RecurrentEncoderConfig,
    TransformerDecoderConfig,
    TransformerEncoderConfig,
)
from seqgen.types import Batch, Sequences

VOCAB, DIM = 19, 16
STACK = {"num_layers": 2, "num_heads": 4, "ff_dim": 12, "positions": "learned", "max_positions": 9}
ENCODERS = {
    "transformer": TransformerEncoderConfig(**STACK, activation="gelu", norm_epsilon=1e-12),
    "pre_norm": TransformerEncoderConfig(**STACK, norm_position="pre"),
    "lstm": RecurrentEncoderConfig(num_layers=2, hidden_dim=8),
}


def model(encoder, decoder, **options):
    options = {"scale_embeddings": False, **options}
    config = ModelConfig(embed_dim=DIM, encoder=encoder, decoder=decoder, **options)
    definition = build_model(config, source_vocab_size=VOCAB, target_vocab_size=VOCAB)
    noise = np.random.default_rng(3)

    def draw(leaf):
        return noise.normal(size=leaf.shape, scale=0.3).astype(leaf.dtype)

    return definition, jax.tree.map(draw, definition.abstract)


def rows(width=6):
    lengths = np.array([6, 4, 1])[:, None]
    real = (np.arange(width)[None] < lengths).astype(np.int32)
    ids = np.random.default_rng(0).integers(4, VOCAB, (3, width)).astype(np.int32)
    return Sequences(ids * real, real, np.arange(width, dtype=np.int32) * real)


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_reads_sources_as_a_masked_language_model_does(name):
    masked, theirs = model(ENCODERS[name], NoDecoderConfig())
    decoder = TransformerDecoderConfig(**{**STACK, "num_layers": 1})
    both, ours = model(ENCODERS[name], decoder, source_token_types=2)
    shared = {part: theirs[part] for part in ("encoder", "token_types", "embedding_norm")}
    ours |= {**shared, "source_embedding": theirs["embedding"]}
    text = rows()
    types = np.zeros_like(text.ids)
    expected = jax.jit(lambda params: masked.bind(params).encode(text, types).memory)(theirs)
    found = jax.jit(lambda params: both.bind(params).encode(text).memory)(ours)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.abs(np.asarray(expected)).max() > 0.1


@pytest.mark.parametrize("norm_position", ["pre", "post"])
def test_a_decoder_whose_cross_attention_is_silent_is_a_causal_language_model(norm_position):
    decoder = TransformerDecoderConfig(**STACK, norm_position=norm_position)
    causal, theirs = model(NoEncoderConfig(), decoder)
    both, ours = model(ENCODERS["pre_norm"], decoder)

    def take(ours, theirs, path=""):
        for name, part in ours.items():
            if name == "cross_attention":
                ours[name] = jax.tree.map(np.zeros_like, part)
            elif name in theirs and isinstance(part, dict):
                take(part, theirs[name], f"{path}{name}/")
            elif name in theirs:
                ours[name] = theirs[name]

    take(ours, theirs)
    target = rows()
    batch = Batch(None, target, target.ids, target.segments.astype(np.float32))
    expected = jax.jit(lambda params: causal.bind(params)(batch))(theirs)
    pairs = dataclasses.replace(batch, source=rows(5))
    found = jax.jit(lambda params: both.bind(params)(pairs))(ours)
    if norm_position == "pre":
        np.testing.assert_allclose(found, expected, atol=1e-6)
    else:  # the norm after the silent sum is one more: the paper's order has no room for it
        assert np.abs(np.asarray(found - expected)).max() > 1e-3


def test_token_types_of_sources_need_an_encoder_and_a_decoder():
    with pytest.raises(ConfigError, match="num_token_types"):
        model(ENCODERS["lstm"], NoDecoderConfig(), source_token_types=2)
    lstm = RecurrentDecoderConfig(attention="none", bridge="zero")
    with pytest.raises(ConfigError, match="read by an encoder"):
        model(NoEncoderConfig(), lstm, source_token_types=1)
