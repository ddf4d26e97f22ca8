"""Laws of models without an encoder: stepping, causality, packing, padding, sources as a prefix."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqgen.decoding import DecodeConfig, generate
from seqgen.errors import ConfigError
from seqgen.losses import vocabulary_loss
from seqgen.models import ModelConfig, build_model, check_model
from seqgen.models.causal_lm import join
from seqgen.models.checks import check_reads_sources
from seqgen.models.config import (
    NoEncoderConfig,
    RecurrentDecoderConfig,
    TransformerDecoderConfig,
    TransformerEncoderConfig,
)
from seqgen.nn.dropout import make_key
from seqgen.training.config import OptimizerConfig, TrainConfig
from seqgen.training.setup import TrainSetup
from seqgen.types import BOS_ID, EOS_ID, PAD_ID, Batch, Sequences, no_source

# What is compiled here runs once, so the compiler's own time is all that counts.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

VOCAB, DIM = 23, 16
LENGTHS, PROMPTS = np.array([6, 3, 1]), np.array([4, 1, 0])
GPT2 = {
    "norm_position": "pre",
    "positions": "learned",
    "max_positions": 16,
    "activation": "gelu_tanh",
}
MODERN = {
    "norm_position": "pre",
    "positions": "rotary",
    "norm": "rmsnorm",
    "activation": "swiglu",
    "num_kv_heads": 1,
    "bias": False,
}
ALONE = {"attention": "none", "bridge": "zero"}


def decoder(variant, dropout, num_layers):
    shared = {"num_layers": num_layers, "dropout_rate": dropout}
    if variant in ("gpt2", "modern"):
        stack = {"num_heads": 4, "ff_dim": 12, "attention_dropout_rate": dropout, **shared}
        return TransformerDecoderConfig(**stack, **(GPT2 if variant == "gpt2" else MODERN))
    return RecurrentDecoderConfig(kind=variant, hidden_dim=8, **ALONE, **shared)


@functools.cache
def build(variant="gpt2", *, source_prefix=False, dropout=0.0, num_layers=1, **options):
    config = ModelConfig(
        embed_dim=DIM,
        dropout_rate=dropout,
        scale_embeddings=False,
        encoder=NoEncoderConfig(source_prefix=source_prefix),
        decoder=decoder(variant, dropout, num_layers),
        **options,
    )
    definition = build_model(config, source_vocab_size=VOCAB, target_vocab_size=VOCAB)
    params = definition.init(jax.random.key(3))
    # Larger than at the start, so that what a token changes is seen.
    params["target_embedding"]["table"] = params["target_embedding"]["table"] * 4
    return definition, params


def sequences(lengths, width, seed=0):
    real = np.arange(width) < np.asarray(lengths)[:, None]
    ids = np.random.default_rng(seed).integers(4, VOCAB, (len(lengths), 16))[:, :width]
    arrays = np.where(real, ids, 0), real, np.where(real, np.arange(width), 0)
    return Sequences(*(jnp.asarray(a, jnp.int32) for a in arrays))


def text(width=6, source=None):
    rows = sequences(LENGTHS, width, 1)
    return Batch(source, rows, rows.ids, rows.segments.astype(jnp.float32))


def gradient(definition, params, batch, key=None):
    """Parameter gradients of the loss, and the hidden states."""

    def loss(params):
        model = definition.bind(params)
        hidden = model(batch, key=key)
        kernel, bias = model.output_kernel()
        return vocabulary_loss(hidden, kernel, bias, batch.labels, batch.weights).loss, hidden

    return jit(jax.grad(loss, has_aux=True))(params)


def assert_trees_close(got, want, atol):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol), got, want)


@pytest.mark.parametrize("variant", ["gpt2", "modern", "lstm", "mingru"])
def test_a_ragged_prompt_then_steps_equal_the_parallel_pass(variant):
    definition, params = build(variant, num_layers=2)
    batch, beams = text(), 2
    tokens = jnp.repeat(batch.target.ids, beams, axis=0)
    lengths, prompts = (jnp.repeat(jnp.asarray(n), beams) for n in (LENGTHS, PROMPTS))

    @jit
    def run(params):
        model = definition.bind(params)
        start = model.init_decode(model.encode(no_source(3)), max_len=8, num_beams=beams)
        once, _ = model.extend(start, tokens, lengths)
        prompt, state = model.extend(start, tokens[:, :4], prompts)
        steps = []
        for t in range(6):
            column = jnp.minimum(prompts + t, 5)[:, None]
            token = jnp.take_along_axis(tokens, column, axis=1)
            out, state = model.extend(state, token, (prompts + t < lengths).astype(jnp.int32))
            steps.append(out.hidden)
        return model(batch), once, prompt, jnp.concatenate(steps, 1)

    hidden, once, prompt, steps = run(params)
    want = np.repeat(np.asarray(hidden), beams, axis=0)
    assert once.attention is None
    for row in range(3 * beams):
        length, begun = int(lengths[row]), int(prompts[row])
        np.testing.assert_allclose(once.hidden[row, :length], want[row, :length], atol=1e-5)
        np.testing.assert_allclose(prompt.hidden[row, :begun], want[row, :begun], atol=1e-5)
        rest = steps[row, : length - begun]
        np.testing.assert_allclose(rest, want[row, begun:length], atol=1e-5)


@pytest.mark.parametrize("variant", ["modern", "lstm"])
@pytest.mark.parametrize("prefix", [False, True])
def test_reorder_select_and_rewind(variant, prefix):
    definition, params = build(variant, source_prefix=prefix)
    beams, rows = 2, 6
    source = sequences([5, 2, 3], 5, 7) if prefix else no_source(3)
    tokens = jnp.asarray(np.random.default_rng(5).integers(4, VOCAB, (rows, 4)), jnp.int32)
    parents = jnp.array([[1, 0], [1, 1], [0, 0]])
    flat = (jnp.arange(3)[:, None] * beams + parents).reshape(-1)
    kept = jnp.array([2, 0])
    chosen = (kept[:, None] * beams + jnp.arange(beams)).reshape(-1)
    back = jnp.array([1, 2, 3, 1, 2, 3])

    @jit
    def run(params):
        model = definition.bind(params)

        def start(source):
            encoded = model.encode(source)
            return model.init_decode(encoded, max_len=6, num_beams=beams, rewindable=True)

        def consume(state, tokens, lengths=None):
            full = jnp.full(len(tokens), tokens.shape[1])
            return model.extend(state, tokens, full if lengths is None else lengths)

        begun = consume(start(source), tokens[:, :3])[1]
        reordered = consume(model.reorder(begun, parents), tokens[:, 3:])[0]
        same = jnp.concatenate([tokens[flat, :3], tokens[:, 3:]], 1)
        selected = consume(model.select(begun, kept), tokens[chosen, 3:])[0]
        few = start(jax.tree.map(lambda x: x[kept], source))
        again = consume(model.rewind(begun, back), tokens[:, :1])[0]
        straight = consume(start(source), tokens[:, :3], back)[1]
        return (
            (reordered.hidden[:, -1], consume(start(source), same)[0].hidden[:, -1]),
            (selected.hidden[:, -1], consume(few, tokens[chosen])[0].hidden[:, -1]),
            (again.hidden[:, -1], consume(straight, tokens[:, :1])[0].hidden[:, -1]),
        )

    for got, want in run(params):
        np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("variant", ["gpt2", "modern", "gru"])
def test_later_tokens_change_nothing_before_them(variant):
    definition, params = build(variant)
    batch = text()
    changed = dataclasses.replace(batch.target, ids=batch.target.ids.at[:, 3].set(BOS_ID))
    run = jit(lambda params, batch: definition.bind(params)(batch))
    base = run(params, batch)
    other = run(params, dataclasses.replace(batch, target=changed))
    before = np.asarray(batch.target.segments[:, :3]) > 0
    np.testing.assert_array_equal(base[:, :3][before], other[:, :3][before])
    assert jnp.abs(base[0, 3:] - other[0, 3:]).max(-1).min() > 1e-4


@pytest.mark.parametrize("variant", ["gpt2", "modern"])
def test_packed_rows_equal_rows_apart(variant):
    definition, params = build(variant)
    batch = text()
    parts = [np.zeros(12, np.int32) for _ in range(3)]
    at = 0
    for number, length in enumerate(LENGTHS):
        place = slice(at, at + length)
        parts[0][place] = np.asarray(batch.target.ids)[number, :length]
        parts[1][place], parts[2][place] = number + 1, np.arange(length)
        at += length
    rows = Sequences(*(jnp.asarray(part)[None] for part in parts))
    packed = Batch(None, rows, rows.ids, (rows.segments > 0).astype(jnp.float32))
    want, apart = gradient(definition, params, batch)
    got, together = gradient(definition, params, packed)
    real = np.asarray(batch.target.segments) > 0
    np.testing.assert_allclose(together[0, :at], np.asarray(apart)[real], atol=1e-5)
    assert_trees_close(got, want, 5e-5)


@pytest.mark.parametrize("variant", ["gpt2", "lstm"])
@pytest.mark.parametrize("prefix", [False, True])
def test_more_padding_changes_nothing_dropout_included(variant, prefix):
    definition, params = build(variant, source_prefix=prefix, dropout=0.3)
    key = make_key(0, step=1)
    narrow = text(source=sequences([5, 2, 3], 5, 7) if prefix else None)
    wide = text(9, source=sequences([5, 2, 3], 7, 7) if prefix else None)
    want, hidden = gradient(definition, params, narrow, key)
    got, others = gradient(definition, params, wide, key)
    real = np.asarray(narrow.target.segments) > 0
    np.testing.assert_allclose(others[:, :6][real], hidden[real], atol=1e-5)
    assert_trees_close(got, want, 5e-5)


def test_sources_stand_before_their_targets_in_one_row():
    source, target = sequences([2, 4], 4), sequences([3, 1], 3, 1)
    rows = join(source, target)
    one, two = np.asarray(source.ids), np.asarray(target.ids)
    assert rows.ids.tolist() == [[*one[0, :2], *two[0], 0, 0], [*one[1], two[1, 0], 0, 0]]
    assert rows.segments.tolist() == [[1] * 5 + [0] * 2] * 2
    assert rows.positions.tolist() == [[0, 1, 2, 3, 4, 0, 0]] * 2


@pytest.mark.parametrize("variant", ["gpt2", "lstm"])
def test_a_pair_is_the_joined_row_read_as_text_and_steps_agree(variant):
    definition, params = build(variant, source_prefix=True)
    source = sequences([5, 2, 3], 6, 7)
    batch = text(source=source)
    joined = join(source, batch.target)
    plain = Batch(None, joined, joined.ids, jnp.ones(joined.ids.shape))

    @jit
    def run(params):
        model = definition.bind(params)
        state = model.init_decode(model.encode(source), max_len=6)
        out, _ = model.extend(state, batch.target.ids, jnp.asarray(LENGTHS))
        return model(batch), model(plain), out.hidden

    hidden, whole, stepped = run(params)
    for row, (begun, length) in enumerate(zip((5, 2, 3), LENGTHS, strict=True)):
        want = whole[row, begun : begun + length]
        np.testing.assert_allclose(hidden[row, :length], want, atol=1e-5)
        np.testing.assert_allclose(stepped[row, :length], want, atol=1e-5)
    alone = jit(lambda params, batch: definition.bind(params)(batch))(params, text())
    assert jnp.abs(alone[:, 0] - hidden[:, 0]).max() > 1e-3  # the source matters


def test_the_search_goes_on_from_nothing():
    definition, params = build("modern", output_bias=True)
    config = DecodeConfig(max_length=5, min_length=4)

    @jit
    def run(params):
        model = definition.bind(params)
        state = model.init_decode(model.encode(no_source(2)), max_len=5)
        token, chosen = jnp.full((2, 1), BOS_ID), []
        for _ in range(4):
            out, state = model.extend(state, token, jnp.ones(2, jnp.int32))
            logits = model.output_logits(out.hidden[:, 0])
            logits = logits.at[:, jnp.array([PAD_ID, BOS_ID, EOS_ID])].set(-jnp.inf)
            token = logits.argmax(-1)[:, None]
            chosen.append(token)
        found = generate(model, no_source(2), config=config)
        return found.ids[:, 0, :4], found.lengths, jnp.concatenate(chosen, 1)

    ids, lengths, by_hand = run(params)
    np.testing.assert_array_equal(ids, by_hand)
    assert lengths.tolist() == [[5], [5]]


def test_gpt2_small_has_the_published_number_of_parameters():
    config = ModelConfig(
        embed_dim=768,
        encoder=NoEncoderConfig(),
        decoder=TransformerDecoderConfig(
            num_layers=12, num_heads=12, ff_dim=3072, **{**GPT2, "max_positions": 1024}
        ),
    )
    definition = build_model(config, source_vocab_size=50257, target_vocab_size=50257)
    assert definition.num_parameters == 124_439_808


@pytest.mark.parametrize("variant", ["gpt2", "simple"])
def test_nothing_that_would_read_an_encoder_is_made(variant):
    definition, _ = build(variant)
    assert set(definition.abstract) == {"target_embedding", "decoder"}
    paths = [jax.tree_util.keystr(p) for p, _ in jax.tree.leaves_with_path(definition.abstract)]
    assert not [path for path in paths if "cross" in path or "bridge" in path or "feed'" in path]


@pytest.mark.parametrize(("variant", "prefix"), [("gpt2", False), ("lstm", True)])
def test_training_lowers_the_loss(variant, prefix):
    definition, _ = build(variant, source_prefix=prefix, dropout=0.1)
    setup = TrainSetup.of(
        definition,
        train_cfg=TrainConfig(num_steps=20),
        optimizer_cfg=OptimizerConfig(learning_rate=0.02, schedule="constant"),
        compute_dtype="float32",
    )
    step, state = setup.make_step(), setup.init()
    batch, losses = text(source=sequences([5, 2, 3], 5, 7) if prefix else None), []
    for _ in range(20):
        state, metrics = step(state, [batch])
        losses.append(float(metrics["loss"]))
    assert float(metrics["weight"]) == LENGTHS.sum()
    assert losses[-1] < losses[0] / 2, losses


def refused(match, **options):
    config = ModelConfig(embed_dim=DIM, **{"encoder": NoEncoderConfig(), **options})
    with pytest.raises(ConfigError, match=match):
        check_model(config, source_vocab_size=VOCAB, target_vocab_size=VOCAB, max_target_len=9)


def test_contradictions_are_refused_by_name():
    refused("there is no encoder", tie_embeddings="all")
    text = "model.decoder.attention=none, model.decoder.bridge=zero"
    refused(text, decoder=RecurrentDecoderConfig(kind="gru"))
    alone = RecurrentDecoderConfig(kind="gru", **ALONE)
    fed = dataclasses.replace(alone, context_every_step=True)
    refused("context_every_step=true", decoder=fed)
    refused("bridge=copy", decoder=dataclasses.replace(alone, bridge="copy"))
    refused("input_feeding=true", decoder=dataclasses.replace(alone, input_feeding=True))
    short = TransformerDecoderConfig(**{**GPT2, "max_positions": 8})
    refused("data.max_target_len=9", decoder=short)
    prefixed = NoEncoderConfig(source_prefix=True)
    refused("num_heads=3", encoder=prefixed, decoder=TransformerDecoderConfig(num_heads=3))
    with pytest.raises(ConfigError, match=r"data.max_source_len \+ data.max_target_len=17"):
        check_model(
            ModelConfig(
                embed_dim=DIM,
                encoder=prefixed,
                decoder=TransformerDecoderConfig(**GPT2),
            ),
            max_source_len=8,
            max_target_len=9,
        )
    with pytest.raises(ConfigError, match="joint"):
        build_model(
            ModelConfig(embed_dim=DIM, encoder=prefixed),
            source_vocab_size=VOCAB,
            target_vocab_size=VOCAB + 1,
        )


def test_sources_are_refused_where_there_is_no_place_for_them():
    definition, params = build("modern")
    model, source = definition.bind(params), sequences([2, 1, 1], 2)
    with pytest.raises(ConfigError, match="source_prefix=true"):
        model(text(source=source))
    with pytest.raises(ConfigError, match="text without sources"):
        check_reads_sources(model.config)


def test_an_encoder_needs_sources():
    config = ModelConfig(
        embed_dim=DIM,
        encoder=TransformerEncoderConfig(num_layers=1, num_heads=2, ff_dim=8),
        decoder=TransformerDecoderConfig(num_layers=1, num_heads=2, ff_dim=8),
    )
    definition = build_model(config, source_vocab_size=VOCAB, target_vocab_size=VOCAB)
    with pytest.raises(AssertionError, match="an encoder needs sources"):
        definition.bind(definition.init(jax.random.key(0)))(text())
