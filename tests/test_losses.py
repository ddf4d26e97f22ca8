"""The chunked loss against a whole one, its gradients against autodiff."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqgen.losses import Mixture, VocabularyLoss, sequence_log_probs, vocabulary_loss

B, T, D, V = 3, 7, 6, 19


def example(bias=True, seed=0):
    rng = np.random.default_rng(seed)
    hidden, kernel = rng.standard_normal((B, T, D)), rng.standard_normal((V, D))
    labels = rng.integers(0, V, (B, T))
    weights = (rng.random((B, T)) < 0.7) * rng.choice([0.5, 1.0], (B, T))
    floats = [jnp.asarray(x, jnp.float32) for x in (hidden, kernel, rng.standard_normal(V))]
    return (
        floats[0],
        floats[1],
        floats[2] if bias else None,
        jnp.asarray(labels, jnp.int32),
        jnp.asarray(weights, jnp.float32),
    )


def reference(hidden, kernel, bias, labels, weights, epsilon, z_loss=0.0):
    logits = hidden @ kernel.T + (0 if bias is None else bias)
    log_probs = jax.nn.log_softmax(logits)
    target = (1 - epsilon) * jax.nn.one_hot(labels, V) + epsilon / V
    nll = -(jax.nn.one_hot(labels, V) * log_probs).sum(-1)
    penalty = z_loss * jax.nn.logsumexp(logits, axis=-1) ** 2
    return VocabularyLoss(
        ((penalty - (target * log_probs).sum(-1)) * weights).sum(),
        (nll * weights).sum(),
        ((logits.argmax(-1) == labels) * weights).sum(),
        weights.sum(),
    )


@pytest.mark.parametrize(
    ("chunk_tokens", "epsilon", "z_loss", "bias"),
    [
        *((c, e, 0.0, b) for c in (1, 6, 9, 1000) for e in (0.0, 0.1) for b in (True, False)),
        (6, 0.0, 0.05, True),
        (1000, 0.1, 0.05, False),
    ],
)
def test_values_and_gradients_match_the_whole_loss(chunk_tokens, epsilon, z_loss, bias):
    hidden, kernel, b, labels, weights = example(bias)

    def run(loss, *args):
        parts = {"hidden": hidden, "kernel": kernel, **({"bias": b} if bias else {})}

        def scalar(parts):
            out = loss(parts["hidden"], parts["kernel"], parts.get("bias"), labels, weights)
            return 0.3 * out.loss, out

        return jax.jit(jax.grad(scalar, has_aux=True))(parts)

    got, got_out = run(
        lambda *a: vocabulary_loss(
            *a, label_smoothing=epsilon, z_loss=z_loss, chunk_tokens=chunk_tokens
        )
    )
    want, want_out = run(lambda *a: reference(*a, epsilon, z_loss))
    for name in ("loss", "nll", "correct", "weight"):
        np.testing.assert_allclose(getattr(got_out, name), getattr(want_out, name), rtol=2e-6)
    for name in want:
        np.testing.assert_allclose(got[name], want[name], atol=2e-6)


def second_way(seed=1):
    """A gate's logits and, of the second way, the distribution [B, T, V]; in part zero."""
    rng = np.random.default_rng(seed)
    other = rng.random((B, T, V)) * (rng.random((B, T, V)) < 0.4)
    other[0] = 0
    other[..., 0] += 0.1
    other /= other.sum(-1, keepdims=True)
    return jnp.asarray(rng.standard_normal((B, T)), jnp.float32), jnp.asarray(other, jnp.float32)


def mixture_of(gate, other, labels):
    def log(x):
        return jax.nn.log_sigmoid(-gate) + jnp.log(jnp.maximum(x, 1e-30))

    on_label = jnp.take_along_axis(other, labels[..., None], axis=-1)[..., 0]
    return Mixture(jax.nn.log_sigmoid(gate), log(on_label), log(other.max(-1)))


