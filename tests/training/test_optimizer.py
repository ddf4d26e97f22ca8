import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from seqgen.training.config import OptimizerConfig, TrainConfig
from seqgen.training.optimizer import build_optimizer, learning_rate, plain_dict
from seqgen.training.parameter_groups import ParameterGroups
from seqgen.training.state import TrainState
from seqgen.training.step import make_update


def params():
    random = np.random.default_rng(0)
    return {
        "layer": {
            "kernel": random.standard_normal((6, 4)).astype(np.float32),
            "bias": random.standard_normal(4).astype(np.float32),
        }
    }


AXES = {"layer": {"kernel": ("embed", "mlp"), "bias": ("mlp",)}}


def build(cfg, like=None, axes=AXES):
    groups = ParameterGroups.of(params() if like is None else like, axes, cfg)
    return build_optimizer(cfg, num_steps=10, axes=axes, groups=groups)


def gradients(step):
    random = np.random.default_rng(100 + step)
    return jax.tree.map(lambda p: random.standard_normal(p.shape).astype(np.float32), params())


def run(optimizer, num_updates=4):
    now = jax.tree.map(jnp.asarray, params())
    state = optimizer.init(now)
    for step in range(num_updates):
        updates, state = optimizer.update(gradients(step), state, now)
        now = optax.apply_updates(now, updates)
    return jax.tree.map(np.asarray, now), state


def assert_close(ours, theirs, tolerance=1e-6):
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance)


def test_adam_is_the_textbook_recurrence():
    cfg = OptimizerConfig(learning_rate=0.1, schedule="constant", b1=0.8, b2=0.95, eps=1e-6)
    ours, _ = run(build(cfg))
    now = params()["layer"]["kernel"].astype(np.float64)
    first = second = np.zeros_like(now)
    for t in range(1, 5):
        grad = gradients(t - 1)["layer"]["kernel"].astype(np.float64)
        first = 0.8 * first + 0.2 * grad
        second = 0.95 * second + 0.05 * grad**2
        now = now - 0.1 * (first / (1 - 0.8**t)) / (np.sqrt(second / (1 - 0.95**t)) + 1e-6)
    np.testing.assert_allclose(ours["layer"]["kernel"], now, rtol=1e-5, atol=1e-6)


def test_adamw_decays_matrices_and_leaves_vectors():
    cfg = OptimizerConfig(name="adamw", learning_rate=0.1, schedule="constant", weight_decay=0.3)
    mask = {"layer": {"kernel": True, "bias": False}}
    reference = optax.adamw(0.1, weight_decay=0.3, mask=mask)
    assert_close(run(build(cfg))[0], run(reference)[0])


def test_decay_goes_by_axis_names_when_layers_are_stacked():
    """A stacked bias has two dimensions, but it is still a bias."""
    cfg = OptimizerConfig(name="adamw", learning_rate=0.1, schedule="constant", weight_decay=0.5)
    stacked_axes = {"layer": {"kernel": ("layers", "embed", "mlp"), "bias": ("layers", "mlp")}}
    stack = jax.tree.map(lambda leaf: leaf[None], params())
    plain, stacked = build(cfg), build(cfg, stack, stacked_axes)
    grads = gradients(0)
    one, _ = plain.update(grads, plain.init(params()), params())
    grads_stack = jax.tree.map(lambda leaf: leaf[None], grads)
    other, _ = stacked.update(grads_stack, stacked.init(stack), stack)
    assert_close(one, jax.tree.map(lambda leaf: leaf[0], other))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_equals_optax(momentum):
    cfg = OptimizerConfig(name="sgd", learning_rate=0.05, schedule="constant", momentum=momentum)
    reference = optax.sgd(0.05, momentum=momentum or None)
    assert_close(run(build(cfg))[0], run(reference)[0])


def test_adafactor_equals_optax_and_keeps_factors_only_for_large_matrices():
    cfg = OptimizerConfig(name="adafactor", learning_rate=0.05, schedule="constant")
    reference = optax.adafactor(0.05)
    ours, _ = run(build(cfg))
    assert_close(ours, run(reference)[0], tolerance=1e-5)
    large = {"kernel": jnp.ones((256, 384))}
    state = build(cfg, large, {"kernel": ("embed", "mlp")}).init(large)
    sizes = [leaf.size for leaf in jax.tree.leaves(state)]
    assert max(sizes) == 384


