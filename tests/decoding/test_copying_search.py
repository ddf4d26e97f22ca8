"""Copying models in every search, with 8-bit weights, in ensembles, as drafts, adapted."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoding.toy_model import random_lines, sources
from models.test_copying import (
    DECODERS,
    DIM,
    VOCAB,
    build,
    encoder_of,
    example,
    jit,
    log_softmax,
)

from seqgen.decoding import DecodeConfig, Shortlist, make_row_keys, search, target_log_probs
from seqgen.decoding.ensemble import EnsembleDefinition
from seqgen.errors import ConfigError
from seqgen.models import ModelConfig, build_model
from seqgen.nn.low_rank import LowRankDefinition
from seqgen.nn.quantization import Int8Weights, inference_params
from seqgen.training.config import TrainConfig
from seqgen.training.loss import make_loss
from seqgen.types import BOS_ID, Batch, Sequences

LINES = random_lines(np.random.default_rng(3), 4)
BOTH = ["transformer", "bahdanau"]


@functools.cache
def without_copying(name):
    """The model that a copying one is made around, with its parameters."""
    config = ModelConfig(
        embed_dim=DIM, dropout_rate=0.0, encoder=encoder_of(name), decoder=DECODERS[name]()
    )
    definition = build_model(config, source_vocab_size=VOCAB, target_vocab_size=VOCAB)
    params = build(name, coverage=False)[1]
    return definition, {part: params[part] for part in params if part != "copy_gate"}


def own_shortlist(seed=0):
    """Each token is its own translation, as where both sides have one vocabulary."""
    others = np.random.default_rng(seed).integers(4, VOCAB, VOCAB)
    table = np.stack([np.arange(VOCAB), others], axis=1).astype(np.int32)
    table[0] = 0
    return Shortlist(table, np.array([17], np.int32), VOCAB)


def find(model, source, config, **options):
    """A search of at most 6 tokens."""
    keys = make_row_keys(config.seed, jnp.arange(len(source.ids)))
    shape = config.shape(drafted="draft" in options)
    return search(model, source, keys, shape=shape, values=config.values(), max_len=6, **options)


def teacher_forced(source, found):
    """The batch whose labels are the best answers."""
    ids, lengths = found.ids[:, 0], found.lengths[:, 0]
    real = (jnp.arange(6) < lengths[:, None]).astype(jnp.int32)
    inputs = jnp.concatenate([jnp.full_like(ids[:, :1], BOS_ID), ids[:, :-1]], axis=1)
    rows = Sequences(inputs * real, real, jnp.arange(6) * real)
    return Batch(source, rows, ids, real.astype(jnp.float32))


SEARCHES = {
    "sampling": DecodeConfig(do_sample=True, top_k=4, num_return_sequences=2),
    "beams": DecodeConfig(num_beams=3, coverage_penalty=0.2, num_return_sequences=2),
    "contrastive": DecodeConfig(contrastive_k=3, penalty_alpha=0.6),
    "shortlist": DecodeConfig(),
}


def test_a_gate_that_always_writes_is_the_model_without_copying():
    plain, plain_params = without_copying("transformer")
    definition, params = build("transformer", coverage=False)
    gate = {"kernel": jnp.zeros((2 * DIM, 1)), "bias": jnp.full(1, 60.0)}
    source = sources(LINES, 10)
    candidates = own_shortlist().candidates(source)

    @jit
    def run(params, plain_params, candidates):
        models = definition.bind(params), plain.bind(plain_params)
        options = {name: {} for name in SEARCHES} | {"shortlist": {"candidates": candidates}}
        return [
            {name: find(model, source, SEARCHES[name], **options[name]) for name in SEARCHES}
            for model in models
        ]

    found, wanted = jax.device_get(run({**params, "copy_gate": gate}, plain_params, candidates))
    for name in SEARCHES:
        np.testing.assert_array_equal(found[name].ids, wanted[name].ids, err_msg=name)
        np.testing.assert_allclose(found[name].log_probs, wanted[name].log_probs, atol=2e-5)
        np.testing.assert_allclose(found[name].scores, wanted[name].scores, atol=2e-5)
    answers = {row.tobytes() for name in found for row in found[name].ids[:, 0]}
    assert len(answers) > len(LINES)


@pytest.mark.parametrize("name", BOTH)
def test_a_shortlist_mixes_over_each_lines_own_tokens(name):
    """The softmax is over these alone, and what was copied is there; neighbours change nothing."""
    definition, params = build(name)
    config = DecodeConfig(num_beams=2, min_length=3)
    shortlist = own_shortlist()

    @jit
    def run(params, source, candidates):
        model = definition.bind(params)
        found = find(model, source, config, candidates=candidates)
        batch = teacher_forced(source, found)
        return found, model._read(batch, None), model.output_kernel()[0]

    def answers(lines, width):
        source = sources(lines, width)
        given = shortlist.candidates(source)
        return jax.device_get(run(params, source, given)), given

    (found, (hidden, gate, attention), table), given = answers(LINES, 10)
    shares = []
    for row, line in enumerate(LINES):
        own = given.ids[given.allowed[row]]
        assert set(line) <= set(own.tolist()) and len(own) < VOCAB
        total = 0.0
        for t in range(found.lengths[row, 0]):
            share = 1 / (1 + np.exp(-gate[row, t]))
            mixed = np.zeros(VOCAB)
            mixed[own] = share * np.exp(log_softmax(hidden[row, t] @ table[own].T))
            for s, token in enumerate(line):
                mixed[token] += (1 - share) * attention[row, t, s]
            assert mixed.sum() == pytest.approx(1, abs=1e-5)
            total += np.log(mixed[found.ids[row, 0, t]])
            shares.append(share)
        assert found.log_probs[row, 0] == pytest.approx(total, abs=1e-4)
    assert 0.1 < np.mean(shares) < 0.9
    (alone, *_), _ = answers([LINES[2]], 14)
    np.testing.assert_array_equal(alone.ids[0], found.ids[2])
    np.testing.assert_allclose(alone.scores[0], found.scores[2], atol=1e-5)


def scores_of(definition, params):
    """Log-probabilities of beam search's best answers: found, rescored, of the parallel pass."""
    source, config = sources(LINES, 10), DecodeConfig(num_beams=3)

    @jit
    def run(params):
        model = definition.bind(params)
        found = find(model, source, config)
        batch = teacher_forced(source, found)
        rescored = target_log_probs(model, source, batch.labels, found.lengths[:, 0]).sum(1)
        forced = jax.nn.log_softmax(model.output_logits(model(batch)))
        forced = jnp.take_along_axis(forced, batch.labels[..., None], axis=-1)[..., 0]
        return found.log_probs[:, 0], rescored, (forced * batch.weights).sum(1), batch

    return jax.device_get(run(params))