@pytest.mark.parametrize(("epsilon", "z_loss"), [(0.0, 0.0), (0.1, 0.05)])
def test_a_second_way_to_the_label_with_all_gradients(epsilon, z_loss):
    """Against logarithms of the whole mixed distribution."""
    hidden, kernel, bias, labels, weights = example()
    gate, other = second_way()
    # Some labels lead in one of the two ways.
    labels = labels.at[:, :3].set((hidden @ kernel.T + bias).argmax(-1)[:, :3])
    labels = labels.at[:, 3:5].set(other.argmax(-1)[:, 3:5])
    given = {"hidden": hidden, "kernel": kernel, "bias": bias, "gate": gate, "other": other}

    def ours(parts):
        out = vocabulary_loss(
            *(parts[name] for name in ("hidden", "kernel", "bias")),
            labels,
            weights,
            mixture=mixture_of(parts["gate"], parts["other"], labels),
            label_smoothing=epsilon,
            z_loss=z_loss,
            chunk_tokens=6,
        )
        return 0.3 * out.loss, out

    def whole(parts):
        logits = parts["hidden"] @ parts["kernel"].T + parts["bias"]
        share = jax.nn.sigmoid(parts["gate"])[..., None]
        mixed = share * jax.nn.softmax(logits) + (1 - share) * parts["other"]
        nll = -jnp.log(jnp.take_along_axis(mixed, labels[..., None], axis=-1)[..., 0])
        smooth = -jax.nn.log_softmax(logits).mean(-1)
        penalty = z_loss * jax.nn.logsumexp(logits, axis=-1) ** 2
        loss = (1 - epsilon) * nll + epsilon * smooth + penalty
        best = jnp.maximum((share * jax.nn.softmax(logits)).max(-1),
                           ((1 - share) * parts["other"]).max(-1))  # fmt: skip
        correct = jnp.exp(-nll) >= best - 1e-7
        out = VocabularyLoss(*((x * weights).sum() for x in (loss, nll, correct)), weights.sum())
        return 0.3 * out.loss, out

    (got, got_out), (want, want_out) = (
        jax.jit(jax.grad(f, has_aux=True))(given) for f in (ours, whole)
    )
    assert 0 < want_out.correct < weights.sum()
    for name in ("loss", "nll", "correct", "weight"):
        np.testing.assert_allclose(getattr(got_out, name), getattr(want_out, name), rtol=5e-6)
    # What gives a label nothing has a gradient in plain arithmetic, and none through its logarithm.
    want["other"] = jnp.where(other > 0, want["other"], 0)
    for name in want:
        np.testing.assert_allclose(got[name], want[name], atol=3e-6, err_msg=name)


def test_a_second_way_costs_no_further_product():
    args = example()
    mixture = mixture_of(*second_way(), args[3])
    jaxpr = str(jax.make_jaxpr(lambda: vocabulary_loss(*args, mixture=mixture))())
    assert jaxpr.count("dot_general") == 1


@pytest.mark.parametrize("mass", [1e-9, 0.3])
def test_a_way_that_gives_the_label_almost_nothing_keeps_its_gradient(mass):
    logits = jnp.zeros((1, 1, V)).at[..., 2].set(8.0)
    label, weight = jnp.full((1, 1), 2), jnp.full((1, 1), 0.5)

    def loss(mass):
        log_mass = jnp.full((1, 1), jnp.log(mass))
        mixture = Mixture(jnp.full((1, 1), np.log(0.7)), log_mass, log_mass)
        table = jnp.eye(V)
        options = {"mixture": mixture, "label_smoothing": 0.1}
        return vocabulary_loss(logits, table, None, label, weight, **options).loss

    of_label = 0.7 / (1 + (V - 1) * np.exp(-8.0)) + mass
    gradient = jax.grad(loss)(jnp.float32(mass))
    np.testing.assert_allclose(gradient, -0.9 * 0.5 / of_label, rtol=1e-5)


def test_z_loss_is_in_the_loss_and_in_nothing_else():
    args = example()
    plain, more = (vocabulary_loss(*args, z_loss=z) for z in (0.0, 0.1))
    log_normalizer = jax.nn.logsumexp(args[0] @ args[1].T + args[2], axis=-1)
    added = 0.1 * (log_normalizer**2 * args[4]).sum()
    np.testing.assert_allclose(more.loss - plain.loss, added, rtol=1e-5)
    for name in ("nll", "correct", "weight"):
        np.testing.assert_array_equal(getattr(more, name), getattr(plain, name))


def test_same_values_without_differentiation_and_no_gradient_work():
    args = example()
    plain = vocabulary_loss(*args, label_smoothing=0.1, chunk_tokens=4)
    with_gradient, _ = jax.vjp(
        lambda h: vocabulary_loss(h, *args[1:], label_smoothing=0.1, chunk_tokens=4), args[0]
    )
    np.testing.assert_array_equal(plain.loss, with_gradient.loss)
    # One product (the logits) in evaluation, three in training.
    jaxpr = str(jax.make_jaxpr(lambda: vocabulary_loss(*args))())
    assert jaxpr.count("dot_general") == 1