@pytest.mark.parametrize("clip_norm", [0.0, 0.5, 1e9])
def test_clipping_bounds_the_global_norm(clip_norm):
    cfg = OptimizerConfig(name="sgd", learning_rate=1.0, schedule="constant", clip_norm=clip_norm)
    optimizer, groups = build(cfg), ParameterGroups.of(params(), AXES, cfg)
    zero = jnp.zeros((), jnp.int32)
    counters = {"bad_steps": zero, "bad_run": zero}
    state = TrainState(zero, params(), optimizer.init(params()), zero, None, counters)
    update = make_update(optimizer, train_cfg=TrainConfig(), optimizer_cfg=cfg, groups=groups)
    weight = 4.0
    sums = {"loss": 8.0, "nll": 8.0, "correct": 1.0, "weight": weight}
    after, metrics = jax.jit(update)(state, gradients(0), sums)
    means = jax.tree.map(lambda leaf: leaf / weight, gradients(0))
    norm = np.sqrt(sum(np.sum(leaf**2) for leaf in jax.tree.leaves(means)))
    scale = min(1.0, clip_norm / norm) if clip_norm else 1.0
    assert_close(after.params, jax.tree.map(lambda p, g: p - scale * g, params(), means), 1e-5)
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-5)


def test_state_is_plain_dicts_of_arrays():
    def check(node):
        if isinstance(node, dict):
            assert all(isinstance(key, str) for key in node)
            for value in node.values():
                check(value)
        else:
            assert hasattr(node, "shape")

    for name in ("adam", "adamw", "adafactor", "sgd"):
        cfg = OptimizerConfig(name=name, clip_norm=1.0, weight_decay=0.1)
        state = build(cfg).init(params())
        assert type(state) is dict
        check(state)


def test_plain_dict_keeps_every_leaf():
    inner = optax.adam(1e-3).init(params())
    assert len(jax.tree.leaves(plain_dict(inner))) == len(jax.tree.leaves(inner))


@pytest.mark.parametrize("schedule", ["noam", "inverse_sqrt", "cosine", "linear", "constant"])
def test_warm_up_rises_in_a_line_and_ends_at_the_peak(schedule):
    cfg = OptimizerConfig(learning_rate=0.02, schedule=schedule, warmup_steps=10)
    rates = [float(learning_rate(cfg, step, num_steps=100)) for step in range(100)]
    np.testing.assert_allclose(rates[:10], 0.02 * np.arange(1, 11) / 10, rtol=1e-6)
    assert max(rates) == pytest.approx(0.02)


def test_courses_after_the_warm_up():
    def rate(schedule, step, **options):
        cfg = OptimizerConfig(learning_rate=1.0, schedule=schedule, warmup_steps=4, **options)
        return float(learning_rate(cfg, step, num_steps=100))

    # Vaswani et al.: min(u^-0.5, u * warmup^-1.5), scaled to a peak of 1.
    for step in (3, 10, 63):
        expected = 4**0.5 * min((step + 1) ** -0.5, (step + 1) * 4**-1.5)
        assert rate("noam", step) == pytest.approx(expected, rel=1e-6)
    assert rate("inverse_sqrt", 15) == pytest.approx(0.5)
    assert rate("cosine", 51) == pytest.approx(0.5, abs=1e-6)
    assert rate("cosine", 99) == pytest.approx(0.0, abs=1e-6)
    assert rate("linear", 51, final_learning_rate_fraction=0.2) == pytest.approx(0.6, abs=1e-6)
    assert rate("linear", 500, final_learning_rate_fraction=0.2) == pytest.approx(0.2, abs=1e-6)
    assert rate("linear", 27, decay_steps=52) == pytest.approx(0.5, abs=1e-6)
    assert rate("constant", 99) == 1.0


def test_no_warm_up_starts_at_the_peak():
    for schedule in ("inverse_sqrt", "constant", "cosine"):
        cfg = OptimizerConfig(learning_rate=0.3, schedule=schedule, warmup_steps=0)
        assert float(learning_rate(cfg, 0, num_steps=10)) == pytest.approx(0.3, rel=0.05)


def test_unknown_optimizer_names_the_nearest():
    with pytest.raises(ValueError, match="adamw"):
        build(OptimizerConfig(name="adamW2"))
