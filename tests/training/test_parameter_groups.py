"""Freezing, rates by name and rates by depth, in whole training steps."""

import dataclasses

import jax
import numpy as np
import pytest
from toy_training import toy_batch, toy_definition

from seqgen.errors import ConfigError
from seqgen.nn.parameters import part_names
from seqgen.training.config import MeshConfig, OptimizerConfig, TrainConfig
from seqgen.training.loop import evaluate_all
from seqgen.training.optimizer import build_optimizer
from seqgen.training.parameter_groups import ParameterGroups, depth_from_top
from seqgen.training.setup import TrainSetup
from seqgen.training.state import flatten, fresh_state
from seqgen.training.step import make_update


def train(num_steps=3, *, accumulation_steps=1, mesh=None, **options):
    """Parameters before and after, the last metrics, and the optimiser's leaves."""
    cfg = OptimizerConfig(**{"learning_rate": 0.05, "clip_norm": 1.0, **options})
    setup = TrainSetup.of(
        toy_definition(),
        train_cfg=TrainConfig(accumulation_steps=accumulation_steps, ema_decay=0.9),
        optimizer_cfg=cfg,
        compute_dtype="float32",
        mesh_cfg=mesh or MeshConfig(),
    )
    state, step = setup.init(), setup.make_step()
    before = jax.device_get(state.params)
    metrics = {}
    for index in range(num_steps):
        batches = [toy_batch(index * accumulation_steps + n) for n in range(accumulation_steps)]
        state, metrics = step(state, batches)
    return before, jax.device_get(state.params), jax.device_get(metrics), flatten(state.opt_state)


@pytest.mark.parametrize(
    "how",
    [
        {"freeze": ("table|bias",)},
        {"groups": ("table=0", "bias=0")},
        {
            "freeze": ("table", "bias"),
            "accumulation_steps": 2,
            "name": "adamw",
            "weight_decay": 0.1,
        },
        {"freeze": ("table", "bias"), "mesh": MeshConfig(fsdp=2)},
    ],
    ids=["freeze", "groups", "accumulated", "sharded"],
)
def test_frozen_parameters_keep_every_bit_and_have_no_optimiser_state(how):
    before, after, _, moments = train(**how)
    for name in ("table", "bias"):
        np.testing.assert_array_equal(before[name].view(np.uint32), after[name].view(np.uint32))
        assert not [path for path in moments if path.endswith(name)]
    for name in ("kernel", "output"):
        assert (before[name] != after[name]).any()
        assert [path for path in moments if path.endswith(name)]


def test_the_norm_is_that_of_trained_parameters():
    whole, part = train(1)[2]["grad_norm"], train(1, freeze=("table",))[2]["grad_norm"]
    rest = train(1, freeze=("kernel|bias|output",))[2]["grad_norm"]
    np.testing.assert_allclose(whole**2, part**2 + rest**2, rtol=1e-5)
    assert part < whole


def test_a_multiplier_scales_the_update_exactly():
    options = {"name": "sgd", "clip_norm": 0.0}
    before, whole, _, _ = train(1, **options)
    _, tenth, _, _ = train(1, **options, groups=("kernel=0.25", ".*=1"))
    np.testing.assert_allclose(
        tenth["kernel"] - before["kernel"], 0.25 * (whole["kernel"] - before["kernel"]), atol=1e-7
    )
    np.testing.assert_array_equal(tenth["output"], whole["output"])


NAMES = [
    *(f"encoder/layers/{i}/norm/scale" for i in range(3)),
    *(f"decoder/layers/{i}/norm/scale" for i in range(2)),
    *("encoder/learned_positions/table", "encoder/final_norm/scale"),
    *("source_embedding/table", "target_embedding/table", "output_bias"),
    *(f"decoder/bridge/{i}/kernel" for i in range(5)),
]


def test_depth_counts_from_the_top_of_each_stack():
    depths = depth_from_top(NAMES)
    assert [depths[name] for name in NAMES[:5]] == [3, 2, 1, 2, 1]
    assert depths["encoder/learned_positions/table"] == depths["source_embedding/table"] == 4
    assert depths["target_embedding/table"] == 3
    assert not {"encoder/final_norm/scale", "output_bias", "decoder/bridge/1/kernel"} & set(depths)
    both_ways = [f"encoder/{way}/{i}/kernel" for way in ("forward", "backward") for i in range(2)]
    assert list(depth_from_top(both_ways).values()) == [2, 1, 2, 1]
    shared = depth_from_top([name for name in NAMES if name != "source_embedding/table"])
    assert shared["target_embedding/table"] == 4, "read by both stacks"


def abstract(stacked):
    shape = {"scale": jax.ShapeDtypeStruct((4, 5) if stacked else (5,), np.float32)}
    axes = {"scale": ("layers", "embed") if stacked else ("embed",)}
    if stacked:
        return {"decoder": {"layers": {"norm": shape}}}, {"decoder": {"layers": {"norm": axes}}}
    layers = {str(i): {"norm": shape} for i in range(4)}
    return {"decoder": {"layers": layers}}, {
        "decoder": {"layers": {str(i): {"norm": axes} for i in range(4)}}
    }


