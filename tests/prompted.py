"""Tiny random language models with a tokenizer, shared by tests of generation from prompts."""

import functools

import jax

from seqgen.data.base_tokenizer import BaseTokenizer
from seqgen.decoding import DecodeConfig
from seqgen.inference import Generator
from seqgen.models import ModelConfig, build_model
from seqgen.models.config import (
    NoEncoderConfig,
    RecurrentDecoderConfig,
    TransformerDecoderConfig,
)
from seqgen.types import EOS_ID, NUM_CONTROL_IDS

PIECES = ["a", "b", "c", "ab", "bc", "ca", " a", " b", "\n", "abc", "é", " "]
VOCAB = NUM_CONTROL_IDS + len(PIECES)
POSITIONS = 48
DECODERS = {
    "gpt2": TransformerDecoderConfig(
        num_layers=2,
        num_heads=2,
        ff_dim=32,
        norm_position="pre",
        positions="learned",
        max_positions=POSITIONS,
        dropout_rate=0.0,
    ),
    "lstm": RecurrentDecoderConfig(
        kind="lstm", num_layers=1, hidden_dim=16, attention="none", bridge="zero", dropout_rate=0.0
    ),
}


class Pieces(BaseTokenizer):
    """Longest pieces first; a text's first space is taken off, as subword tokenizers do."""

    vocab_size = VOCAB
    fingerprint = "pieces"

    def encode(self, text):
        ids = []
        while text:
            piece = max((p for p in PIECES if text.startswith(p)), key=len)
            ids.append(PIECES.index(piece) + NUM_CONTROL_IDS)
            text = text[len(piece) :]
        return ids

    def piece_bytes(self, token_id):
        if token_id < NUM_CONTROL_IDS:
            return b""
        return PIECES[token_id - NUM_CONTROL_IDS].encode()

    def save(self, path):
        path.write_text(self.fingerprint)

    def decode(self, ids):
        return b"".join(map(self.piece_bytes, ids)).decode().removeprefix(" ")


class Counting:
    """A definition that counts how often a model is bound: once a trace."""

    def __init__(self, definition):
        self.definition, self.traces = definition, 0

    def bind(self, params):
        self.traces += 1
        return self.definition.bind(params)


@functools.cache
def build(kind):
    """Definition and parameters, decided enough that tokens differ and some answers end."""
    config = ModelConfig(
        embed_dim=16,
        dropout_rate=0.0,
        encoder=NoEncoderConfig(),
        decoder=DECODERS[kind],
        tie_embeddings="none",
        output_bias=True,
    )
    definition = build_model(config, source_vocab_size=VOCAB, target_vocab_size=VOCAB)
    params = jax.jit(definition.init)(jax.random.key(5))
    params["output"]["table"] = params["output"]["table"] * 6
    params["output_bias"] = params["output_bias"].at[EOS_ID].set(1.0)
    return definition, params


@functools.cache
def generator(kind):
    """One generator a model: what one test compiles serves the others."""
    definition, params = build(kind)
    return Generator(
        Counting(definition),
        params,
        Pieces(),
        Pieces(),
        DecodeConfig(batch_size=4, max_new_tokens=16),
        max_target_len=POSITIONS if kind == "gpt2" else None,
        reads_prompts=True,
    )
