import functools
import re

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from test_step import LINEAR, setup
from toy_training import VOCAB, toy_batch, toy_definition

from seqgen.errors import ConfigError
from seqgen.models import build_model
from seqgen.models.config import (
    ModelConfig,
    NoEncoderConfig,
    RecurrentEncoderConfig,
    TransformerDecoderConfig,
)
from seqgen.nn.dropout import make_key
from seqgen.training.checkpoint import CheckpointStore
from seqgen.training.config import MeshConfig, OptimizerConfig, TrainConfig
from seqgen.training.loss import make_loss
from seqgen.training.setup import TrainSetup
from seqgen.training.sharding import Layout, mesh_rules, rows_multiple
from seqgen.training.state import flatten, state_digest

EIGHT = MeshConfig(data=2, fsdp=2, tensor=2)


MESHES = {"one": MeshConfig(), "mixed": EIGHT, "data": MeshConfig(data=8)}


def toy_setup(mesh_cfg, *, definition=None, optimizer_cfg=LINEAR, **options):
    return TrainSetup.of(
        definition or toy_definition(),
        train_cfg=TrainConfig(**options),
        optimizer_cfg=optimizer_cfg,
        compute_dtype="float32",
        mesh_cfg=mesh_cfg,
    )


@functools.cache
def two_steps(mesh, definition=None):
    """The state and losses after two steps with dropout, and the compile reports."""
    reports = []
    step, state = setup(
        definition=definition, mesh_cfg=MESHES[mesh], optimizer_cfg=LINEAR, reports=reports
    )
    losses = []
    for index in range(2):
        state, metrics = step(state, [toy_batch(index)])
        losses.append(float(metrics["loss"]))
    return state, losses, reports


REAL = {
    "all": RecurrentEncoderConfig(kind="lstm", num_layers=1, hidden_dim=16),
    "target_output": NoEncoderConfig(source_prefix=True),
}


@pytest.mark.parametrize("tie", REAL)
def test_a_real_model_on_eight_devices_equals_one(tie):
    cfg = ModelConfig(
        embed_dim=16,
        tie_embeddings=tie,
        encoder=REAL[tie],
        decoder=TransformerDecoderConfig(num_layers=1, num_heads=2, ff_dim=32, norm_position="pre"),
    )
    definition = build_model(cfg, source_vocab_size=VOCAB, target_vocab_size=VOCAB)
    one, losses_one, _ = two_steps("one", definition)
    eight, losses_eight, reports = two_steps("mixed", definition)
    np.testing.assert_allclose(losses_one, losses_eight, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(eight.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert len(reports) == 1


@pytest.mark.parametrize("mesh", ["mixed", "data"])
def test_eight_devices_equal_one_with_dropout_on(mesh):
    one, losses_one, _ = two_steps("one")
    eight, losses_eight, reports = two_steps(mesh)
    np.testing.assert_allclose(losses_one, losses_eight, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(eight.params), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)
    assert len(reports) == 1, "the second step compiled again"


def test_parameters_and_moments_are_really_cut():
    state, _, _ = two_steps("mixed")
    kernel = flatten(state.params)["kernel"]
    assert kernel.sharding.spec == P("fsdp", "tensor")
    assert kernel.addressable_shards[0].data.size == kernel.size // 4
    moments = [leaf for path, leaf in flatten(state.opt_state).items() if path.endswith("/kernel")]
    assert len(moments) == 1, "the momentum"
    for moment in moments:
        assert moment.sharding.is_equivalent_to(kernel.sharding, 2)


@pytest.mark.parametrize("target", ["one", "data", "mixed"])
def test_a_checkpoint_moves_between_meshes_without_changing_a_bit(tmp_path, target):
    state, _, _ = two_steps("mixed")
    store = CheckpointStore(tmp_path, asynchronous=False)
    store.save(2, state, {})
    abstract = toy_setup(MESHES[target]).abstract
    moved, _ = store.restore(abstract)
    assert state_digest(moved) == state_digest(state)
    for leaf, wanted in zip(jax.tree.leaves(moved), jax.tree.leaves(abstract), strict=True):
        assert leaf.sharding == wanted.sharding


@pytest.mark.parametrize("mesh", MESHES)
def test_the_abstract_state_is_the_state_without_its_numbers(mesh):
    training = toy_setup(MESHES[mesh], optimizer_cfg=OptimizerConfig(), ema_decay=0.9)
    abstract, real = training.abstract, training.init()
    assert jax.tree.structure(abstract) == jax.tree.structure(real)
    for wanted, leaf in zip(jax.tree.leaves(abstract), jax.tree.leaves(real), strict=True):
        assert (wanted.shape, wanted.dtype) == (leaf.shape, leaf.dtype)
        assert wanted.sharding.is_equivalent_to(leaf.sharding, leaf.ndim)


def test_shardings_follow_paths_even_between_equal_shapes():
    """Two parameters of one shape and different axes keep their own layouts in the moments."""
    abstract = toy_setup(EIGHT, optimizer_cfg=OptimizerConfig(), ema_decay=0.9).abstract
    wanted = {path: leaf.sharding for path, leaf in flatten(abstract.params).items()}
    for part in (abstract.opt_state, abstract.ema):
        for path, leaf in flatten(part).items():
            name = path.rsplit("/", 1)[-1]
            if name in wanted:
                assert leaf.sharding == wanted[name], path


def test_no_device_holds_the_whole_vocabulary_in_a_step():
    """Neither look-up nor loss nor their gradients: no other length here is 44."""
    vocab_size = 44
    cfg = ModelConfig(
        embed_dim=16,
        tie_embeddings="all",
        encoder=RecurrentEncoderConfig(kind="simple", num_layers=1, hidden_dim=8),
        decoder=TransformerDecoderConfig(num_layers=1, num_heads=2, ff_dim=32),
    )
    definition = build_model(cfg, source_vocab_size=vocab_size, target_vocab_size=vocab_size)
    training = toy_setup(MeshConfig(data=2, tensor=4), definition=definition)
    layout, params = training.layout, training.abstract.params
    places = jax.tree.map(lambda leaf: leaf.sharding, params)
    loss = make_loss(definition, TrainConfig(z_loss=0.01), compute_dtype="float32")
    gradients = jax.jit(
        jax.grad(lambda params, batch: loss(params, batch, make_key(0, step=0))[0]),
        in_shardings=(places, layout.rows),
        out_shardings=places,
    )
    with layout.activations():
        program = gradients.lower(params, toy_batch(0)).compile().as_text()
    shapes = set(re.findall(r"\w\[([\d,]+)\]", program))
    lengths = {int(length) for shape in shapes for length in shape.split(",")}
    assert vocab_size // 4 in lengths and vocab_size not in lengths


def test_too_few_devices_say_so():
    with pytest.raises(ConfigError, match="64 devices"):
        Layout.of(MeshConfig(data=64))


def test_rules_are_changed_by_name():
    rules = mesh_rules(MeshConfig(rules=("embed=fsdp,tensor", "vocab=")))
    assert rules["embed"] == ("fsdp", "tensor")
    assert rules["vocab"] == ()
    assert rules["mlp"] == ("tensor",)


@pytest.mark.parametrize("rule", ["embd=fsdp", "embed=tenser", "embed"])
def test_bad_rules_are_refused(rule):
    with pytest.raises(ConfigError, match="did you mean"):
        mesh_rules(MeshConfig(rules=(rule,)))


def test_rows_divide_over_data_and_fsdp():
    assert rows_multiple(MeshConfig(data=2, fsdp=4, tensor=8)) == 8
