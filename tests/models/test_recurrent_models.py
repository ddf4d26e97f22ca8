"""Laws of the recurrent encoder-decoder: stepping, padding, beams, attention, bridges."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqgen.errors import ConfigError
from seqgen.models.config import EncodedDims, RecurrentDecoderConfig, RecurrentEncoderConfig
from seqgen.models.recurrent import RecurrentDecoder, RecurrentEncoder
from seqgen.nn.dropout import make_key
from seqgen.nn.recurrent import LSTMCell
from seqgen.types import Encoded, Sequences

EMBED, HIDDEN, BEAMS = 4, 6, 2
SOURCE_LENGTHS, TARGET_LENGTHS = np.array([5, 2, 1]), np.array([4, 4, 2])
WIDE = int(SOURCE_LENGTHS.max()), int(TARGET_LENGTHS.max())

VARIANTS = {
    "none": {"attention": "none"},
    "none, summary every step": {"attention": "none", "context_every_step": True},
    "bahdanau": {"attention": "bahdanau", "attention_dim": 3},
    # As wide as the embedding: a highway can pass by the first layer too.
    "bahdanau, narrow": {"attention": "bahdanau", "attention_dim": 3, "hidden_dim": EMBED},
    "luong_dot": {"attention": "luong_dot"},
    "luong_general": {"attention": "luong_general"},
    "luong_dot, fed": {"attention": "luong_dot", "input_feeding": True},
    "luong_general, fed": {"attention": "luong_general", "input_feeding": True},
}


def random(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def sequences(lengths, width):
    segments = (np.arange(width) < lengths[:, None]).astype(np.int32)
    positions = segments * np.arange(width, dtype=np.int32)
    return Sequences(*(jnp.asarray(a, jnp.int32) for a in (segments, segments, positions)))


@functools.cache
def build(kind="gru", variant="bahdanau", **options):
    encoder_cfg = RecurrentEncoderConfig(kind=kind, num_layers=2, hidden_dim=HIDDEN // 2)
    encoder = RecurrentEncoder(encoder_cfg, embed_dim=EMBED, rngs=nnx.Rngs(0))
    cfg = RecurrentDecoderConfig(
        kind=kind, num_layers=2, **{"hidden_dim": HIDDEN, **VARIANTS[variant], **options}
    )
    decoder = RecurrentDecoder(cfg, embed_dim=EMBED, encoded=encoder.dims, rngs=nnx.Rngs(1))
    return encoder, decoder


SOURCE, TARGET = sequences(SOURCE_LENGTHS, WIDE[0]), sequences(TARGET_LENGTHS, WIDE[1])
SOURCE_VECTORS, TARGET_VECTORS = random(0, 3, WIDE[0], EMBED), random(1, 3, WIDE[1], EMBED)
# Cells differ only inside a step, so one run each beside the variants of one cell.
EVERY = [("lstm", variant) for variant in VARIANTS if variant != "bahdanau, narrow"]
EVERY += itertools.product(("simple", "gru"), ("none", "bahdanau"))
EVERY += [("mingru", "none, summary every step"), ("minlstm", "luong_general"), ("ssru", "none")]
EVERY += [("sru", "bahdanau, narrow"), ("sru", "luong_dot, fed")]


def teacher_forced(encoder, decoder, key=None, **options):
    encoded = encoder(SOURCE, embedded=SOURCE_VECTORS, key=key)
    return decoder(TARGET, encoded, embedded=TARGET_VECTORS, key=key, **options)


@pytest.mark.parametrize(("kind", "variant"), EVERY)
def test_stepping_equals_extending_at_once_equals_the_teacher_forced_pass(kind, variant):
    encoder, decoder = build(kind, variant, residual=True)
    vectors = jnp.repeat(TARGET_VECTORS, BEAMS, axis=0)
    lengths = jnp.repeat(jnp.asarray(TARGET_LENGTHS), BEAMS)

    @jax.jit
    def begin():
        encoded = encoder(SOURCE, embedded=SOURCE_VECTORS)
        start = decoder.init_decode(encoded, max_len=WIDE[1], num_beams=BEAMS)
        return (
            decoder(TARGET, encoded, embedded=TARGET_VECTORS),
            start,
            decoder.extend(start, vectors, lengths),
        )

    expected, state, (at_once, end) = begin()
    stepped, attention = [], []
    extend = jax.jit(decoder.extend)
    for t in range(WIDE[1]):
        output, state = extend(state, vectors[:, t : t + 1], jnp.asarray(t < lengths, jnp.int32))
        stepped.append(output.hidden)
        attention.append(output.attention)
    stepped = np.concatenate(stepped, axis=1)

    real = np.arange(WIDE[1]) < np.asarray(lengths)[:, None]
    wanted = np.where(real[..., None], jnp.repeat(expected, BEAMS, axis=0), 0)
    np.testing.assert_allclose(np.where(real[..., None], at_once.hidden, 0), wanted, atol=1e-5)
    np.testing.assert_allclose(np.where(real[..., None], stepped, 0), wanted, atol=1e-5)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(end), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    np.testing.assert_array_equal(state["rows"]["length"], lengths)
    if decoder.attention is None:
        assert at_once.attention is None
        return
    weights = np.asarray(at_once.attention)
    np.testing.assert_allclose(np.concatenate(attention, axis=1)[real], weights[real], atol=1e-5)
    np.testing.assert_allclose(weights[real].sum(-1), 1, atol=1e-5)
    outside = np.arange(WIDE[0]) >= np.repeat(SOURCE_LENGTHS, BEAMS)[:, None]
    assert not np.where(outside[:, None], weights, 0).any()


@pytest.mark.parametrize("variant", ["none", "bahdanau", "luong_general", "luong_general, fed"])
def test_padding_and_neighbours_change_nothing(variant):
    """A sentence alone, cut to its own length, gives what it gives in the batch."""
    encoder, decoder = build("lstm", variant)

    @jax.jit
    def run(source, source_vectors, target, target_vectors):
        encoded = encoder(source, embedded=source_vectors)
        return encoded, decoder(target, encoded, embedded=target_vectors)

    # Whatever stands on padding is multiplied by zero or masked: make it large.
    source_vectors = SOURCE_VECTORS + 50.0 * (SOURCE.segments == 0)[..., None]
    together, hidden = run(SOURCE, source_vectors, TARGET, TARGET_VECTORS)
    row, s, t = 1, int(SOURCE_LENGTHS[1]), int(TARGET_LENGTHS[2])
    alone, hidden_alone = run(
        sequences(np.array([s]), s),
        SOURCE_VECTORS[row : row + 1, :s],
        sequences(np.array([t]), t),
        TARGET_VECTORS[row : row + 1, :t],
    )
    np.testing.assert_allclose(alone.memory[0], together.memory[row, :s], atol=1e-6)
    np.testing.assert_allclose(alone.summary[0], together.summary[row], atol=1e-6)
    np.testing.assert_allclose(hidden_alone[0], hidden[row, :t], atol=1e-5)


@pytest.mark.parametrize("variant", ["bahdanau", "luong_general, fed"])
def test_gradients_of_the_whole_model_equal_finite_differences(variant):
    encoder, decoder = build("gru", variant)
    graph, params = nnx.split((encoder, decoder))
    weigh = random(2, 3, WIDE[1], EMBED)
    key = make_key(0, step=3)

    @jax.jit
    def total(params):
        encoder, decoder = nnx.merge(graph, params)
        return (teacher_forced(encoder, decoder, key) * weigh).sum()

    gradients = jax.jit(jax.grad(total))(params)
    leaves, structure = jax.tree.flatten(params)
    direction = [random(10 + i, *leaf.shape) for i, leaf in enumerate(leaves)]
    slope = sum((g * d).sum() for g, d in zip(jax.tree.leaves(gradients), direction, strict=True))
    shifted = [
        total(jax.tree.unflatten(structure, [p + e * d for p, d in zip(leaves, direction)]))
        for e in (1e-3, -1e-3)
    ]
    np.testing.assert_allclose(slope, (shifted[0] - shifted[1]) / 2e-3, rtol=2e-2)


@pytest.mark.parametrize("variant", ["none, summary every step", "luong_general, fed"])
def test_reorder_and_select_move_whole_rows(variant):
    encoder, decoder = build("lstm", variant)
    encoded = jax.jit(encoder)(SOURCE, embedded=SOURCE_VECTORS)
    start = decoder.init_decode(encoded, max_len=8, num_beams=BEAMS, rewindable=True)
    ones = jnp.ones(3 * BEAMS, jnp.int32)
    # Beams differ from the first token on.
    first, second = random(3, 3 * BEAMS, 2, EMBED), random(4, 3 * BEAMS, 1, EMBED)
    _, state = decoder.extend(start, first, 2 * ones)
    parents = jnp.array([[1, 1], [0, 1], [1, 0]])
    rows = np.array([1, 1, 2, 3, 5, 4])
    moved, _ = decoder.extend(decoder.reorder(state, parents), second, ones)
    _, straight = decoder.extend(start, first[rows], 2 * ones)
    expected, _ = decoder.extend(straight, second, ones)
    np.testing.assert_allclose(moved.hidden, expected.hidden, atol=1e-6)

    kept = jnp.array([2, 0])
    chosen = decoder.select(state, kept)
    rows = np.array([4, 5, 0, 1])
    output, _ = decoder.extend(chosen, second[rows], ones[:4])
    everyone, _ = decoder.extend(state, second, ones)
    np.testing.assert_allclose(output.hidden, everyone.hidden[rows], atol=1e-6)


def test_rewind_with_history_restores_any_earlier_length():
    encoder, decoder = build("lstm", "luong_general, fed")
    encoded = jax.jit(encoder)(SOURCE, embedded=SOURCE_VECTORS)
    start = decoder.init_decode(encoded, max_len=6, rewindable=True)
    vectors, lengths = random(5, 3, 5, EMBED), jnp.array([5, 3, 4])
    output, state = decoder.extend(start, vectors, lengths)
    plain, _ = decoder.extend(decoder.init_decode(encoded, max_len=6), vectors, lengths)
    np.testing.assert_allclose(output.hidden[0], plain.hidden[0], atol=1e-6)
    back = jnp.array([2, 0, 4])
    after, _ = decoder.extend(decoder.rewind(state, back), vectors[:, :1], jnp.ones(3, jnp.int32))
    _, expected_state = decoder.extend(start, vectors, back)
    expected, _ = decoder.extend(expected_state, vectors[:, :1], jnp.ones(3, jnp.int32))
    np.testing.assert_allclose(after.hidden, expected.hidden, atol=1e-6)


def test_rewind_without_history_keeps_the_present_and_poisons_the_past():
    encoder, decoder = build("gru", "bahdanau")
    encoded = jax.jit(encoder)(SOURCE, embedded=SOURCE_VECTORS)
    start = decoder.init_decode(encoded, max_len=6)
    _, state = decoder.extend(start, random(5, 3, 3, EMBED), jnp.array([3, 2, 3]))
    rewound = decoder.rewind(state, jnp.array([3, 1, 3]))
    for a, b in zip(rewound["rows"]["layers"], state["rows"]["layers"], strict=True):
        np.testing.assert_array_equal(a["h"][::2], b["h"][::2])
        assert np.isnan(a["h"][1]).all()


def test_memory_and_keys_are_kept_once_a_sentence():
    encoder, decoder = build("gru", "bahdanau")
    encoded = encoder(SOURCE, embedded=SOURCE_VECTORS)
    state = jax.eval_shape(lambda: decoder.init_decode(encoded, max_len=6, num_beams=4))
    assert {leaf.shape[0] for leaf in jax.tree.leaves(state["shared"])} == {3}
    assert {leaf.shape[0] for leaf in jax.tree.leaves(state["rows"])} == {12}


def fake_encoded(*, states=()):
    """What a Transformer hands over: any widths, no recurrent states."""
    return Encoded(
        memory=random(6, 3, WIDE[0], 7),
        segments=SOURCE.segments,
        positions=SOURCE.positions,
        summary=random(7, 3, 5),
        states=states,
    )


@pytest.mark.parametrize("variant", ["none", "none, summary every step", "bahdanau"])
def test_any_encoder_will_do_and_each_path_to_it_matters(variant):
    cfg = RecurrentDecoderConfig(kind="lstm", num_layers=1, hidden_dim=HIDDEN, **VARIANTS[variant])
    dims = EncodedDims(memory=7, summary=5)
    decoder = RecurrentDecoder(cfg, embed_dim=EMBED, encoded=dims, rngs=nnx.Rngs(1))
    encoded = fake_encoded()

    @jax.jit
    def run(encoded):
        return decoder(TARGET, encoded, embedded=TARGET_VECTORS)

    before = run(encoded)
    assert before.shape == (3, WIDE[1], EMBED)
    other_summary = run(dataclasses.replace(encoded, summary=encoded.summary + 1))
    assert np.abs(before - other_summary).max() > 1e-3
    other_memory = run(dataclasses.replace(encoded, memory=encoded.memory + 1))
    assert (np.abs(before - other_memory).max() > 1e-3) == (decoder.attention is not None)


def test_bridges_start_as_they_say():
    encoder, copying = build("lstm", "bahdanau", bridge="copy")
    encoded = encoder(SOURCE, embedded=SOURCE_VECTORS)
    rows = copying.init_decode(encoded, max_len=4)["rows"]["layers"]
    for mine, theirs in zip(rows, encoded.states, strict=True):
        for name in ("h", "c"):
            np.testing.assert_array_equal(mine[name], theirs[name])
    _, zero = build("lstm", "bahdanau", bridge="zero")
    for state in zero.init_decode(encoded, max_len=4)["rows"]["layers"]:
        assert not state["h"].any() and not state["c"].any()
    _, dense = build("lstm", "bahdanau", bridge="dense")
    h, c = np.split(np.tanh(np.asarray(dense.bridge[1](encoded.summary))), 2, axis=-1)
    state = dense.init_decode(encoded, max_len=4)["rows"]["layers"][1]
    np.testing.assert_allclose(state["h"], h, atol=1e-6)
    np.testing.assert_allclose(state["c"], c, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "dims", "message"),
    [
        ({"bridge": "copy"}, EncodedDims(memory=6, summary=6), "copy"),
        ({"bridge": "copy"}, EncodedDims(6, 6, states=(6,), has_cell=True), "copy"),
        ({"bridge": "copy"}, EncodedDims(6, 6, states=(6, 6), has_cell=False), "copy"),
        ({"attention": "luong_dot"}, EncodedDims(memory=7, summary=6), "luong_dot"),
        ({"attention": "none", "input_feeding": True}, EncodedDims(6, 6), "input_feeding"),
        ({"context_every_step": True}, EncodedDims(6, 6), "context_every_step"),
    ],
)
def test_what_cannot_be_built_is_refused_with_the_way_out(options, dims, message):
    cfg = RecurrentDecoderConfig(kind="lstm", num_layers=2, hidden_dim=6, **options)
    with pytest.raises(ConfigError, match=message):
        RecurrentDecoder(cfg, embed_dim=EMBED, encoded=dims, rngs=nnx.Rngs(0))


def test_dropout_is_keyed_and_padding_changes_none_of_it():
    encoder, decoder = build("gru", "bahdanau", dropout_rate=0.5)
    one, two = make_key(0, step=1), make_key(0, step=2)
    run = jax.jit(lambda key: teacher_forced(encoder, decoder, key))
    first = run(one)
    np.testing.assert_array_equal(first, run(one))
    assert np.abs(first - run(two)).max() > 0.01

    @jax.jit
    def run_longer(key):
        encoded = encoder(
            sequences(SOURCE_LENGTHS, WIDE[0] + 2),
            embedded=jnp.pad(SOURCE_VECTORS, [(0, 0), (0, 2), (0, 0)]),
            key=key,
        )
        vectors = jnp.pad(TARGET_VECTORS, [(0, 0), (0, 3), (0, 0)])
        target = sequences(TARGET_LENGTHS, WIDE[1] + 3)
        return decoder(target, encoded, embedded=vectors, key=key)

    longer = run_longer(one)
    np.testing.assert_allclose(longer[:, : WIDE[1]], first, atol=1e-6)


def test_scheduled_sampling_reads_the_models_own_choice_at_the_given_rate():
    encoder, decoder = build("gru", "luong_general", dropout_rate=0.0)
    table = random(8, 9, EMBED)
    key = make_key(0, step=1)

    def choose(hidden):
        return table[(hidden @ table.T).argmax(-1)]

    encoded = encoder(SOURCE, embedded=SOURCE_VECTORS)

    @functools.partial(jax.jit, static_argnums=0)
    def run(rate, key):
        options = {"teacher_forcing_rate": rate, "next_embedding": choose}
        return decoder(TARGET, encoded, embedded=TARGET_VECTORS, key=key, **options)

    forced = run(1.0, key)
    np.testing.assert_array_equal(run(0.5, None), forced)
    # Rate 0: by hand, one step after the other, each on the choice of the one before.
    state, now, own = decoder.init_decode(encoded, max_len=9), TARGET_VECTORS[:, :1], []
    extend = jax.jit(decoder.extend)
    for _ in range(WIDE[1]):
        output, state = extend(state, now, jnp.ones(3, jnp.int32))
        own.append(output.hidden)
        now = choose(output.hidden)
    own = np.concatenate(own, axis=1)
    np.testing.assert_allclose(run(0.0, key), own, atol=1e-5)
    mixed = run(0.5, key)
    np.testing.assert_allclose(mixed[:, 0], forced[:, 0], atol=1e-6)
    assert np.abs(mixed - forced).max() > 1e-3 and np.abs(mixed - own).max() > 1e-3


def test_scheduled_sampling_gradient_is_that_of_the_inputs_it_chose():
    encoder, decoder = build("gru", "bahdanau", dropout_rate=0.3)
    graph, params = nnx.split((encoder, decoder))
    weigh, key = random(9, 3, WIDE[1], EMBED), make_key(0, step=2)

    def total(params, table):
        encoder, decoder = nnx.merge(graph, params)

        def choose(hidden):
            return table[(hidden @ table.T).argmax(-1)]

        hidden = teacher_forced(
            encoder, decoder, key, teacher_forcing_rate=0.3, next_embedding=choose
        )
        return (hidden * weigh).sum()

    table = random(8, 9, EMBED)
    slopes = jax.jit(jax.grad(total, (0, 1)))(params, table)
    leaves, structure = jax.tree.flatten((params, table))
    direction = [random(30 + i, *leaf.shape) for i, leaf in enumerate(leaves)]
    run = jax.jit(total)
    # A step so small that no choice flips: choices have no gradient.
    values = [
        run(*jax.tree.unflatten(structure, [p + e * d for p, d in zip(leaves, direction)]))
        for e in (5e-4, -5e-4)
    ]
    slope = sum(np.vdot(g, d) for g, d in zip(jax.tree.leaves(slopes), direction, strict=True))
    np.testing.assert_allclose(slope, (values[0] - values[1]) / 1e-3, rtol=3e-2)
    assert np.abs(slopes[1]).max() > 0


@pytest.mark.parametrize("kinds", [("mingru", "ssru"), ("sru", "minlstm"), ("lstm", "sru")])
def test_parallel_recurrences_pair_with_each_other_and_learn(kinds):
    encoder, decoder = build(kinds[0])[0], build(kinds[1], "none, summary every step")[1]
    graph, params = nnx.split((encoder, decoder))
    goal = jnp.tanh(random(11, 3, WIDE[1], EMBED))
    real = TARGET.segments[..., None]

    def loss(params):
        hidden = teacher_forced(*nnx.merge(graph, params))
        return (real * (hidden - goal) ** 2).sum() / real.sum()

    @jax.jit
    def train(params):
        def update(params, _):
            value, slopes = jax.value_and_grad(loss)(params)
            return jax.tree.map(lambda p, g: p - 0.1 * g, params, slopes), value

        return jax.lax.scan(update, params, length=150)[1]

    values = train(params)
    assert values[-1] < values[0] / 3, (values[0], values[-1])


class SlowLSTM(LSTMCell):
    """A user's own cell: the state moves half as far at each step."""

    def advance(self, state, gates, recurrent):
        new = super().advance(state, gates, recurrent)
        return {name: (new[name] + state[name]) / 2 for name in new}