def test_only_the_loss_carries_a_gradient():
    args = example()
    for name in ("nll", "correct"):
        gradient = jax.grad(lambda h, n=name: getattr(vocabulary_loss(h, *args[1:]), n))(args[0])
        assert not gradient.any()


def test_uncounted_positions_change_nothing():
    hidden, kernel, bias, labels, weights = example()
    silent = weights == 0
    assert silent.any()
    base = vocabulary_loss(hidden, kernel, bias, labels, weights, chunk_tokens=5)
    other = vocabulary_loss(
        jnp.where(silent[..., None], 50.0, hidden),
        kernel,
        bias,
        jnp.where(silent, 0, labels),
        weights,
        chunk_tokens=5,
    )
    np.testing.assert_array_equal(jax.tree.leaves(base), jax.tree.leaves(other))
    longer = [jnp.pad(x, [(0, 0), (0, 4)] + [(0, 0)] * (x.ndim - 2)) for x in
              (hidden, labels, weights)]  # fmt: skip
    padded = vocabulary_loss(longer[0], kernel, bias, longer[1], longer[2], chunk_tokens=5)
    np.testing.assert_allclose(padded.loss, base.loss, rtol=1e-6)


def test_extreme_logits_stay_finite_and_exact():
    hidden, kernel, bias, labels, weights = example()
    out, pull = jax.vjp(
        lambda h: vocabulary_loss(h, kernel, bias, labels, weights, label_smoothing=0.1).loss,
        300 * hidden,
    )
    want = reference(300 * hidden, kernel, bias, labels, weights, 0.1).loss
    np.testing.assert_allclose(out, want, rtol=1e-5)
    assert jnp.isfinite(pull(1.0)[0]).all()


def test_bfloat16_is_close_and_uses_rounded_operands():
    hidden, kernel, bias, labels, weights = example()
    low = vocabulary_loss(hidden, kernel, bias, labels, weights, compute_dtype="bfloat16")
    high = vocabulary_loss(hidden, kernel, bias, labels, weights)
    assert 0 < abs(float(low.loss - high.loss)) < 0.02 * float(high.loss)

    def scalar(h, k, dtype):
        return vocabulary_loss(h, k, bias, labels, weights, compute_dtype=dtype).loss

    for argument in (0, 1):
        got = jax.jit(jax.grad(scalar, argnums=argument), static_argnums=2)(
            hidden, kernel, "bfloat16"
        )
        want = jax.grad(scalar, argnums=argument)(hidden, kernel, "float32")
        assert jnp.abs(got - want).max() < 0.03 * jnp.abs(want).max()


def test_the_logits_are_never_whole():
    shapes = [(64, 32, 8), (997, 8), (64, 32)]
    hidden, kernel, weights = (jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes)
    labels = jax.ShapeDtypeStruct((64, 32), jnp.int32)

    def step(hidden, kernel, labels, weights):
        def loss(hidden, kernel):
            return vocabulary_loss(hidden, kernel, None, labels, weights, chunk_tokens=64).loss

        return jax.grad(loss, argnums=(0, 1))(hidden, kernel)

    memory = jax.jit(step).lower(hidden, kernel, labels, weights).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 64 * 32 * 997 * 4 / 4


def test_sequence_log_probs():
    hidden, kernel, bias, labels, _ = example()
    got = sequence_log_probs(hidden, kernel, bias, labels, chunk_tokens=4)
    log_probs = jax.nn.log_softmax(hidden @ kernel.T + bias)
    want = jnp.take_along_axis(log_probs, labels[..., None], -1)[..., 0]
    np.testing.assert_allclose(got, want, atol=1e-5)
    ones = jnp.ones(labels.shape, jnp.float32)
    nll = vocabulary_loss(hidden, kernel, bias, labels, ones).nll
    np.testing.assert_allclose(-got.sum(), nll, rtol=1e-6)


def test_rows_cut_over_devices():
    mesh = jax.make_mesh((3,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    hidden, kernel, bias, labels, weights = example()

    @jax.jit
    def run(hidden, kernel, labels, weights):
        def loss(k):
            return vocabulary_loss(hidden, k, bias, labels, weights, chunk_tokens=6).loss

        return jax.value_and_grad(loss)(kernel)

    rows = jax.NamedSharding(mesh, jax.P("data"))
    cut = [jax.device_put(x, rows) for x in (hidden, labels, weights)]
    for got, want in zip(
        run(cut[0], kernel, *cut[1:]), run(hidden, kernel, labels, weights), strict=True
    ):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
