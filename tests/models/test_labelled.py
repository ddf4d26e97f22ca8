"""Laws of models that tell labels: what they read, and that padding changes nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqgen.errors import ConfigError
from seqgen.models import ModelConfig, build_model
from seqgen.models.config import (
    ClassifierHeadConfig,
    NoDecoderConfig,
    NoEncoderConfig,
    RecurrentEncoderConfig,
    TaggerHeadConfig,
    TransformerDecoderConfig,
    TransformerEncoderConfig,
)
from seqgen.types import NUM_CONTROL_IDS, Batch, MaskedBatch, Sequences

VOCAB, DIM, LABELS = 19, 16, 3
LENGTHS = np.array([6, 4, 1])
STACK = {"num_layers": 1, "num_heads": 4, "ff_dim": 12, "positions": "learned", "max_positions": 9}
STACKS = {
    "transformer": (TransformerEncoderConfig(**STACK), NoDecoderConfig()),
    "gru": (RecurrentEncoderConfig(kind="gru", num_layers=1, hidden_dim=6), NoDecoderConfig()),
    "decoder": (NoEncoderConfig(), TransformerDecoderConfig(**STACK, norm_position="pre")),
}


def build(stack, head=None):
    encoder, decoder = STACKS[stack]
    options = {} if head is None else {"head": head}
    config = ModelConfig(embed_dim=DIM, encoder=encoder, decoder=decoder, **options)
    target = VOCAB if head is None else NUM_CONTROL_IDS + LABELS
    return build_model(config, source_vocab_size=VOCAB, target_vocab_size=target)


def batch(width=6):
    real = (np.arange(width)[None] < LENGTHS[:, None]).astype(np.int32)
    ids = np.random.default_rng(0).integers(4, VOCAB, (3, 6)).astype(np.int32)
    ids = np.pad(ids, ((0, 0), (0, width - 6))) * real
    text = Sequences(ids, real, np.arange(width, dtype=np.int32) * real)
    places = np.array([[0, 2, 5], [1, 3, 0], [0, 0, 0]], np.int32)
    weights = np.array([[1, 1, 1], [1, 1, 0], [1, 0, 0]], np.float32)
    nothing = np.zeros(3, np.int32)
    return MaskedBatch(
        text=text,
        token_types=np.zeros_like(ids),
        masked_positions=places,
        labels=places % LABELS,
        weights=weights,
        next_labels=nothing,
        next_weights=nothing.astype(np.float32),
    )


def states_of(stack, params):
    """What a model of tokens with the same parameters computes of the same rows."""
    base, text = build(stack), batch().text
    own = base.init(jax.random.key(1)) | {k: v for k, v in params.items() if k != "head"}
    model = base.bind(own)
    if stack != "decoder":
        return np.asarray(model.encode(text, jnp.zeros_like(text.ids)).memory)
    return np.asarray(model(Batch(None, text, text.ids, text.segments.astype(np.float32))))


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("kind", ["mean", "first", "tagger"])
def test_a_head_reads_the_states_of_the_model_of_tokens(stack, kind):
    head = TaggerHeadConfig() if kind == "tagger" else ClassifierHeadConfig(pooling=kind)
    definition = build(stack, head)
    params = definition.init(jax.random.key(0))
    told = definition.bind(params).predictions(batch())["labels"]
    states = states_of(stack, params)
    if kind == "tagger":
        expected = np.take_along_axis(states, batch().masked_positions[..., None], axis=1)
    elif stack == "decoder":
        expected = np.stack([row[n - 1] for row, n in zip(states, LENGTHS)])[:, None]
    elif kind == "first":
        expected = states[:, :1]
    else:
        expected = np.stack([row[:n].mean(0) for row, n in zip(states, LENGTHS)])[:, None]
    np.testing.assert_allclose(told.hidden, expected, atol=1e-5)
    assert told.kernel.shape == (LABELS, expected.shape[-1]) and told.bias.shape == (LABELS,)


@pytest.mark.parametrize("stack", STACKS)
def test_padding_changes_nothing(stack):
    definition = build(stack, ClassifierHeadConfig())
    model = definition.bind(definition.init(jax.random.key(0)))
    short, wide = (model.predictions(batch(width))["labels"].hidden for width in (6, 9))
    np.testing.assert_allclose(short, wide, atol=1e-6)


def test_a_head_stands_above_one_stack():
    with pytest.raises(ConfigError, match="above one stack"):
        build_model(
            ModelConfig(head=ClassifierHeadConfig()), source_vocab_size=9, target_vocab_size=9
        )
