"""State carried over streams of text: reading in parts is reading at once, but for the gradient."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_step import LINEAR, setup

from seqgen.data import DataConfig
from seqgen.data.contiguous import ContiguousText, cut, eval_windows, text_shape
from seqgen.errors import ConfigError
from seqgen.evaluation.evaluators import teacher_forced_values
from seqgen.models import build_model
from seqgen.models.config import (
    ModelConfig,
    NoEncoderConfig,
    RecurrentDecoderConfig,
    TransformerDecoderConfig,
)
from seqgen.training.carry import abstract_carry, enter, leave
from seqgen.training.config import MeshConfig, TrainConfig
from seqgen.training.loss import make_carrying_loss, make_eval_step
from seqgen.training.sharding import Layout
from seqgen.training.state import flatten, snapshot

VOCAB, ROWS, LENGTH = 11, 2, 4
IDS = np.random.default_rng(0).integers(4, VOCAB, 8 * ROWS * LENGTH)
KINDS = ("lstm", "gru", "minlstm")


@functools.cache
def model(kind="lstm", *, dropout_rate=0.0):
    decoder = RecurrentDecoderConfig(
        kind=kind,
        num_layers=2,
        hidden_dim=6,
        attention="none",
        bridge="zero",
        dropout_rate=dropout_rate,
        weight_dropout_rate=dropout_rate,
    )
    cfg = ModelConfig(
        embed_dim=6, encoder=NoEncoderConfig(), decoder=decoder, dropout_rate=dropout_rate
    )
    return build_model(cfg, source_vocab_size=VOCAB, target_vocab_size=VOCAB)


def batch(index, length=LENGTH, ids=IDS):
    cfg = DataConfig(batching="streams", block_len=length, num_rows=ROWS)
    text = ContiguousText(ids, cfg)
    return text.batch(text.plan(rows_multiple=1, seed=0), index, seed=0)


def carrying_loss(definition):
    return make_carrying_loss(definition, TrainConfig(), compute_dtype="float32")


def zeros(definition, rows=ROWS):
    shapes = abstract_carry(definition, rows)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)


@functools.cache
def read(kind):
    """Loss, states and gradient of two batches in turn, each way, and of one of double length."""
    definition = model(kind)
    loss, params = carrying_loss(definition), definition.init(jax.random.key(1))

    @jax.jit
    def in_turn(params, carry):
        first, (_, carry) = loss(params, batch(0), None, carry)
        second, (_, carry) = loss(params, batch(1), None, carry)
        return first + second, carry

    @jax.jit
    def at_once(params, carry):
        total, (_, carry) = loss(params, batch(0, 2 * LENGTH), None, carry)
        return total, carry

    both = (jax.value_and_grad(f, has_aux=True)(params, zeros(definition))
            for f in (in_turn, at_once))  # fmt: skip
    one = jax.jit(jax.grad(lambda p, batch, carry: loss(p, batch, None, carry), has_aux=True))
    first, (_, carry) = one(params, batch(0), zeros(definition))
    second, _ = one(params, batch(1), carry)
    return *both, jax.tree.map(jnp.add, first, second)


@pytest.mark.parametrize("kind", KINDS)
def test_two_batches_in_turn_are_one_of_double_length(kind):
    ((loss, carry), _), ((whole_loss, whole_carry), _), _ = read(kind)
    np.testing.assert_allclose(loss, whole_loss, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), carry, whole_carry)
    assert min(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(carry)) > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_ends_at_the_border(kind):
    """Differentiated through both batches it is the sum of each one's with its states given."""
    (_, in_turn), (_, whole), apart = read(kind)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), in_turn, apart)
    gap = max(jax.tree.leaves(jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), whole, apart)))
    assert gap > 1e-3


