"""An ensemble is one model to every search: its mean, its laws, its members of any architecture."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoding.test_search_on_models import LINES, VOCAB, built
from decoding.toy_model import ToyModel, run, sources

from seqgen.decoding import DecodeConfig, make_row_keys, search, target_log_probs
from seqgen.decoding.ensemble import Ensemble, EnsembleDefinition, mean_log_probs
from seqgen.types import Batch

MEMBERS = (("gru", "lstm"), ("transformer", "transformer"))


@pytest.mark.parametrize("mean", ["probs", "log_probs"])
def test_mean_equals_numpy(mean):
    logits = [5 * np.random.default_rng(i).normal(size=(3, 4, VOCAB)) for i in range(3)]
    probs = [np.exp(x) / np.exp(x).sum(-1, keepdims=True) for x in logits]
    wanted = np.log(np.mean(probs, 0)) if mean == "probs" else np.mean(np.log(probs), 0)
    found = mean_log_probs([jnp.float32(x) for x in logits], mean=mean)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_a_model_twice_is_that_model():
    """Under every search, the score included."""
    for options in (
        {},
        {"num_beams": 3, "num_return_sequences": 2},
        {"do_sample": True, "num_return_sequences": 2},
    ):
        config = DecodeConfig(max_length=10, **options)
        alone = run(ToyModel.random(2), sources(LINES), config)
        for mean in ("probs", "log_probs"):
            twice = run_members([ToyModel.random(2)] * 2, config, mean)
            np.testing.assert_array_equal(twice.ids, alone.ids)
            np.testing.assert_allclose(twice.scores, alone.scores, rtol=1e-5)


def run_members(members, config, mean):
    keys = make_row_keys(config.seed, np.arange(len(LINES)))

    @jax.jit
    def call(members, source, keys, values):
        model = Ensemble(members, mean=mean)
        return search(model, source, keys, shape=config.shape(), values=values, max_len=16)

    return jax.device_get(call(members, sources(LINES), keys, config.values()))


@pytest.mark.parametrize("mean", ["probs", "log_probs"])
def test_greedy_takes_the_likeliest_token_of_the_mean(mean):
    members = [ToyModel.random(seed) for seed in (3, 4, 5)]
    found = run_members(members, DecodeConfig(max_length=8), mean)
    for row, line in enumerate(LINES):
        ids, total = [], 0.0
        while not ids or ids[-1] != 3:
            logits = np.stack([model.reference_logits(line, ids) for model in members])
            log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            mixed = np.exp(log_probs).mean(0) if mean == "probs" else np.exp(log_probs.mean(0))
            mixed /= mixed.sum()
            allowed = mixed.copy()
            allowed[[0, 2]] = -1
            ids.append(3 if len(ids) == 7 else int(allowed.argmax()))
            total += np.log(mixed[ids[-1]])
        assert found.ids[row, 0, : len(ids)].tolist() == ids
        np.testing.assert_allclose(found.log_probs[row, 0], total, rtol=1e-4)


def test_mixed_architectures_keep_the_laws_of_search():
    """RNN and Transformer: scores are rescored ones, and those of the teacher-forced pass; a line
    does not depend on its batch."""
    parts = [built(*pair) for pair in MEMBERS]
    definition = EnsembleDefinition(tuple(part for part, _ in parts), "probs")
    params = {str(i): part for i, (_, part) in enumerate(parts)}
    config = DecodeConfig(num_beams=3, max_length=10)

    @jax.jit
    def both(params, source, keys):
        model = definition.bind(params)
        found = search(
            model, source, keys, shape=config.shape(), values=config.values(), max_len=10
        )
        ids, lengths = found.ids[:, 0], found.lengths[:, 0]
        inputs = jnp.concatenate([jnp.full_like(ids[:, :1], 2), ids[:, :-1]], axis=1)
        segments = jnp.where(jnp.arange(10) < lengths[:, None], 1, 0)
        target = dataclasses.replace(
            source, ids=inputs, segments=segments, positions=jnp.arange(10) * segments
        )
        batch = Batch(source, target, ids, segments.astype(jnp.float32))
        forced = jax.nn.log_softmax(model.output_logits(model(batch)))
        forced = jnp.take_along_axis(forced, ids[..., None], axis=-1)[..., 0] * segments
        return found, target_log_probs(model, source, ids, lengths), forced

    keys = make_row_keys(0, np.arange(len(LINES)))
    found, rescored, forced = both(params, sources(LINES, 12), keys)
    np.testing.assert_allclose(rescored.sum(1), found.log_probs[:, 0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(forced.sum(1), found.log_probs[:, 0], rtol=1e-5, atol=1e-5)
    order = [5, 1]
    apart, _, _ = both(params, sources([LINES[i] for i in order], 20), keys[np.asarray(order)])
    np.testing.assert_array_equal(apart.ids, found.ids[np.asarray(order)])
    np.testing.assert_allclose(apart.scores, found.scores[np.asarray(order)], atol=1e-5)
