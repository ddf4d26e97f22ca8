import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toy_training import toy_batch, toy_definition

from seqgen.nn.dropout import make_key
from seqgen.training.compilation import count_flops
from seqgen.training.config import MeshConfig, OptimizerConfig, TrainConfig
from seqgen.training.loss import make_eval_step, make_loss
from seqgen.training.setup import TrainSetup
from seqgen.training.sharding import Layout
from seqgen.training.state import flatten, seed_key, snapshot, state_digest
from seqgen.training.state_groups import from_groups, to_groups
from seqgen.training.step import make_update

OPTIMIZER = OptimizerConfig(learning_rate=0.05, schedule="constant", clip_norm=1.0)
# Its update is linear in the gradient; Adam's first one is the sign, which magnifies rounding.
LINEAR = OptimizerConfig(name="sgd", learning_rate=1.0, schedule="constant", momentum=0.9)


def setup(
    *,
    definition=None,
    mesh_cfg=None,
    optimizer_cfg=OPTIMIZER,
    dropout_rate=0.1,
    reports=None,
    carry_rows=0,
    **options,
):
    training = TrainSetup.of(
        definition or toy_definition(dropout_rate=dropout_rate),
        train_cfg=TrainConfig(num_steps=50, loss_chunk_tokens=8, **options),
        optimizer_cfg=optimizer_cfg,
        compute_dtype="float32",
        mesh_cfg=mesh_cfg,
        carry_rows=carry_rows,
    )
    step = training.make_step(report=(reports if reports is not None else []).append)
    return step, training.init()


def join(batches):
    """Micro-batches of one length under each other."""
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *batches)


def poison(batch):
    return dataclasses.replace(batch, weights=np.full_like(batch.weights, np.nan))