def forced_probs(definition, params, batch):
    """Probabilities [B, T, V] of the parallel pass."""

    @jit
    def run(params):
        model = definition.bind(params)
        return jax.nn.softmax(model.output_logits(model(batch)))

    return np.asarray(run(params))


@pytest.mark.parametrize("int8", [False, True], ids=["float32", "int8"])
@pytest.mark.parametrize("name", BOTH)
def test_search_scores_what_the_parallel_pass_does(name, int8):
    definition, params = build(name)
    used = inference_params(params, definition.summed_axes, compute_dtype="float32", int8=int8)
    assert isinstance(used["copy_gate"]["kernel"], Int8Weights) == int8
    found, rescored, forced, batch = scores_of(definition, used)
    np.testing.assert_allclose(rescored, found, atol=5e-5)
    np.testing.assert_allclose(forced, found, atol=5e-5)
    if int8:
        exact, rounded = (forced_probs(definition, each, batch) for each in (params, used))
        assert 0 < np.abs(exact - rounded).max() < 0.02


def test_an_ensemble_of_a_copying_model_and_another():
    members = build("bahdanau"), without_copying("transformer")
    definition = EnsembleDefinition(tuple(part for part, _ in members), "probs")
    found, rescored, forced, batch = scores_of(
        definition, {str(i): params for i, (_, params) in enumerate(members)}
    )
    np.testing.assert_allclose(rescored, found, atol=2e-5)
    np.testing.assert_allclose(forced, found, atol=2e-5)
    probs = np.mean([forced_probs(*member, batch) for member in members], axis=0)
    chosen = np.log(np.take_along_axis(probs, batch.labels[..., None], axis=-1)[..., 0])
    np.testing.assert_allclose((chosen * batch.weights).sum(1), found, atol=2e-5)


@pytest.mark.parametrize("copies", ["model", "draft"])
def test_a_draft_leaves_the_greedy_text(copies):
    pair = build("bahdanau"), without_copying("transformer")
    (definition, params), (other, other_params) = pair if copies == "model" else pair[::-1]
    source, config = sources(LINES, 10), DecodeConfig(min_length=3, num_draft_tokens=2)

    @jit
    def run(params, other_params):
        model, draft = definition.bind(params), other.bind(other_params)
        return find(model, source, config), find(model, source, config, draft=draft)

    wanted, found = jax.device_get(run(params, other_params))
    np.testing.assert_array_equal(found.ids, wanted.ids)
    np.testing.assert_allclose(found.log_probs, wanted.log_probs, atol=2e-5)


def test_low_rank_adaptation_reaches_what_is_copied():
    """The query that chooses what is copied is adapted; the gate may be trained whole."""
    base, params = build("bahdanau")
    options = {"alpha": 4.0, "also_trained": ("copy_gate/.*",)}
    targets = ("decoder/attention/query/kernel",)
    adapted = LowRankDefinition(base, rank=2, targets=targets, **options)
    assert adapted.is_trained("copy_gate/kernel")
    assert not adapted.is_trained("decoder/combine/kernel")
    given = {**params, "lora": jax.jit(adapted.init)(jax.random.key(3))["lora"]}
    losses = [make_loss(each, TrainConfig(), compute_dtype="float32") for each in (adapted, base)]

    @jit
    def run(given, params):
        gradient, sums = jax.grad(losses[0], has_aux=True)(given, example(), None)
        return gradient, sums["nll"], losses[1](params, example(), None)[0]

    gradient, nll, want = run(given, params)
    assert float(nll) == pytest.approx(float(want), rel=1e-6)
    assert np.abs(gradient["lora"]["decoder"]["attention"]["query"]["kernel"]["b"]).max() > 1e-4
    with pytest.raises(ConfigError, match="more than the 1 rows or columns of copy_gate/kernel"):
        LowRankDefinition(base, rank=2, alpha=4.0, targets=("copy_gate/kernel",))