def test_stacked_layers_have_the_rates_of_listed_ones():
    cfg = OptimizerConfig(layer_decay=0.5, freeze=("decoder/layers/[01]/.*",))
    listed = ParameterGroups.of(*abstract(stacked=False), cfg)
    stacked = ParameterGroups.of(*abstract(stacked=True), cfg)
    rates = stacked.rates["decoder"]["layers"]["norm"]["scale"]
    assert rates.shape == (4, 1)
    expected = [listed.rates["decoder"]["layers"][str(i)]["norm"]["scale"] for i in range(4)]
    assert rates[:, 0].tolist() == expected == [0.0, 0.0, 0.25, 0.5]
    assert set(listed.select(listed.rates)["decoder"]["layers"]) == {"2", "3"}
    assert stacked.select(stacked.rates)["decoder"]["layers"]["norm"]["scale"] is rates
    assert part_names("decoder/layers/norm/scale", ("layers", "embed"), (4, 5))[1] == (
        "decoder/layers/1/norm/scale"
    )


def test_frozen_layers_of_a_stack_keep_every_bit():
    shapes, axes = abstract(stacked=True)
    cfg = OptimizerConfig(name="adam", learning_rate=0.1, freeze=("decoder/layers/[01]/.*",))
    groups = ParameterGroups.of(shapes, axes, cfg)
    optimizer = build_optimizer(cfg, num_steps=5, axes=axes, groups=groups)
    start = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)
    start[0, 0] = -0.0
    params = {"decoder": {"layers": {"norm": {"scale": start}}}}
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    after = np.asarray(start + updates["decoder"]["layers"]["norm"]["scale"])
    np.testing.assert_array_equal(after[:2].view(np.uint32), start[:2].view(np.uint32))
    assert (after[2:] != start[2:]).all()


@pytest.mark.parametrize("poison", [0.0, np.nan])
def test_frozen_layers_of_a_stack_count_for_nothing(poison):
    """Neither in the norm, nor in clipping, nor in what makes a step bad."""
    shapes, axes = abstract(stacked=True)
    options = {"name": "sgd", "learning_rate": 1.0, "schedule": "constant", "clip_norm": 0.5}
    cfg = OptimizerConfig(**options, freeze=("decoder/layers/[01]/.*",))
    groups = ParameterGroups.of(shapes, axes, cfg)
    optimizer = build_optimizer(cfg, num_steps=5, axes=axes, groups=groups)
    update = make_update(
        optimizer, train_cfg=TrainConfig(ema_decay=0.9), optimizer_cfg=cfg, groups=groups
    )

    def nest(value):
        return {"decoder": {"layers": {"norm": {"scale": value}}}}

    grad = np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)
    grad[0] += poison
    place = {"groups": groups, "seed": 0, "use_ema": True, "carry": None}
    state = fresh_state(nest(np.zeros((4, 5), np.float32)), optimizer, **place)
    sums = dict.fromkeys(("loss", "nll", "correct", "weight"), np.ones((), np.float32))
    after, metrics = update(state, nest(grad), sums)
    norm = np.sqrt((grad[2:] ** 2).sum())
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-6)
    expected = np.concatenate([np.zeros((2, 5)), -grad[2:] * 0.5 / norm])
    scale = after.params["decoder"]["layers"]["norm"]["scale"]
    np.testing.assert_allclose(scale, expected, rtol=1e-5)
    assert metrics["bad"] == 0


def test_there_is_no_average_of_what_is_frozen():
    setup = TrainSetup.of(
        toy_definition(),
        train_cfg=TrainConfig(ema_decay=0.9),
        optimizer_cfg=OptimizerConfig(freeze=("table|bias",)),
        compute_dtype="float32",
    )
    state = setup.init()
    assert set(state.ema) == {"kernel", "output"}
    state = dataclasses.replace(state, ema={"kernel": "averaged", "output": "averaged too"})
    seen = []
    evaluate_all([lambda params, step: (seen.append(params) or {}, [])], state, 0)
    (params,) = seen
    assert params == state.ema | {name: state.params[name] for name in ("table", "bias")}


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"freeze": (".*",)}, "leaves nothing to train"),
        ({"freeze": ("kernels",)}, "fits the whole name of no parameter"),
        ({"freeze": ("ker(nel",)}, "no regular expression"),
        ({"groups": ("kernel",)}, "bad rule"),
        ({"groups": ("kernel=-1",)}, "bad rule"),
    ],
)
def test_patterns_that_do_nothing_are_refused(options, cause):
    definition = toy_definition()
    with pytest.raises(ConfigError, match=cause):
        ParameterGroups.of(definition.abstract, definition.axes, OptimizerConfig(**options))