def borrowable(array):
    """A copy at an address that lets JAX on a CPU use it in place."""
    room = np.zeros(array.nbytes + 64, np.uint8)
    copy = room[-room.ctypes.data % 64 :][: array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


@pytest.fixture
def backend_compiles():
    """Names of programs that XLA really compiled or loaded, as they come."""
    seen = []

    def listen(event, duration, **unused):
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield seen
    jax.monitoring.unregister_event_duration_listener(listen)


def test_four_micro_batches_equal_one_batch_with_unequal_token_counts():
    parts = [toy_batch(i, rows=2, length=6) for i in range(4)]
    counts = {int(part.weights.sum()) for part in parts}
    assert len(counts) > 1, "the law is about unequal counts"
    whole, state = setup(dropout_rate=0.0, optimizer_cfg=LINEAR)
    after_whole, metrics_whole = whole(state, [join(parts)])
    cut, state = setup(dropout_rate=0.0, optimizer_cfg=LINEAR, accumulation_steps=4)
    after_cut, metrics_cut = cut(state, parts)
    for name in ("loss", "accuracy", "grad_norm", "weight"):
        np.testing.assert_allclose(metrics_whole[name], metrics_cut[name], rtol=1e-5)
    for one, other in zip(
        jax.tree.leaves(after_whole.params), jax.tree.leaves(after_cut.params), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_the_mean_of_means_would_not_pass():
    """The law above has teeth: averaging micro-batch means gives another loss."""
    parts = [toy_batch(i, rows=2, length=6) for i in range(4)]
    step, state = setup(dropout_rate=0.0)
    params = snapshot(state.params)
    loss = make_loss(toy_definition(dropout_rate=0.0), TrainConfig(), compute_dtype="float32")
    sums = [loss(params, part, None)[1] for part in parts]
    mean_of_means = np.mean([float(part["loss"] / part["weight"]) for part in sums])
    _, metrics = step(state, [join(parts)])
    assert abs(mean_of_means - float(metrics["loss"])) > 1e-4


def test_accumulated_micro_batches_draw_different_dropout():
    batch = toy_batch(0)
    cut, state = setup(dropout_rate=0.5, accumulation_steps=2)
    _, twice = cut(state, [batch, batch])
    whole, state = setup(dropout_rate=0.5)
    _, once = whole(state, [batch])
    assert float(twice["weight"]) == 2 * float(once["weight"])
    assert float(twice["loss"]) != float(once["loss"])


def test_one_compile_a_shape_and_none_later(backend_compiles):
    reports = []
    step, state = setup(reports=reports)
    batches = [toy_batch(i, length=length) for i, length in enumerate((6, 8, 6, 8, 6, 8))]
    state, _ = step(state, batches[:1])
    state, _ = step(state, batches[1:2])
    jax.block_until_ready(state)
    backend_compiles.clear()
    for batch in batches[2:]:
        state, metrics = step(state, [batch])
    jax.block_until_ready(metrics)
    assert backend_compiles == []
    assert len(reports) == 2


def test_accumulation_compiles_shapes_plus_one(backend_compiles):
    reports = []
    step, state = setup(reports=reports, accumulation_steps=2)
    short, long = toy_batch(0, length=6), toy_batch(1, length=8)
    state, _ = step(state, [short, long])
    backend_compiles.clear()
    for pair in ([long, long], [short, short], [long, short], [short, long]):
        state, _ = step(state, pair)
    jax.block_until_ready(state)
    assert backend_compiles == []
    assert sorted(report.name.split()[0] for report in reports) == ["gradients"] * 2 + ["update"]


def test_the_state_is_donated():
    step, state = setup()
    leaves = jax.tree.leaves((state.params, state.opt_state))
    after, _ = step(state, [toy_batch(0)])
    jax.block_until_ready(after)
    assert all(leaf.is_deleted() for leaf in leaves)


def test_donation_overwrites_no_memory_of_numpy():
    step, state = setup()
    lent = jax.tree.map(borrowable, snapshot(state))
    before = state_digest(lent)
    borrowed = from_groups(state, to_groups(lent))
    assert borrowed.params["bias"].unsafe_buffer_pointer() == lent.params["bias"].ctypes.data
    for _ in range(2):
        borrowed, _ = step(borrowed, [toy_batch(0)])
        state, _ = step(state, [toy_batch(0)])
    assert state_digest(borrowed) == state_digest(state)
    assert state_digest(lent) == before


def test_a_first_state_is_traced_once_and_takes_over_what_it_is_given():
    training = TrainSetup.of(
        toy_definition(),
        train_cfg=TrainConfig(),
        optimizer_cfg=OPTIMIZER,
        compute_dtype="float32",
    )
    traced, given, inner = [], {}, training.optimizer

    def init(params):
        traced.append(1)
        return inner.init(params)

    optimizer = optax.GradientTransformation(init, inner.update)
    training = dataclasses.replace(training, optimizer=optimizer)
    aligned = borrowable(np.zeros(32, np.float32))

    def begin(fresh):
        given.update(fresh)
        return fresh | {"bias": aligned}

    state = training.init(begin)
    assert training.abstract.params["bias"].shape == (32,)
    assert len(traced) == 2, "for the shapes, and for the program"
    assert [given[name].is_deleted() for name in ("table", "kernel", "output")] == [True] * 3
    assert state.params["bias"].unsafe_buffer_pointer() != aligned.ctypes.data


@pytest.mark.parametrize("accumulation_steps", [1, 2])
def test_a_bad_step_changes_nothing_but_the_counters(accumulation_steps):
    step, state = setup(ema_decay=0.9, accumulation_steps=accumulation_steps)
    good = [toy_batch(0)] * accumulation_steps
    state, _ = step(state, good)
    before = snapshot(state)
    bad = [*good[1:], poison(toy_batch(1))]
    state, metrics = step(state, bad)
    after = snapshot(state)
    assert int(metrics["bad"]) == 1
    for part in ("params", "opt_state", "ema", "key"):
        assert state_digest(getattr(before, part)) == state_digest(getattr(after, part)), part
    assert after.step == before.step + 1
    assert after.counters == {"bad_steps": 1, "bad_run": 1}
    state, metrics = step(state, good)
    assert int(metrics["bad"]) == 0
    assert state_digest(state.params) != state_digest(after.params)
    assert snapshot(state).counters == {"bad_steps": 1, "bad_run": 0}


@pytest.mark.parametrize("name", ["bias", "kernel", "output", "table"])
def test_a_bad_step_names_the_first_bad_leaf(name):
    options = {"train_cfg": TrainConfig(), "optimizer_cfg": OPTIMIZER}
    training = TrainSetup.of(toy_definition(), **options, compute_dtype="float32")
    update = make_update(training.optimizer, **options, groups=training.groups)
    state = training.init()
    grads = jax.tree.map(jnp.ones_like, state.params)
    grads[name] = grads[name].at[(0,) * grads[name].ndim].set(jnp.inf)
    sums = dict.fromkeys(("loss", "nll", "correct", "weight"), jnp.ones(()))
    _, metrics = update(state, grads, sums)
    assert int(metrics["bad"]) == 1
    assert list(flatten(state.params))[int(metrics["bad_leaf"])] == name


def test_chunks_of_the_loss_change_nothing():
    _, state = setup()
    values = [
        float(
            make_loss(
                toy_definition(dropout_rate=0.0),
                TrainConfig(loss_chunk_tokens=chunk),
                compute_dtype="float32",
            )(state.params, toy_batch(0), None)[0]
        )
        for chunk in (0, 16, 4096)
    ]
    np.testing.assert_allclose(values, values[0], rtol=1e-6)


def test_ema_follows_the_parameters():
    step, state = setup(ema_decay=0.5)
    expected = snapshot(state.params)
    for index in range(3):
        state, _ = step(state, [toy_batch(index)])
        decay = min(0.5, (1 + index) / (10 + index))
        now = snapshot(state.params)
        expected = jax.tree.map(lambda old, new, d=decay: d * old + (1 - d) * new, expected, now)
    for one, other in zip(jax.tree.leaves(expected), jax.tree.leaves(state.ema), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_training_lowers_the_loss_and_equal_steps_give_equal_bits():
    digests = []
    for _ in range(2):
        step, state = setup()
        losses = []
        for index in range(20):
            state, metrics = step(state, [toy_batch(index % 4)])
            losses.append(float(metrics["loss"]))
        digests.append(state_digest(state))
        assert losses[-1] < 0.8 * losses[0]
    assert digests[0] == digests[1]


def test_dropout_depends_on_the_step_and_on_the_key():
    loss = make_loss(toy_definition(dropout_rate=0.5), TrainConfig(), compute_dtype="float32")
    _, state = setup(dropout_rate=0.5)
    values = {
        float(loss(state.params, toy_batch(0), make_key(key, step=step))[0])
        for key in (seed_key(0), seed_key(1))
        for step in (0, 1)
    }
    assert len(values) == 4


def test_seed_keys_differ_and_are_never_the_seed():
    keys = [int(seed_key(seed)) for seed in range(50)]
    assert len(set(keys)) == 50
    assert 0 not in keys


@pytest.mark.parametrize("option", ["label_smoothing", "z_loss"])
def test_label_smoothing_and_z_loss_are_for_training_only(option):
    cfg = TrainConfig(**{option: 0.2})
    loss = make_loss(toy_definition(dropout_rate=0.0), cfg, compute_dtype="float32")
    _, state = setup()
    _, training = loss(state.params, toy_batch(0), make_key(0, step=0))
    _, evaluation = loss(state.params, toy_batch(0), None)
    assert float(training["nll"]) == pytest.approx(float(evaluation["nll"]))
    assert float(evaluation["loss"]) == float(evaluation["nll"]) != float(training["loss"])


def test_eval_sums_are_exact_over_unequal_batches():
    definition = toy_definition(dropout_rate=0.5)
    layout = Layout.of(MeshConfig())
    evaluate = make_eval_step(
        definition, train_cfg=TrainConfig(), layout=layout, compute_dtype="float32"
    )
    _, state = setup()
    parts = [toy_batch(i, rows=2) for i in range(3)]
    one = evaluate(state.params, join(parts))
    several = [evaluate(state.params, part) for part in parts]
    for name in ("loss", "accuracy"):
        total = several[0][name] + several[1][name] + several[2][name]
        np.testing.assert_allclose(total.mean(), one[name].mean(), rtol=1e-5)


def test_flops_count_scan_bodies_as_often_as_they_run():
    def chain(x, kernels):
        return jax.lax.scan(lambda carry, kernel: (carry @ kernel, None), x, kernels)[0]

    def loop(x, kernel):
        return jax.jit(lambda y: y @ kernel)(x) + jax.checkpoint(lambda y: y @ kernel)(x)

    x, kernels = jnp.ones((3, 4)), jnp.ones((7, 4, 4))
    assert count_flops(jax.make_jaxpr(chain)(x, kernels).jaxpr) == 7 * 2 * 3 * 4 * 4
    assert count_flops(jax.make_jaxpr(loop)(x, kernels[0]).jaxpr) == 2 * 2 * 3 * 4 * 4


def test_reported_flops_are_those_of_forward_and_backward():
    reports = []
    step, state = setup(reports=reports, dropout_rate=0.0)
    step(state, [toy_batch(0, rows=8, length=6)])
    tokens, dim, inner, vocab = 8 * 6, 16, 32, 24
    layers = 3 * 2 * tokens * (dim * inner + inner * dim)  # forward, dX, dW
    assert reports[0].flops >= layers + 3 * 2 * tokens * dim * vocab
    assert reports[0].flops <= 1.5 * (layers + 3 * 2 * tokens * dim * vocab)
    assert reports[0].peak_bytes > reports[0].temp_bytes > 0
