"""The laws of decoding on real models: recurrent, Transformer, a mixed pair, decoders alone."""

import functools

import jax
import numpy as np
import pytest
from decoding.toy_model import random_lines, sources

from seqgen.decoding import DecodeConfig, make_row_keys, search, shrinking
from seqgen.models import build_model
from seqgen.models.config import (
    ModelConfig,
    NoEncoderConfig,
    RecurrentDecoderConfig,
    RecurrentEncoderConfig,
    TransformerDecoderConfig,
    TransformerEncoderConfig,
)
from seqgen.types import BOS_ID, EOS_ID, Batch

VOCAB, LINES = 16, random_lines(np.random.default_rng(11), 7)
TRANSFORMER = {"num_layers": 2, "num_heads": 2, "ff_dim": 32}
ENCODERS = {
    "gru": RecurrentEncoderConfig(kind="gru", num_layers=1, hidden_dim=16, bidirectional=True),
    "transformer": TransformerEncoderConfig(**TRANSFORMER),
    "none": NoEncoderConfig(source_prefix=True),
}
DECODERS = {
    "lstm": RecurrentDecoderConfig(
        kind="lstm", num_layers=1, hidden_dim=16, attention="luong_general", input_feeding=True
    ),
    "transformer": TransformerDecoderConfig(**TRANSFORMER, norm_position="pre"),
    "gru": RecurrentDecoderConfig(
        kind="gru", num_layers=1, hidden_dim=16, attention="none", bridge="zero"
    ),
}
PAIRS = [("gru", "lstm"), ("transformer", "transformer"), ("gru", "transformer")]
PAIRS += [("none", "transformer"), ("none", "gru")]


@functools.cache
def built(encoder, decoder):
    """Definition and parameters, made decided (not near-uniform) by a large output layer."""
    config = ModelConfig(
        embed_dim=16,
        encoder=ENCODERS[encoder],
        decoder=DECODERS[decoder],
        tie_embeddings="none",
        output_bias=True,
    )
    definition = build_model(config, source_vocab_size=VOCAB, target_vocab_size=VOCAB)
    params = jax.jit(definition.init)(jax.random.key(4))
    params["output"]["table"] = params["output"]["table"] * 8
    params["output_bias"] = params["output_bias"].at[EOS_ID].set(2.0)
    return definition, params


@functools.cache
def searcher(encoder, decoder):
    definition, _ = built(encoder, decoder)

    def call(params, source, keys, values, *, shape, max_len):
        model = definition.bind(params)
        return search(model, source, keys, shape=shape, values=values, max_len=max_len)

    return jax.jit(call, static_argnames=("shape", "max_len"))


def run(pair, lines, config, *, width=12, numbers=None, max_len=16):
    numbers = np.arange(len(lines)) if numbers is None else np.asarray(numbers)
    keys = make_row_keys(config.seed, numbers)
    found = searcher(*pair)(
        built(*pair)[1],
        sources(lines, width),
        keys,
        config.values(),
        shape=config.shape(),
        max_len=max_len,
    )
    return jax.device_get(found)


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_returned_scores_are_those_of_the_training_pass(pair):
    """Beam search's scores against the teacher-forced pass that training differentiates."""
    options = {"max_length_ratio": 1.0, "max_length_offset": 4, "length_penalty": 0.8}
    config = DecodeConfig(num_beams=3, num_return_sequences=2, **options)
    found = run(pair, LINES, config)
    definition, params = built(*pair)
    source = sources([line for line in LINES for _ in range(2)], 12)
    labels = found.ids.reshape(-1, 16)
    lengths = found.lengths.reshape(-1)
    inputs = [[BOS_ID, *ids[: length - 1]] for ids, length in zip(labels, lengths)]

    @jax.jit
    def token_log_probs(params, batch):
        model = definition.bind(params)
        log_probs = jax.nn.log_softmax(model.output_logits(model(batch)))
        return jax.numpy.take_along_axis(log_probs, batch.labels[..., None], -1)[..., 0]

    batch = Batch(source, sources(inputs, 16), labels, np.zeros(labels.shape, np.float32))
    log_probs = np.asarray(token_log_probs(params, batch))
    totals = np.where(np.arange(16) < lengths[:, None], log_probs, 0).sum(axis=1)
    np.testing.assert_allclose(found.log_probs.reshape(-1), totals, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        found.scores.reshape(-1), totals / lengths**0.8, rtol=1e-5, atol=1e-5
    )
    assert len(set(lengths.tolist())) > 2
    assert all(ids[length - 1] == EOS_ID for ids, length in zip(labels, lengths))


@pytest.mark.parametrize(
    ("pair", "options"),
    [
        (PAIRS[0], {"num_beams": 3, "num_return_sequences": 2}),
        (PAIRS[1], {"num_beams": 3, "num_return_sequences": 2}),
        (PAIRS[1], {"do_sample": True, "num_return_sequences": 2, "top_k": 6, "top_p": 0.9}),
        (PAIRS[2], {}),
        (PAIRS[3], {"num_beams": 3, "num_return_sequences": 2}),
    ],
)
def test_a_line_does_not_depend_on_its_batch(pair, options):
    """Alone and padded wide with a longer cache, or between neighbours: the same answer."""
    config = DecodeConfig(max_length_ratio=1.0, max_length_offset=4, **options)
    together = run(pair, LINES, config)
    order = [5, 1]
    apart = run(pair, [LINES[i] for i in order], config, width=20, numbers=order, max_len=24)
    np.testing.assert_array_equal(apart.ids[:, :, :16], together.ids[order])
    np.testing.assert_array_equal(apart.lengths, together.lengths[order])
    np.testing.assert_allclose(apart.scores, together.scores[order], atol=1e-5)
    np.testing.assert_allclose(apart.log_probs, together.log_probs[order], atol=1e-5)


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_a_batch_that_shrinks_changes_no_answer(pair, monkeypatch):
    config = DecodeConfig(num_beams=3, num_return_sequences=2, max_length_ratio=1.0)
    whole = run(pair, LINES, config)
    monkeypatch.setattr(shrinking, "batch_sizes", lambda batch: (batch, 3, 1))
    searcher.cache_clear()  # what is compiled already keeps its size
    shrunk = run(pair, LINES, config)
    searcher.cache_clear()
    np.testing.assert_array_equal(shrunk.ids, whole.ids)
    np.testing.assert_array_equal(shrunk.lengths, whole.lengths)
    np.testing.assert_allclose(shrunk.scores, whole.scores, atol=1e-5)
    assert len(set(whole.lengths[:, 0].tolist())) > 2  # they do not end together
