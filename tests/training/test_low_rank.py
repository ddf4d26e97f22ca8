"""Low-rank adaptation: at first the base itself, then the base plus A B, and nothing else moves."""

import functools

import jax
import numpy as np
import pytest
from toy_training import VOCAB, toy_batch, toy_definition

from seqgen.errors import ConfigError
from seqgen.models import ModelConfig, build_model
from seqgen.models.config import RecurrentDecoderConfig, TransformerEncoderConfig
from seqgen.nn.low_rank import LowRankDefinition
from seqgen.training.config import OptimizerConfig, TrainConfig
from seqgen.training.parameter_groups import depth_from_top
from seqgen.training.setup import TrainSetup
from seqgen.training.state import flatten

# What is compiled here runs once, so the compiler's own time is all that counts.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
RANK, ALPHA = 2, 6.0


@functools.cache
def pairing():
    """Stacked attention layers and a recurrent decoder with attention, adapted and not."""
    encoder = TransformerEncoderConfig(num_layers=2, num_heads=2, ff_dim=12, scan_layers=True)
    decoder = RecurrentDecoderConfig(kind="lstm", num_layers=1, hidden_dim=12, attention_dim=6)
    config = ModelConfig(embed_dim=8, encoder=encoder, decoder=decoder)
    base = build_model(config, source_vocab_size=VOCAB, target_vocab_size=VOCAB)
    return base, LowRankDefinition(base, rank=RANK, alpha=ALPHA, targets=(".*kernel",))


def test_at_first_the_model_is_the_base_exactly():
    base, adapted = pairing()
    key = jax.random.key(3)

    @jit
    def both(batch):
        plain, params = base.init(key), adapted.init(key)
        return base.bind(plain)(batch), adapted.bind(params)(batch), plain, params

    expected, found, plain, params = both(toy_batch(0))
    np.testing.assert_array_equal(found, expected)
    ours, theirs = flatten(params), flatten(plain)
    for name, leaf in theirs.items():
        np.testing.assert_array_equal(ours[name], leaf)
    added = {name: leaf for name, leaf in ours.items() if name.startswith("lora/")}
    kernels = [name for name in theirs if name.endswith("kernel")]
    assert set(added) == {f"lora/{name}/{letter}" for name in kernels for letter in "ab"}
    stacked = "encoder/layers/self_attention/query/kernel"
    assert added[f"lora/{stacked}/a"].shape == (2, 8, RANK)
    assert added[f"lora/{stacked}/b"].shape == (2, RANK, 8)
    assert any("decoder/" in name and "recurrent" not in stacked for name in kernels)
    assert all((leaf != 0).all() == name.endswith("/a") for name, leaf in added.items())


def test_merged_weights_are_the_sum_in_numpy():
    base, adapted = pairing()
    random = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: random.standard_normal(leaf.shape).astype(np.float32), adapted.abstract
    )
    merged, ours = flatten(jit(adapted.merge)(params)), flatten(params)
    assert adapted.base is base is base.base and base.merge(params) is params
    assert set(merged) == set(flatten(base.abstract))
    for name, leaf in merged.items():
        expected = ours[name].astype(np.float64)
        if name.endswith("kernel"):
            a, b = (ours[f"lora/{name}/{letter}"].astype(np.float64) for letter in "ab")
            expected = expected + ALPHA / RANK * (a @ b)
        np.testing.assert_allclose(leaf, expected, rtol=1e-5, atol=1e-5)


def test_only_a_and_b_are_trained():
    base = toy_definition()
    options = {"targets": ("kernel", "output"), "also_trained": ("bias",)}
    adapted = LowRankDefinition(base, rank=RANK, alpha=ALPHA, **options)
    setup = TrainSetup.of(
        adapted,
        train_cfg=TrainConfig(),
        optimizer_cfg=OptimizerConfig(learning_rate=0.05, clip_norm=1.0),
        compute_dtype="float32",
    )
    state, step = setup.init(), setup.make_step()
    before = flatten(jax.device_get(state.params))
    losses = []
    for index in range(12):
        state, metrics = step(state, [toy_batch(index % 3)])
        losses.append(float(metrics["loss"]))
    after = flatten(jax.device_get(state.params))
    moved = {name for name in before if (before[name] != after[name]).any()}
    trained = {f"lora/{name}/{letter}" for name in ("kernel", "output") for letter in "ab"}
    assert moved == trained | {"bias"}
    assert {
        name for path in flatten(state.opt_state) for name in before if path.endswith(name)
    } <= (moved)
    assert losses[-1] < losses[0] - 0.05


def test_what_is_added_lies_as_deep_as_its_matrix():
    names = [f"decoder/layers/{i}/kernel" for i in range(3)]
    depths = depth_from_top([*names, *(f"lora/{name}/a" for name in names)])
    assert [depths[f"lora/{name}/a"] for name in names] == [depths[name] for name in names]


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"targets": ("kernle",)}, "fits the whole name of no matrix"),
        ({"targets": ("bias",)}, "fits the whole name of no matrix"),
        ({"targets": ("kernel",), "rank": 17}, "rows or columns"),
        ({"targets": ("kernel",), "also_trained": ("head",)}, "no parameter"),
        ({"targets": ("ker(nel",)}, "lora.targets: .* is no regular expression"),
        ({"targets": ("kernel",), "also_trained": ("[",)}, "lora.train: .* no regular expression"),
    ],
)
def test_targets_that_cannot_be_adapted_are_refused(options, cause):
    with pytest.raises(ConfigError, match=cause):
        LowRankDefinition(toy_definition(), **{"rank": RANK, "alpha": 1.0, **options})