def train(num_steps, *, mesh_cfg=None, spoil=None, start=0, length=LENGTH):
    """States after each step from batch `start` on; the batch `spoil` has an infinite weight."""
    step, state = setup(
        definition=model(dropout_rate=0.3),
        optimizer_cfg=LINEAR,
        mesh_cfg=mesh_cfg,
        carry_rows=ROWS,
    )
    states = [snapshot(state)]
    for index in range(start, start + num_steps):
        given = batch(index, length)
        if index == spoil:
            given = dataclasses.replace(given, weights=given.weights * np.float32(np.inf))
        state, _ = step(state, [given])
        states.append(snapshot(state))
    return states


def same(a, b):
    return all(map(np.array_equal, jax.tree.leaves(a), jax.tree.leaves(b)))


def test_a_bad_step_leaves_the_states_of_its_own_streams():
    """In the midst of an epoch those before it; at its start zeros, not the last epoch's end."""
    middle = train(3, spoil=1)
    assert middle[2].counters["bad_steps"] == 1
    assert same(middle[2].carry, middle[1].carry) and same(middle[2].params, middle[1].params)
    assert not same(middle[3].carry, middle[2].carry)
    start = train(2, spoil=1, length=len(IDS) // ROWS)  # each batch is an epoch
    assert np.abs(start[1].carry["0"]["h"]).max() > 0
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(start[2].carry))


def test_states_that_are_not_finite_are_not_carried_on():
    old = {"0": {"h": jnp.ones((2, 3)), "c": jnp.ones((2, 3))}}
    new = {"0": {"h": jnp.zeros((2, 3)), "c": jnp.zeros((2, 3)).at[1, 1].set(jnp.inf)}}
    assert same(leave(jnp.asarray(True), new, old), old)
    doubled = jax.tree.map(lambda leaf: 2 * leaf, old)
    assert same(leave(jnp.asarray(True), doubled, old), doubled)
    assert same(leave(jnp.asarray(False), doubled, old), old)


def test_an_epoch_starts_from_zeros():
    ones = jax.tree.map(jnp.ones_like, zeros(model()))
    per_epoch = len(IDS) // (ROWS * LENGTH)
    for index in range(2 * per_epoch):
        expected = 0 if index % per_epoch == 0 else 1
        entered = jax.tree.leaves(enter(ones, batch(index)))
        assert all((leaf == expected).all() for leaf in entered), index


@pytest.mark.parametrize("mesh", [MeshConfig(data=2), MeshConfig(fsdp=2)])
def test_rows_stay_with_their_devices(mesh):
    one, two = train(3)[-1], train(3, mesh_cfg=mesh)[-1]
    for name, leaf in flatten(one).items():
        np.testing.assert_allclose(leaf, flatten(two)[name], atol=1e-5, err_msg=name)


def evaluate(length):
    definition = model()
    step = make_eval_step(
        definition,
        train_cfg=TrainConfig(),
        layout=Layout.of(MeshConfig()),
        compute_dtype="float32",
        streams=True,
    )
    shape = text_shape(DataConfig(batching="streams", block_len=length, num_rows=ROWS))
    ids = IDS[:61]
    batches = [cut(ids, at, length=length) for at in eval_windows(len(ids), shape, streams=True)]
    params = definition.init(jax.random.key(1))
    once = teacher_forced_values(step, params, batches)
    assert teacher_forced_values(step, params, batches) == once, "each pass starts anew"
    return once


def test_perplexity_does_not_depend_on_the_length_of_blocks():
    """Nor do blocks lose context: one block holds all of the text."""
    short, long = evaluate(8), evaluate(64)
    for name, value in long.items():
        assert short[name] == pytest.approx(value, rel=1e-5), name


def test_a_transformer_carries_no_state():
    decoder = TransformerDecoderConfig(num_layers=1, num_heads=2, ff_dim=8)
    cfg = ModelConfig(embed_dim=6, encoder=NoEncoderConfig(), decoder=decoder)
    definition = build_model(cfg, source_vocab_size=VOCAB, target_vocab_size=VOCAB)
    with pytest.raises(ConfigError, match="carries a recurrent state"):
        abstract_carry(definition, 2)
