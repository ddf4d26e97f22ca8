"""Copying decoders: the mixed distribution against numpy, steps against the parallel pass."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqgen.errors import ConfigError
from seqgen.models import ModelConfig, build_model, check_model
from seqgen.models.config import (
    NoEncoderConfig,
    RecurrentDecoderConfig,
    RecurrentEncoderConfig,
    TransformerDecoderConfig,
    TransformerEncoderConfig,
)
from seqgen.models.copying import repeated_attention
from seqgen.training.config import TrainConfig
from seqgen.training.loss import make_loss
from seqgen.types import Batch, Sequences

# What is compiled here runs once, so the compiler's own time is all that counts.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

VOCAB, DIM = 20, 12
SOURCE_LENGTHS, TARGET_LENGTHS = (5, 3, 1), (4, 4, 2)
STACK = {"num_layers": 2, "num_heads": 2, "ff_dim": 16}
SILENT = {"dropout_rate": 0.0, "attention_dropout_rate": 0.0}
RECURRENT = {"num_layers": 1, "hidden_dim": 8, "dropout_rate": 0.0}
DECODERS = {
    "transformer": lambda **o: TransformerDecoderConfig(**{**STACK, **SILENT, **o}),
    "stacked": lambda **o: TransformerDecoderConfig(
        **{**STACK, **SILENT, "scan_layers": True, "remat": "full", "num_kv_heads": 1, **o}
    ),
    "bahdanau": lambda **o: RecurrentDecoderConfig(kind="gru", **{**RECURRENT, **o}),
    "luong": lambda **o: RecurrentDecoderConfig(
        kind="lstm", attention="luong_general", **{**RECURRENT, **o}
    ),
    "fed": lambda **o: RecurrentDecoderConfig(
        kind="gru", attention="luong_general", input_feeding=True, **{**RECURRENT, **o}
    ),
}


def encoder_of(name):
    if name in ("transformer", "stacked"):
        return TransformerEncoderConfig(**STACK, **SILENT)
    return RecurrentEncoderConfig(kind="gru", **{**RECURRENT, "num_layers": 1})


@functools.cache
def build(name, *, coverage=True, output_bias=False, **options):
    config = ModelConfig(
        embed_dim=DIM,
        dropout_rate=0.0,
        encoder=encoder_of(name),
        decoder=DECODERS[name](copy=True, coverage=coverage, **options),
        output_bias=output_bias,
    )
    definition = build_model(config, source_vocab_size=VOCAB, target_vocab_size=VOCAB)
    params = jax.jit(definition.init)(jax.random.key(3))
    if coverage and name == "bahdanau":  # begins at zero, where it has no effect
        params["decoder"]["attention"]["coverage"] = jnp.linspace(-4.0, 4.0, 256)
    return definition, params


def sequences(lengths, width, seed):
    real = np.arange(width) < np.array(lengths)[:, None]
    # Few tokens, so that places of a source hold the same one.
    ids = np.random.default_rng(seed).integers(4, 8, (len(lengths), 16))[:, :width]
    arrays = np.where(real, ids, 0), real, np.where(real, np.arange(width), 0)
    return Sequences(*(jnp.asarray(a, jnp.int32) for a in arrays))


def example(source_width=5, target_width=4):
    source = sequences(SOURCE_LENGTHS, source_width, 0)
    target = sequences(TARGET_LENGTHS, target_width, 1)
    return Batch(source, target, target.ids, target.segments.astype(jnp.float32))


def log_softmax(logits):
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@pytest.mark.parametrize("name", DECODERS)
def test_probabilities_loss_and_gradients_are_those_of_the_paper(name):
    definition, params = build(name)
    batch, train_cfg = example(), TrainConfig(coverage_weight=0.7)

    @jit
    def run(params):
        model = definition.bind(params)
        hidden, gate, weights = model._read(batch, None)
        loss = make_loss(definition, train_cfg, compute_dtype="float32")
        # With a key, as in training; nothing is dropped.
        gradient, sums = jax.grad(loss, has_aux=True)(params, batch, jnp.uint32(1))
        quiet = loss(params, batch, None)[0]

        def whole(params):
            model = definition.bind(params)
            log_probs = model.output_logits(model(batch))
            chosen = jnp.take_along_axis(log_probs, batch.labels[..., None], -1)[..., 0]
            again = repeated_attention(model._read(batch, None)[2])
            return ((0.7 * again - chosen) * batch.weights).sum(), log_probs

        want, log_probs = jax.grad(whole, has_aux=True)(params)
        states = hidden, gate, weights, model.output_kernel()[0], log_probs
        return states, sums, quiet, gradient, want

    states, sums, quiet, gradient, want = run(params)
    hidden, gate, weights, table, log_probs = map(np.asarray, states)
    ids, labels = np.asarray(batch.source.ids), np.asarray(batch.labels)
    nll = coverage = 0.0
    for b, length in enumerate(TARGET_LENGTHS):
        past = np.zeros(weights.shape[2])
        for t in range(length):
            share = 1 / (1 + np.exp(-gate[b, t]))
            mixed = share * np.exp(log_softmax(hidden[b, t] @ table.T))
            for s in range(SOURCE_LENGTHS[b]):
                mixed[ids[b, s]] += (1 - share) * weights[b, t, s]
            assert mixed.sum() == pytest.approx(1, abs=1e-5)
            np.testing.assert_allclose(np.exp(log_probs[b, t]), mixed, atol=1e-6)
            nll -= np.log(mixed[labels[b, t]])
            coverage += np.minimum(past, weights[b, t]).sum()
            past += weights[b, t]
    assert coverage > 0.1
    assert float(sums["nll"]) == pytest.approx(nll, rel=1e-5)
    assert float(quiet) == pytest.approx(nll, rel=1e-5)  # no coverage loss in evaluation
    assert float(sums["loss"]) == pytest.approx(nll + 0.7 * coverage, rel=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), gradient, want)
    assert np.abs(gradient["copy_gate"]["kernel"]).max() > 1e-3


@pytest.mark.parametrize("name", DECODERS)
def test_steps_of_beams_give_the_log_probabilities_of_the_parallel_pass(name):
    definition, params = build(name)
    batch, beams = example(), 2
    tokens = jnp.repeat(batch.target.ids, beams, axis=0)
    lengths = jnp.repeat(jnp.array(TARGET_LENGTHS), beams)
    kept, back = jnp.array([2, 0]), jnp.full(6, 1)
    parents = jnp.array([[1, 0], [1, 1], [0, 0]])

    @jit
    def run(params):
        model = definition.bind(params)

        def start():
            encoded = model.encode(batch.source)
            return model.init_decode(encoded, max_len=6, num_beams=beams, rewindable=True)

        def step(state, t):
            live = (t < lengths).astype(jnp.int32)
            out, state = model.extend(state, tokens[:, t : t + 1], live)
            return model.output_logits(out.hidden)[:, 0], state

        once = model.output_logits(model.extend(start(), tokens, lengths)[0].hidden)
        state, steps = start(), []
        for t in range(4):
            log_probs, state = step(state, t)
            steps.append(log_probs)
            state = model.reorder(state, parents) if t == 0 else state  # beams are equal
        _, first = step(start(), 0)
        _, second = step(first, 1)
        again, _ = step(model.rewind(second, back), 1)
        some = model.select(first, kept)
        rows = jnp.array([4, 5, 0, 1])
        out, _ = model.extend(some, tokens[rows, 1:2], jnp.ones(4, jnp.int32))
        few = model.output_logits(out.hidden)[:, 0]
        return model.output_logits(model(batch)), once, jnp.stack(steps, 1), again, few

    log_probs, once, steps, again, few = map(np.asarray, run(params))
    want = np.repeat(log_probs, beams, axis=0)
    seen = np.arange(4) < np.asarray(lengths)[:, None]
    np.testing.assert_allclose(once[seen], want[seen], atol=2e-5)
    np.testing.assert_allclose(steps[seen], want[seen], atol=2e-5)
    np.testing.assert_allclose(again, want[:, 1], atol=2e-5)
    np.testing.assert_allclose(few, want[[4, 5, 0, 1], 1], atol=2e-5)


@pytest.mark.parametrize("name", DECODERS)
def test_telling_the_weights_changes_no_state_under_dropout(name):
    definition, params = build(name, dropout_rate=0.3)
    batch, key = example(), jnp.uint32(7)

    @jit
    def run(params, key):
        model = definition.bind(params)
        encoded, embedded = model.encode(batch.source), model.vectors(batch.target.ids)
        states = model.decoder(batch.target, encoded, embedded=embedded, key=key)
        options = {"embedded": embedded, "key": key}
        return states, *model.decoder.read_and_weigh(batch.target, encoded, **options)

    states, told, weights = run(params, key)
    real = np.asarray(batch.target.segments) > 0
    np.testing.assert_allclose(told[real], states[real], atol=1e-6)
    np.testing.assert_allclose(weights.sum(-1)[real], 1, atol=1e-6)
    assert jnp.abs(states - run(params, jnp.uint32(8))[0]).max() > 0.1


@pytest.mark.parametrize("name", ["transformer", "bahdanau"])
def test_more_padding_changes_nothing(name):
    definition, params = build(name)
    loss = make_loss(definition, TrainConfig(), compute_dtype="float32")
    run = jit(lambda params, batch: jax.grad(loss, has_aux=True)(params, batch, jnp.uint32(1)))
    (want, sums), (got, wide) = (run(params, example(*shape)) for shape in ((5, 4), (9, 7)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), got, want)
    for name in ("loss", "nll", "correct", "weight"):
        np.testing.assert_allclose(wide[name], sums[name], rtol=1e-5)


def test_packed_rows_copy_from_their_own_source():
    definition, params = build("transformer")
    batch = example()

    def pack(rows, ids, lengths, width):
        packed = [np.zeros(width, np.int32) for _ in range(3)]
        at = 0
        for number, length in enumerate(lengths):
            place = slice(at, at + length)
            packed[0][place] = np.asarray(ids)[number, :length]
            packed[1][place], packed[2][place] = number + 1, np.arange(length)
            at += length
        return Sequences(*(jnp.asarray(a)[None] for a in packed))

    source = pack(batch.source, batch.source.ids, SOURCE_LENGTHS, 10)
    target = pack(batch.target, batch.target.ids, TARGET_LENGTHS, 12)
    labels = pack(batch.target, batch.labels, TARGET_LENGTHS, 12).ids
    packed = Batch(source, target, labels, (target.segments > 0).astype(jnp.float32))
    loss = make_loss(definition, TrainConfig(), compute_dtype="float32")
    run = jit(lambda params, batch: jax.grad(loss, has_aux=True)(params, batch, jnp.uint32(1)))
    (want, sums), (got, together) = run(params, batch), run(params, packed)
    np.testing.assert_allclose(together["loss"], sums["loss"], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), got, want)


def test_coverage_moves_bahdanaus_attention_and_no_other():
    definition, params = build("bahdanau")
    flat = {**params["decoder"]["attention"]}
    flat["coverage"] = jnp.zeros_like(flat["coverage"])
    unmoved = {**params, "decoder": {**params["decoder"], "attention": flat}}
    run = jit(lambda params: definition.bind(params)._read(example(), None)[2])
    now, before = run(params), run(unmoved)
    np.testing.assert_allclose(now[:, 0], before[:, 0], atol=1e-6)
    assert jnp.abs(now[0, 1:] - before[0, 1:]).max() > 1e-2
    without = {name: build(name, coverage=False)[0].abstract for name in DECODERS}
    for name, abstract in without.items():
        with_it = build(name)[0].abstract
        same = jax.tree.structure(abstract) == jax.tree.structure(with_it)
        assert same == (name != "bahdanau")


def test_columns_of_all_tokens_are_the_whole_output_layer_in_their_order():
    definition, params = build("transformer")
    order = np.random.default_rng(0).permutation(VOCAB)
    ids = jnp.array([*order, *range(4, 8)])  # what sources hold once more, as padding might
    allowed = jnp.arange(len(ids)) < VOCAB

    @jit
    def run(params):
        model = definition.bind(params)
        hidden = model(example())
        columns = model.output_columns(ids)
        return model.output_logits(hidden), model.output_logits(hidden, columns, allowed)

    whole, cut = map(np.asarray, run(params))
    np.testing.assert_allclose(cut[..., :VOCAB], whole[..., order], atol=1e-5)
    assert (cut[..., VOCAB:] == -np.inf).all()


def test_few_columns_need_no_copies_over_the_whole_vocabulary():
    definition, params = build("transformer")
    model = definition.bind(params)
    columns = model.output_columns(jnp.array([2, 9, 5]))
    hidden = jnp.zeros((3, 4, DIM + 1 + 2 * 5))
    whole = f"f32[12,{VOCAB}]"
    assert whole in str(jax.make_jaxpr(model.output_logits)(hidden))
    assert whole not in str(jax.make_jaxpr(model.output_logits)(hidden, columns))


def test_rows_are_looked_up_once_to_be_read_and_by_the_gate(monkeypatch):
    definition, params = build("transformer")
    batch, shapes = example(), []

    def lookup(table, ids):
        shapes.append(ids.shape)
        return table[ids]

    def run(params):
        model = definition.bind(params)
        model.predictions(batch)
        state = model.init_decode(model.encode(batch.source), max_len=4)
        return model.extend(state, batch.target.ids, jnp.array(TARGET_LENGTHS))[0]

    monkeypatch.setattr("seqgen.nn.embedding.lookup", lookup)
    jax.eval_shape(run, params)
    assert shapes == 2 * [batch.source.ids.shape, batch.target.ids.shape]


def test_words_that_cannot_be_written_are_copied_and_the_gate_learns_which():
    definition, params = build("transformer", coverage=False, output_bias=True)
    params = {**params, "output_bias": params["output_bias"].at[4:].set(-30.0)}
    batch = example()
    there = jnp.broadcast_to(batch.source.ids[:, :1], batch.labels.shape)
    absent = jnp.full_like(batch.labels, VOCAB - 1)
    loss = make_loss(definition, TrainConfig(), compute_dtype="float32")

    @jit
    def run(params, labels):
        given = dataclasses.replace(batch, labels=labels)
        gradient, sums = jax.grad(loss, has_aux=True)(params, given, None)
        return gradient["copy_gate"]["bias"][0], sums["nll"] / sums["weight"]

    (to_copying, copied), (to_writing, written) = run(params, there), run(params, absent)
    assert copied < 6 < 30 < written
    # Descent lowers the gate where copying explains the label, and raises it where writing does.
    assert to_copying > 0 > to_writing


def test_refusals():
    def refuse(match, *, vocab=(VOCAB, VOCAB), **options):
        config = ModelConfig(embed_dim=DIM, **{"encoder": encoder_of("transformer"), **options})
        with pytest.raises(ConfigError, match=match):
            check_model(config, source_vocab_size=vocab[0], target_vocab_size=vocab[1])

    copying = DECODERS["transformer"](copy=True)
    refuse("joint", decoder=copying, vocab=(20, 21))
    refuse("coverage=true is for", decoder=DECODERS["luong"](coverage=True))
    refuse("encoder.kind=none", decoder=copying, encoder=NoEncoderConfig())
    refuse("encoder.kind=none", decoder=copying, encoder=NoEncoderConfig(source_prefix=True))
    blind = dataclasses.replace(DECODERS["luong"](copy=True), attention="none")
    refuse("attention=none", decoder=blind)


class Silent(nnx.Module):
    """A decoder of the user's own that does not tell what it attends to."""

    def __init__(self, cfg, **widths):
        pass


def test_a_decoder_that_does_not_tell_what_it_attends_to_is_refused():
    decoder = DECODERS["transformer"](copy=True, kind="models.test_copying:Silent")
    config = ModelConfig(embed_dim=DIM, encoder=encoder_of("transformer"), decoder=decoder)
    with pytest.raises(ConfigError, match="Silent does not tell"):
        build_model(config, source_vocab_size=VOCAB, target_vocab_size=VOCAB)
