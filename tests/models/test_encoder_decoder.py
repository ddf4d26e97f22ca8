"""Every pairing of encoder and decoder; tied embeddings; refusals."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqgen.errors import ConfigError
from seqgen.losses import vocabulary_loss
from seqgen.models import ModelConfig, build_model, check_model
from seqgen.models.config import (
    RecurrentDecoderConfig,
    RecurrentEncoderConfig,
    TransformerDecoderConfig,
    TransformerEncoderConfig,
)
from seqgen.nn.dropout import make_key
from seqgen.types import Batch, Sequences

# What is compiled here runs once, so the compiler's own time is all that counts.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})

VOCAB, DIM = 19, 8
STACK = {"num_layers": 1, "num_heads": 2, "ff_dim": 8}
ENCODERS = {
    "transformer": TransformerEncoderConfig(**STACK),
    "lstm": RecurrentEncoderConfig(kind="lstm", num_layers=1, hidden_dim=6),
    "gru": RecurrentEncoderConfig(kind="gru", num_layers=1, hidden_dim=6, bidirectional=False),
    "simple": RecurrentEncoderConfig(kind="simple", num_layers=1, hidden_dim=6),
    "mingru": RecurrentEncoderConfig(kind="mingru", num_layers=1, hidden_dim=6),
}
DECODERS = {
    "transformer": TransformerDecoderConfig(**STACK),
    **{
        kind: RecurrentDecoderConfig(
            kind=kind, num_layers=1, hidden_dim=6, attention=attention, attention_dim=5
        )
        for kind, attention in (
            ("lstm", "luong_general"),
            ("gru", "bahdanau"),
            ("simple", "none"),
            ("sru", "bahdanau"),
            ("ssru", "none"),
        )
    },
}


def rows(lengths, width, seed):
    real = np.arange(width) < np.array(lengths)[:, None]
    ids = np.random.default_rng(seed).integers(4, VOCAB, (len(lengths), width))
    arrays = np.where(real, ids, 0), real, np.where(real, np.arange(width), 0)
    return Sequences(*(jnp.asarray(a, jnp.int32) for a in arrays))


def example():
    target = rows((4, 2), 4, 1)
    return Batch(rows((5, 3), 5, 0), target, target.ids, target.segments.astype(jnp.float32))


def build(encoder="transformer", decoder="transformer", **options):
    config = ModelConfig(
        embed_dim=DIM, encoder=ENCODERS[encoder], decoder=DECODERS[decoder], **options
    )
    definition = build_model(config, source_vocab_size=VOCAB, target_vocab_size=VOCAB)
    return definition, definition.init(jax.random.key(0))


@pytest.mark.parametrize(("encoder", "decoder"), list(itertools.product(ENCODERS, DECODERS)))
def test_every_pairing_trains_and_steps(encoder, decoder):
    definition, params = build(encoder, decoder)
    batch = example()

    @jit
    def run(params):
        def loss(params):
            model = definition.bind(params)
            kernel, bias = model.output_kernel()
            hidden = model(batch, key=make_key(0, step=1))
            return vocabulary_loss(hidden, kernel, bias, batch.labels, batch.weights).loss

        model = definition.bind(params)
        state, steps = model.init_decode(model.encode(batch.source), max_len=5), []
        for t in range(4):
            out, state = model.extend(state, batch.target.ids[:, t : t + 1], jnp.ones(2, jnp.int32))
            steps.append(out.hidden)
        hidden = jnp.concatenate(steps, 1)
        return jax.grad(loss)(params), model(batch), hidden, model.output_logits(hidden)

    gradients, hidden, stepped, logits = run(params)
    assert hidden.shape == (2, 4, DIM) and logits.shape == (2, 4, VOCAB)
    np.testing.assert_allclose(stepped[0], hidden[0], atol=1e-5)
    np.testing.assert_allclose(stepped[1, :2], hidden[1, :2], atol=1e-5)
    # The source reaches the loss through every pairing.
    assert all(bool(jnp.isfinite(g).all()) for g in jax.tree.leaves(gradients))
    assert jnp.abs(gradients["source_embedding"]["table"]).max() > 0


@pytest.mark.parametrize(
    ("tie", "tables"),
    [
        ("none", {"source_embedding", "target_embedding", "output"}),
        ("target_output", {"source_embedding", "target_embedding"}),
        ("all", {"target_embedding"}),
    ],
)
def test_tied_tables(tie, tables):
    definition, params = build(tie_embeddings=tie)
    assert {name for name, tree in params.items() if "table" in tree} == tables
    model = definition.bind(params)
    kernel, bias = model.output_kernel()
    assert kernel.shape == (VOCAB, DIM) and bias is None
    tied = bool((kernel == model.target_embedding.table[...]).all())
    assert tied == (tie != "none")


def test_parameter_names_and_axes():
    definition, params = build(output_bias=True)
    query = params["decoder"]["layers"]["0"]["self_attention"]["query"]["kernel"]
    assert query.shape == (DIM, DIM)
    assert definition.axes["decoder"]["layers"]["0"]["cross_attention"]["out"]["kernel"] == (
        "heads",
        "embed",
    )
    assert definition.axes["output_bias"] == ("vocab",)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(lambda x: x.shape, definition.abstract)


def test_xavier_start_and_the_same_key_gives_the_same_numbers():
    stack = {"num_layers": 1, "num_heads": 2, "ff_dim": 512}
    config = ModelConfig(
        embed_dim=256,
        encoder=TransformerEncoderConfig(**stack),
        decoder=TransformerDecoderConfig(**stack),
    )
    definition = build_model(config, source_vocab_size=50, target_vocab_size=50)
    params = definition.init(jax.random.key(1))
    up = params["encoder"]["layers"]["0"]["feed_forward"]["up"]
    bound = (6 / (256 + 512)) ** 0.5
    assert 0.99 * bound < jnp.abs(up["kernel"]).max() <= bound and not up["bias"].any()
    again = definition.init(jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, params, again)


def test_output_bias_and_shortlists():
    definition, params = build(output_bias=True)
    params["output_bias"] = jnp.arange(VOCAB, dtype=jnp.float32)
    model = definition.bind(params)
    hidden = jnp.ones((2, DIM))
    logits = model.output_logits(hidden)
    np.testing.assert_allclose(
        logits, hidden @ model.output_kernel()[0].T + jnp.arange(VOCAB), atol=1e-5
    )
    ids = jnp.array([3, 17])
    np.testing.assert_allclose(
        model.output_logits(hidden, model.output_columns(ids)), logits[:, ids], atol=1e-6
    )


def test_scaled_embeddings_reach_the_stack():
    definition, params = build()
    plain, _ = build(scale_embeddings=False)
    scaled = {**params, **{
        name: {"table": params[name]["table"] * DIM**0.5}
        for name in ("source_embedding", "target_embedding")
    }}  # fmt: skip
    run = [
        jit(lambda p, d=d: d.bind(p)(example()))(p)
        for d, p in ((definition, params), (plain, scaled))
    ]
    np.testing.assert_allclose(run[0], run[1], atol=1e-5)


def test_scheduled_sampling_reads_own_predictions():
    definition, params = build("gru", "gru")

    def run(rate):
        key = make_key(0, step=1)
        return definition.bind(params)(example(), key=key, teacher_forcing_rate=rate)

    forced, sampled = run(1.0), run(0.0)
    np.testing.assert_allclose(forced[:, 0], sampled[:, 0], atol=1e-6)
    assert jnp.abs(forced[:, 2] - sampled[:, 2]).max() > 1e-4


def test_refusals():
    def refuse(match, *, vocab=(VOCAB, VOCAB), tie="target_output", length=0, **options):
        config = ModelConfig(
            embed_dim=DIM,
            tie_embeddings=tie,
            encoder=TransformerEncoderConfig(**{**STACK, **options}),
            decoder=TransformerDecoderConfig(**STACK),
        )
        with pytest.raises(ConfigError, match=match):
            check_model(
                config,
                source_vocab_size=vocab[0],
                target_vocab_size=vocab[1],
                max_source_len=length,
            )

    refuse("joint", vocab=(10, 11), tie="all")
    refuse("num_heads", num_heads=3)
    refuse("num_kv_heads", num_kv_heads=3)
    refuse("even", positions="rotary", num_heads=8)
    refuse("max_positions", positions="learned", max_positions=10, length=11)
    refuse("rotary_base=500 would be ignored", rotary_base=500)
    refuse("relative_max_distance=64 would be ignored", relative_max_distance=64)
    unread = {"positions": "rotary", "rotary_scaling": "ntk", "rotary_factor": 2.0}
    refuse("rotary_original_len=8 would be ignored", rotary_original_len=8, **unread)
    refuse("changes nothing", positions="rotary", rotary_scaling="ntk")
    refuse("changes nothing", positions="rotary", rotary_factor=2.0)
    near = {"positions": "relative", "relative_max_distance": 8}
    refuse("relative_max_distance above 8", relative_buckets=32, **near)
    stretched = {"positions": "rotary", "rotary_factor": 2.0}
    refuse("rotary_original_len", rotary_scaling="yarn", **stretched)
    with pytest.raises(ConfigError, match="joint"):
        build_model(
            ModelConfig(embed_dim=DIM, tie_embeddings="all", encoder=ENCODERS["transformer"]),
            source_vocab_size=10,
            target_vocab_size=11,
        )
