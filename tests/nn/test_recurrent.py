"""Recurrent layers against numpy written from the equations, and the laws of masks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqgen.errors import ConfigError
from seqgen.nn.recurrent import CELLS, LSTMCell, RecurrentLayer, build_cell

STEPS, ROWS, IN_DIM, HIDDEN = 6, 4, 3, 5
LENGTHS = np.array([6, 4, 1, 0])
MASK = np.arange(STEPS)[:, None] < LENGTHS
KINDS = tuple(CELLS)


def random(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def build(kind, **options):
    layer = RecurrentLayer(IN_DIM, HIDDEN, kind=kind, rngs=nnx.Rngs(0), **options)
    for seed, leaf in enumerate(jax.tree.leaves(nnx.state(layer))):
        assert leaf.dtype == jnp.float32, seed
    # Biases start at zero; give them values so that a misplaced one shows.
    layer.input.bias[...] = jnp.asarray(random(1, *layer.input.bias.shape))
    if layer.recurrent_bias is not None:
        layer.recurrent_bias[...] = jnp.asarray(random(2, *layer.recurrent_bias.shape))
    return layer


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def linear_reference_step(kind, gates, state):
    """The cells whose gates read the input alone, as their papers write them."""
    h, parts = state["h"], np.split(gates, {"mingru": 2, "ssru": 2}.get(kind, 3), axis=-1)
    if kind == "mingru":
        z = sigmoid(parts[0])
        return {"h": (1 - z) * h + z * parts[1]}
    if kind == "minlstm":
        i, f = sigmoid(parts[0]), sigmoid(parts[1])
        return {"h": f / (f + i) * h + i / (f + i) * parts[2]}
    f = sigmoid(parts[0])
    c = f * state["c"] + (1 - f) * parts[-1]
    return {"h": np.maximum(c, 0) if kind == "ssru" else sigmoid(parts[1]) * c, "c": c}


def reference_step(kind, layer, x, state):
    weights, bias = np.asarray(layer.input.kernel[...]), np.asarray(layer.input.bias[...])
    if layer.recurrent_kernel is None:
        return linear_reference_step(kind, x @ weights + bias, state)
    recurrent = np.asarray(layer.recurrent_kernel[...])
    h = state["h"]
    x, u = x @ weights + bias, h @ recurrent
    if kind == "simple":
        return {"h": np.tanh(x + u)}
    if kind == "lstm":
        i, f, g, o = np.split(x + u, 4, axis=-1)
        c = sigmoid(f) * state["c"] + sigmoid(i) * np.tanh(g)
        return {"h": sigmoid(o) * np.tanh(c), "c": c}
    x_r, x_z, x_n = np.split(x, 3, axis=-1)
    u_r, u_z, u_n = np.split(u + np.asarray(layer.recurrent_bias[...]), 3, axis=-1)
    r, z = sigmoid(x_r + u_r), sigmoid(x_z + u_z)
    return {"h": (1 - z) * np.tanh(x_n + r * u_n) + z * h}


def reference(kind, layer, x, state, *, reverse):
    """Each row on its own, over its real steps only: no mask at all."""
    outputs = np.zeros((STEPS, ROWS, HIDDEN), np.float32)
    last = {name: np.array(values) for name, values in state.items()}
    for row, length in enumerate(LENGTHS):
        now = {name: values[row : row + 1] for name, values in state.items()}
        for t in reversed(range(length)) if reverse else range(length):
            now = reference_step(kind, layer, x[t, row : row + 1], now)
            outputs[t, row] = now["h"][0]
        for name, values in now.items():
            last[name][row] = values[0]
    return outputs, last


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_layer_equals_numpy_on_each_row_alone(kind, reverse):
    layer = build(kind)
    x = random(3, STEPS, ROWS, IN_DIM)
    state = {n: random(4 + i, ROWS, HIDDEN) for i, n in enumerate(layer.cell.states)}
    start = {n: jnp.asarray(v) for n, v in state.items()}
    outputs, last = layer(jnp.asarray(x), state=start, mask=jnp.asarray(MASK), reverse=reverse)
    expected, expected_last = reference(kind, layer, x, state, reverse=reverse)
    np.testing.assert_allclose(np.where(MASK[..., None], outputs, 0), expected, atol=1e-5)
    assert set(last) == set(expected_last)
    for name, values in last.items():
        np.testing.assert_allclose(values, expected_last[name], atol=1e-5)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_no_output_and_takes_no_gradient(kind, reverse):
    layer = build(kind)
    graph, params = nnx.split(layer)
    mask = jnp.asarray(MASK)

    @jax.jit
    def total(params, x):
        outputs, last = nnx.merge(graph, params)(x, mask=mask, reverse=reverse)
        return jnp.where(mask[..., None], outputs, 0).sum() + (last["h"] ** 2).sum()

    x = random(5, STEPS, ROWS, IN_DIM)
    other = np.where(MASK[..., None], x, random(6, *x.shape) * 100)
    value, (d_params, dx) = jax.value_and_grad(total, (0, 1))(params, x)
    value_other, (d_params_other, dx_other) = jax.value_and_grad(total, (0, 1))(params, other)
    assert value == value_other
    np.testing.assert_array_equal(dx, dx_other)
    assert np.abs(np.where(MASK[..., None], 0, dx)).max() == 0
    assert np.abs(dx).max() > 0
    for a, b in zip(jax.tree.leaves(d_params), jax.tree.leaves(d_params_other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_directions_see_only_their_own_side(kind):
    layer = build(kind)
    x = random(7, STEPS, ROWS, IN_DIM)
    changed = x.copy()
    changed[3] += 1
    for reverse, untouched in ((False, slice(0, 3)), (True, slice(4, None))):
        before, _ = layer(jnp.asarray(x), reverse=reverse)
        after, _ = layer(jnp.asarray(changed), reverse=reverse)
        moved = np.abs(before - after).max((1, 2)) > 1e-6
        assert not moved[untouched].any()
        assert moved[3] and moved.sum() == (3 if not reverse else 4)


def test_step_inside_a_scan_equals_the_layer_over_the_sequence():
    from seqgen.nn.scan import time_scan

    for kind in KINDS:
        layer = build(kind)
        x = jnp.asarray(random(8, STEPS, ROWS, IN_DIM))
        kernels, biases = layer.products("a")
        state = layer.initial_state(ROWS)

        def step(project, constants, state, x, layer=layer):
            new = layer.step(project, "a", x, state)
            return new, new["h"]

        last, outputs = time_scan(
            step, state, x, kernels=kernels, biases=biases, compute_dtype="float32"
        )
        expected, expected_last = layer(x)
        np.testing.assert_allclose(outputs, expected, atol=1e-6)
        np.testing.assert_allclose(last["h"], expected_last["h"], atol=1e-6)


def test_start_is_orthogonal_by_gate_with_an_open_forget_gate():
    layer = RecurrentLayer(IN_DIM, HIDDEN, kind="lstm", forget_bias=1.5, rngs=nnx.Rngs(1))
    for gate in np.split(np.asarray(layer.recurrent_kernel[...]), 4, axis=1):
        np.testing.assert_allclose(gate.T @ gate, np.eye(HIDDEN), atol=1e-5)
    i, f, g, o = np.split(np.asarray(layer.input.bias[...]), 4)
    assert (f == 1.5).all() and not np.concatenate([i, g, o]).any()
    limit = np.sqrt(6 / (IN_DIM + HIDDEN))
    assert np.abs(layer.input.kernel[...]).max() <= limit
    uniform = RecurrentLayer(IN_DIM, HIDDEN, kind="gru", recurrent_init="uniform", rngs=nnx.Rngs(1))
    assert np.abs(uniform.recurrent_kernel[...]).max() <= HIDDEN**-0.5


class HalfLSTM(LSTMCell):
    """A user's own cell: an LSTM whose output is halved."""

    def advance(self, state, gates, recurrent):
        new = super().advance(state, gates, recurrent)
        return {**new, "h": new["h"] / 2}


def test_a_cell_of_the_users_own_is_taken_by_name():
    layer = RecurrentLayer(IN_DIM, HIDDEN, kind=f"{__name__}:HalfLSTM", rngs=nnx.Rngs(0))
    twin = RecurrentLayer(IN_DIM, HIDDEN, kind="lstm", rngs=nnx.Rngs(0))
    x = jnp.asarray(random(9, 1, ROWS, IN_DIM))
    np.testing.assert_allclose(layer(x)[0] * 2, twin(x)[0], rtol=1e-6)


def test_a_misspelt_cell_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match="did you mean   lstm"):
        build_cell("ltsm")


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_layer_stays_close(kind):
    exact, rounded = build(kind), build(kind, compute_dtype="bfloat16")
    x = jnp.asarray(random(10, STEPS, ROWS, IN_DIM))
    wanted, outputs = exact(x)[0], jax.jit(lambda x: rounded(x)[0])(x)
    assert outputs.dtype == jnp.float32
    error = np.abs(outputs - wanted).max()
    assert 0 < error < 0.05
