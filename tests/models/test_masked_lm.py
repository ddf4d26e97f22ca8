"""Laws of masked language models: only told positions count, padding does not, losses add up."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqgen.errors import ConfigError
from seqgen.models import ModelConfig, build_model, check_model
from seqgen.models.checks import check_reads_sources
from seqgen.models.config import (
    NoDecoderConfig,
    NoEncoderConfig,
    RecurrentEncoderConfig,
    TransformerEncoderConfig,
)
from seqgen.nn.dropout import make_key
from seqgen.training.config import OptimizerConfig, TrainConfig
from seqgen.training.loss import make_loss
from seqgen.training.setup import TrainSetup
from seqgen.types import MaskedBatch, Sequences

# What is compiled here runs once, so the compiler's own time is all that counts.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

VOCAB, DIM, ROWS = 23, 16, 4
LENGTHS = np.array([7, 5, 3, 6])
STACK = {"num_layers": 1, "num_heads": 4, "ff_dim": 12, "positions": "learned"}
BERT = TransformerEncoderConfig(
    **STACK, max_positions=16, activation="gelu", norm_epsilon=1e-12, attention_dropout_rate=0.2
)


def build(encoder=BERT, **options):
    config = ModelConfig(
        embed_dim=DIM,
        scale_embeddings=False,
        **{
            "dropout_rate": 0.2,
            "output_bias": True,
            "encoder": encoder,
            "decoder": NoDecoderConfig(),
            **options,
        },
    )
    definition = build_model(config, source_vocab_size=VOCAB, target_vocab_size=VOCAB)
    noise = jax.random.key(1)
    params = jax.tree.map(
        lambda x: x + 0.1 * jax.random.normal(noise, x.shape), definition.init(jax.random.key(0))
    )
    return definition, params


def batch(width=7, places=3):
    """Rows of unequal lengths with unequal numbers of places to tell."""
    random = np.random.default_rng(0)
    ids = random.integers(4, VOCAB, (ROWS, 7)).astype(np.int32)
    labels = random.integers(4, VOCAB, (ROWS, 3)).astype(np.int32)
    real = (np.arange(width) < LENGTHS[:, None]).astype(np.int32)
    told = np.arange(places) < np.array([3, 2, 1, 2])[:, None]

    def fit(array, width):
        return np.pad(array, ((0, 0), (0, width - array.shape[1])))

    return MaskedBatch(
        text=Sequences(fit(ids, width) * real, real, real * np.arange(width, dtype=np.int32)),
        token_types=real * (np.arange(width) > 2).astype(np.int32),
        masked_positions=fit(np.array([[1, 3, 6], [0, 4, 0], [2, 0, 0], [5, 1, 0]]), places) * told,
        labels=fit(labels, places) * told,
        weights=told.astype(np.float32),
        next_labels=np.array([0, 1, 1, 0], np.int32),
        next_weights=np.full(ROWS, 2.0, np.float32),
    )


def losses(definition, params, batch, key=None):
    loss = make_loss(definition, TrainConfig(), compute_dtype="float32")
    return jit(jax.grad(loss, has_aux=True))(params, batch, key)


def test_the_loss_is_that_of_whole_logits_at_the_told_places_plus_that_of_the_pairs():
    definition, params = build()
    rows = batch()

    @jit
    def run(params):
        model = definition.bind(params)
        memory = model.encode(rows.text, rows.token_types).memory
        everywhere = jnp.broadcast_to(jnp.arange(7), (ROWS, 7))
        logits = model.output_logits(model.token_states(memory, everywhere))
        return jax.nn.log_softmax(logits), jax.nn.log_softmax(
            model.next_sentence_logits(model.pool(memory))
        )

    tokens, pairs = map(np.asarray, run(params))
    nll = sum(
        -tokens[row, rows.masked_positions[row, at], rows.labels[row, at]]
        for row, at in zip(*np.nonzero(rows.weights), strict=True)
    )
    pair_nll = -pairs[np.arange(ROWS), rows.next_labels].sum()
    _, sums = losses(definition, params, rows)
    np.testing.assert_allclose(sums["nll"], nll, rtol=1e-5)
    np.testing.assert_allclose(sums["loss"], nll + 2.0 * pair_nll, rtol=1e-5)
    assert sums["weight"] == 8  # 2 a row: the mean over tokens plus the mean over pairs
    np.testing.assert_allclose(sums["loss"] / 8, nll / 8 + pair_nll / ROWS, rtol=1e-5)


def test_more_padding_changes_nothing_dropout_included():
    definition, params = build()
    key = make_key(0, step=1)
    want, narrow = losses(definition, params, batch(), key)
    got, wide = losses(definition, params, batch(width=9, places=5), key)
    np.testing.assert_allclose(wide["loss"], narrow["loss"], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=5e-5), got, want)


def train(definition, parts, num_steps):
    """The loss of each step."""
    setup = TrainSetup.of(
        definition,
        train_cfg=TrainConfig(num_steps=num_steps, accumulation_steps=len(parts)),
        optimizer_cfg=OptimizerConfig(learning_rate=0.02, schedule="constant"),
        compute_dtype="float32",
    )
    step, state, found = setup.make_step(), setup.init(), []
    for _ in range(num_steps):
        state, metrics = step(state, parts)
        found.append(float(metrics["loss"]))
    assert float(metrics["weight"]) == 8
    return found


def test_training_lowers_the_loss_of_any_encoder():
    encoder = RecurrentEncoderConfig(kind="gru", num_layers=1, hidden_dim=8)
    definition, _ = build(encoder, tie_embeddings="none")
    found = train(definition, [batch()], 30)
    assert found[-1] < found[0] / 2, found


def test_micro_batches_of_unequal_token_counts_equal_the_batch():
    still = dataclasses.replace(BERT, dropout_rate=0.0, attention_dropout_rate=0.0)
    definition, _ = build(still, dropout_rate=0.0)
    rows = batch()
    halves = [jax.tree.map(lambda leaf, at=at: leaf[at : at + 2], rows) for at in (0, 2)]
    np.testing.assert_allclose(
        train(definition, halves, 4), train(definition, [rows], 4), rtol=1e-4
    )


def test_without_the_pair_head_nothing_of_it_is_made():
    whole, _ = build()
    alone, params = build(decoder=NoDecoderConfig(next_sentence=False, num_token_types=3))
    pairs = {"pooler", "next_sentence", "next_sentence_bias"}
    assert set(whole.abstract) - set(alone.abstract) == pairs
    assert alone.abstract["token_types"]["table"].shape == (3, DIM)
    assert list(alone.bind(params).predictions(batch())) == ["tokens"]


def test_contradictions_are_refused_by_name():
    def refused(match, **options):
        config = ModelConfig(embed_dim=DIM, **{"decoder": NoDecoderConfig(), **options})
        with pytest.raises(ConfigError, match=match):
            check_model(config, max_source_len=17)

    refused("there is no model left", encoder=NoEncoderConfig())
    refused("there is no decoder", tie_embeddings="all")
    refused("data.max_source_len=17", encoder=BERT)
    refused("num_heads=3", encoder=TransformerEncoderConfig(num_heads=3))
    with pytest.raises(ConfigError, match="no place for pairs"):
        check_reads_sources(ModelConfig(decoder=NoDecoderConfig()))
