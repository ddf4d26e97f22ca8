"""Laws of the Transformer: stepping, causality, padding, packing, stacking, recomputation."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqgen.errors import ConfigError
from seqgen.losses import vocabulary_loss
from seqgen.models import ModelConfig, build_model
from seqgen.models.config import TransformerDecoderConfig, TransformerEncoderConfig
from seqgen.models.layer_stack import stack_layers, unstack_layers
from seqgen.nn.dropout import make_key
from seqgen.types import BOS_ID, EOS_ID, Batch, Sequences

# What is compiled here runs once, so the compiler's own time is all that counts.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

VOCAB = 23
SOURCE_LENGTHS, TARGET_LENGTHS = (5, 2, 1), (4, 4, 2)
VARIANTS = {
    "paper": {},
    "modern": {
        "norm_position": "pre",
        "positions": "rotary",
        "norm": "rmsnorm",
        "activation": "swiglu",
        "num_kv_heads": 1,
        "bias": False,
    },
    "learned": {"positions": "learned", "activation": "gelu", "norm_position": "pre",
                "max_positions": 12, "num_kv_heads": 2},
    "near": {"positions": "alibi", "num_kv_heads": 2, "qk_norm": True, "attention_window": 2},
    "relative": {"positions": "relative", "relative_buckets": 4, "relative_max_distance": 3,
                 "norm_position": "pre"},
}  # fmt: skip


@functools.cache
def build(variant="paper", compute_dtype="float32", dropout=0.0, **options):
    stack = {
        "num_layers": 1,
        "num_heads": 4,
        "ff_dim": 12,
        "dropout_rate": dropout,
        "attention_dropout_rate": dropout,
        "activation_dropout_rate": dropout,
        **VARIANTS[variant],
        **options,
    }
    config = ModelConfig(
        embed_dim=16,
        dropout_rate=dropout,
        encoder=TransformerEncoderConfig(**stack),
        decoder=TransformerDecoderConfig(**stack),
    )
    definition = build_model(
        config, source_vocab_size=VOCAB, target_vocab_size=VOCAB, compute_dtype=compute_dtype
    )
    return definition, definition.init(jax.random.key(3))


def sequences(lengths, width, seed):
    real = np.arange(width) < np.array(lengths)[:, None]
    ids = np.random.default_rng(seed).integers(4, VOCAB, (len(lengths), 16))[:, :width]
    arrays = np.where(real, ids, 0), real, np.where(real, np.arange(width), 0)
    return Sequences(*(jnp.asarray(a, jnp.int32) for a in arrays))


def example(source_width=5, target_width=4):
    source = sequences(SOURCE_LENGTHS, source_width, 0)
    target = sequences(TARGET_LENGTHS, target_width, 1)
    return Batch(source, target, target.ids, target.segments.astype(jnp.float32))


def forward(definition, params, batch, key=None):
    return jit(lambda p, b, k: definition.bind(p)(b, key=k))(params, batch, key)


def gradient(definition, params, batch, key=None):
    """Parameter gradients of the loss, and the hidden states."""

    def loss(params):
        model = definition.bind(params)
        kernel, bias = model.output_kernel()
        hidden = model(batch, key=key)
        return vocabulary_loss(hidden, kernel, bias, batch.labels, batch.weights).loss, hidden

    return jit(jax.grad(loss, has_aux=True))(params)


def assert_trees_close(got, want, atol):
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol), got, want)


def real(batch, hidden):
    return np.asarray(hidden)[np.asarray(batch.target.segments[:, : hidden.shape[1]]) > 0]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("scan", [False, True])
def test_stepping_equals_one_extension_equals_teacher_forcing(variant, scan):
    definition, params = build(variant, scan_layers=scan, num_layers=2 if scan else 1)
    batch, beams = example(), 2
    tokens = jnp.repeat(batch.target.ids, beams, axis=0)
    lengths = jnp.repeat(jnp.array(TARGET_LENGTHS), beams)

    @jit
    def run(params):
        model = definition.bind(params)
        encoded = model.encode(batch.source)
        start = model.init_decode(encoded, max_len=6, num_beams=beams)
        once, state_once = model.extend(start, tokens, lengths)
        state, steps = start, []
        for t in range(tokens.shape[1]):
            live = (t < lengths).astype(jnp.int32)
            out, state = model.extend(state, tokens[:, t : t + 1], live)
            steps.append(out.hidden)
        # A prompt of ragged length, then the rest.
        first = jnp.minimum(lengths, 2)
        _, half = model.extend(start, tokens[:, :2], first)
        rest, after = model.extend(half, tokens[:, 2:], lengths - first)
        more = [
            model.extend(end, tokens[:, :1], jnp.ones_like(lengths))[0].hidden
            for end in (state_once, state, after)
        ]
        return model(batch), once, jnp.concatenate(steps, 1), rest.hidden, more, state

    hidden, once, steps, rest, more, state = run(params)
    want = np.repeat(np.asarray(hidden), beams, axis=0)
    seen = np.arange(tokens.shape[1]) < np.asarray(lengths)[:, None]
    np.testing.assert_allclose(once.hidden[seen], want[seen], atol=1e-5)
    np.testing.assert_allclose(steps[seen], want[seen], atol=1e-5)
    np.testing.assert_allclose(rest[seen[:, 2:]], want[:, 2:][seen[:, 2:]], atol=1e-5)
    np.testing.assert_array_equal(state.history.lengths.reshape(-1), lengths)
    np.testing.assert_allclose(more[1], more[0], atol=1e-5)
    np.testing.assert_allclose(more[2], more[0], atol=1e-5)
    weights = np.asarray(once.attention)
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-5)
    assert not weights[2:4, :, 2:].any()  # sentence 1 has two source tokens


def test_reorder_select_and_rewind():
    definition, params = build()
    batch, beams, rows = example(), 2, 6
    rng = np.random.default_rng(5)
    tokens = jnp.asarray(rng.integers(4, VOCAB, (rows, 4)), jnp.int32)
    parents = jnp.array([[1, 0], [1, 1], [0, 0]])
    flat = (jnp.arange(3)[:, None] * beams + parents).reshape(-1)
    kept = jnp.array([2, 0])

    @jit
    def run(params):
        model = definition.bind(params)

        def start(source, beams):
            return model.init_decode(model.encode(source), max_len=6, num_beams=beams)

        def consume(state, tokens):
            return model.extend(state, tokens, jnp.full(len(tokens), tokens.shape[1]))

        begun = consume(start(batch.source, beams), tokens[:, :3])[1]
        reordered = consume(model.reorder(begun, parents), tokens[:, 3:])[0]
        expected = consume(start(batch.source, beams), jnp.concatenate(
            [tokens[flat, :3], tokens[:, 3:]], 1))[0]  # fmt: skip
        chosen = (kept[:, None] * beams + jnp.arange(beams)).reshape(-1)
        selected = consume(model.select(begun, kept), tokens[chosen, 3:])[0]
        both = consume(start(jax.tree.map(lambda x: x[kept], batch.source), beams), tokens[chosen])
        back = model.rewind(begun, jnp.array([1, 2, 3, 1, 2, 3]))
        again = model.extend(back, tokens[:, :1], jnp.ones(rows, jnp.int32))[0]
        direct = [
            consume(start(batch.source, beams), jnp.concatenate([tokens[:, :n], tokens[:, :1]], 1))
            for n in (1, 2, 3)
        ]
        want = jnp.stack([direct[r % 3][0].hidden[r, -1] for r in range(rows)])
        return (
            (reordered.hidden[:, -1], expected.hidden[:, -1]),
            (selected.hidden[:, -1], both[0].hidden[:, -1]),
            (again.hidden[:, -1], want),
        )

    for got, want in run(params):
        np.testing.assert_allclose(got, want, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_later_tokens_do_not_leak_and_earlier_ones_matter(variant):
    definition, params = build(variant)
    batch = example()
    ids = batch.target.ids
    changed = dataclasses.replace(
        batch, target=dataclasses.replace(batch.target, ids=ids.at[:, 2].set(BOS_ID))
    )
    base, other = forward(definition, params, batch), forward(definition, params, changed)
    np.testing.assert_array_equal(base[:, :2], other[:, :2])
    assert jnp.abs(base[:2, 3] - other[:2, 3]).max() > 1e-4
    source = dataclasses.replace(batch.source, ids=batch.source.ids.at[0, 4].set(EOS_ID))
    other = forward(definition, params, dataclasses.replace(batch, source=source))
    assert jnp.abs(base[0] - other[0]).max() > 1e-4
    np.testing.assert_array_equal(base[1:], other[1:])


@pytest.mark.parametrize("variant", VARIANTS)
def test_more_padding_changes_nothing_dropout_included(variant):
    definition, params = build(variant, dropout=0.3)
    key = make_key(0, step=1)
    want, hidden = gradient(definition, params, example(), key)
    got, wide = gradient(definition, params, example(9, 7), key)
    np.testing.assert_allclose(real(example(), wide[:, :4]), real(example(), hidden), atol=1e-5)
    assert_trees_close(got, want, 2e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_packing_changes_nothing(variant):
    definition, params = build(variant)
    batch = example()

    def pack(rows, lengths, width):
        packed = [np.zeros(width, np.int32) for _ in range(3)]
        at = 0
        for number, length in enumerate(lengths):
            place = slice(at, at + length)
            packed[0][place] = np.asarray(rows.ids)[number, :length]
            packed[1][place], packed[2][place] = number + 1, np.arange(length)
            at += length
        return Sequences(*(jnp.asarray(a)[None] for a in packed))

    source, target = pack(batch.source, SOURCE_LENGTHS, 10), pack(batch.target, TARGET_LENGTHS, 12)
    packed = Batch(source, target, target.ids, (target.segments > 0).astype(jnp.float32))
    want, apart = gradient(definition, params, batch)
    got, together = gradient(definition, params, packed)
    np.testing.assert_allclose(together[0, : sum(TARGET_LENGTHS)], real(batch, apart), atol=1e-5)
    assert_trees_close(got, want, 2e-5)


@functools.cache
def two_layers_with_dropout():
    definition, params = build(dropout=0.3, num_layers=2)
    return params, gradient(definition, params, example(), make_key(0, step=2))[0]


@pytest.mark.parametrize(
    ("scan", "remat"), [(True, "none"), (False, "full"), (True, "dots"), (True, "full")]
)
def test_scan_and_recomputation_change_nothing_dropout_included(scan, remat):
    params, want = two_layers_with_dropout()
    other, _ = build(dropout=0.3, num_layers=2, scan_layers=scan, remat=remat)
    converted = stack_layers(params, other.abstract) if scan else params
    assert jax.tree.map(jnp.shape, converted) == jax.tree.map(lambda x: x.shape, other.abstract)
    got, _ = gradient(other, converted, example(), make_key(0, step=2))
    assert_trees_close(unstack_layers(got) if scan else got, want, 2e-5)


@pytest.mark.parametrize("scan", [False, True])
def test_recomputation_keeps_less(scan):
    def kept(remat):
        definition, _ = build(remat=remat, num_layers=3, ff_dim=64, scan_layers=scan)

        def residuals(params):
            return jax.vjp(lambda p: definition.bind(p)(example()).sum(), params)[1]

        return sum(leaf.size for leaf in jax.tree.leaves(
            jax.eval_shape(residuals, definition.abstract)))  # fmt: skip

    assert kept("full") < kept("dots") < kept("none")


@pytest.mark.parametrize("variant", ["paper", "modern", "relative"])
def test_attention_in_blocks_changes_nothing_dropout_included(variant):
    plain, params = build(variant, dropout=0.3, attention_kernel="plain")
    blocked, _ = build(variant, dropout=0.3, attention_kernel="blocked")
    key = make_key(0, step=1)
    want, hidden = gradient(plain, params, example(9, 7), key)
    got, other = gradient(blocked, params, example(9, 7), key)
    np.testing.assert_allclose(real(example(9, 7), other), real(example(9, 7), hidden), atol=1e-5)
    assert_trees_close(got, want, 2e-5)


def test_bfloat16_stays_close():
    _, params = build()
    high, low = (forward(build(compute_dtype=d)[0], params, example()) for d in
                 ("float32", "bfloat16"))  # fmt: skip
    difference = jnp.abs(real(example(), high) - real(example(), low)).max()
    assert 0 < difference < 0.1


def test_keys_and_steps_give_different_dropout_and_evaluation_none():
    definition, params = build(dropout=0.3)
    batch = example()
    outputs = [forward(definition, params, batch, make_key(0, step=s)) for s in (0, 0, 1)]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert jnp.abs(outputs[0] - outputs[2]).max() > 0.01
    np.testing.assert_allclose(
        forward(definition, params, batch), forward(build()[0], params, batch), atol=1e-6
    )


@pytest.mark.parametrize(
    "rate", ["dropout_rate", "attention_dropout_rate", "activation_dropout_rate"]
)
def test_every_dropout_rate_is_read(rate):
    definition, params = build(**{rate: 0.4})
    batch = example()
    dropped = forward(definition, params, batch, make_key(0, step=0))
    assert jnp.abs(dropped - forward(definition, params, batch)).max() > 1e-3


def test_a_window_forgets_what_lies_before_it():
    definition, params = build("near")
    batch = example()
    run = jit(lambda params, ids: definition.bind(params)(dataclasses.replace(
        batch, target=dataclasses.replace(batch.target, ids=ids))))  # fmt: skip
    base = run(params, batch.target.ids)
    other = run(params, batch.target.ids.at[:, 0].set(BOS_ID))
    np.testing.assert_array_equal(base[:2, 2:], other[:2, 2:])
    assert jnp.abs(base[:2, 1] - other[:2, 1]).max() > 1e-4


def test_learned_positions_refuse_long_batches_and_clamp_in_decoding():
    definition, params = build("learned")
    batch = example()
    with pytest.raises(ConfigError, match="12"):
        forward(definition, params, example(5, 13))

    @jit
    def run(params):
        model = definition.bind(params)
        state = model.init_decode(model.encode(batch.source), max_len=20)
        tokens = jnp.full((3, 18), 5)
        return model.extend(state, tokens, jnp.full(3, 18))[0].hidden

    assert jnp.isfinite(run(params)).all()


def test_a_row_without_source_is_finite():
    definition, params = build()
    batch = example()
    empty = jax.tree.map(lambda x: x.at[1].set(0), batch.source)
    hidden = forward(definition, params, dataclasses.replace(batch, source=empty))
    assert jnp.isfinite(hidden).all()
    np.testing.assert_allclose(hidden[0], forward(definition, params, batch)[0], atol=1e-6)