def test_a_cell_of_the_users_own_runs_in_encoder_and_decoder():
    own = f"{__name__}:SlowLSTM"
    encoder_cfg = RecurrentEncoderConfig(kind="lstm", cell=own, num_layers=1, hidden_dim=3)
    encoder = RecurrentEncoder(encoder_cfg, embed_dim=EMBED, rngs=nnx.Rngs(0))
    cfg = RecurrentDecoderConfig(
        kind="lstm", cell=own, num_layers=1, hidden_dim=6, bridge="copy", attention="luong_dot"
    )
    decoder = RecurrentDecoder(cfg, embed_dim=EMBED, encoded=encoder.dims, rngs=nnx.Rngs(1))
    assert isinstance(decoder.layers[0].cell, SlowLSTM)
    encoded = encoder(SOURCE, embedded=SOURCE_VECTORS)
    # Half of the way from zero, and the usual cell goes all of it.
    twin_cfg = dataclasses.replace(encoder_cfg, cell=None)
    twin = RecurrentEncoder(twin_cfg, embed_dim=EMBED, rngs=nnx.Rngs(0))
    usual = twin(SOURCE, embedded=SOURCE_VECTORS)
    np.testing.assert_allclose(
        encoded.memory[:, 0, :3] * 2, usual.memory[:, 0, :3], rtol=1e-5, atol=1e-6
    )
    hidden = decoder(TARGET, encoded, embedded=TARGET_VECTORS)
    assert np.isfinite(hidden).all()
