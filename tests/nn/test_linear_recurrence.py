"""Linear recurrences: both ways of solving against plain differentiation, and cells at extremes.

That cells equal their papers' equations, and the laws of masks, are in `test_recurrent.py`, where
the sequential way runs; here is what only these cells have.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from seqgen.nn import linear_recurrence
from seqgen.nn.linear_recurrence import LinearCell, MinGRUCell, choose_method
from seqgen.nn.recurrent import CELLS, RecurrentLayer, build_cell

STEPS, ROWS, WIDTH = 7, 4, 5
LENGTHS = np.array([7, 4, 1, 0])
MASK = jnp.asarray(np.arange(STEPS)[:, None] < LENGTHS)
KINDS = ("mingru", "minlstm", "sru", "ssru")


def random(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def build(kind, in_dim=WIDTH):
    layer = RecurrentLayer(in_dim, WIDTH, kind=kind, rngs=nnx.Rngs(0))
    layer.input.bias[...] = random(1, *layer.input.bias.shape)
    return layer


def plain(cell, state, gates, *, bias, x, mask, reverse):
    """The same by `lax.scan` and its own derivative, one step written after the other."""
    gates = gates + bias

    def body(state, sliced):
        gates, x, seen = sliced
        a, b = cell.coefficients(gates)
        c = a * state[cell.states[-1]] + b
        new = {"h": cell.output(c, gates, x), cell.states[-1]: c}
        new = {name: jnp.where(seen[:, None], new[name], state[name]) for name in state}
        return new, new["h"]

    last, outputs = lax.scan(body, state, (gates, x, mask), reverse=reverse)
    return outputs, last


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_both_ways_equal_a_plain_scan_with_its_gradients(kind, reverse, monkeypatch):
    cell = build_cell(kind)
    assert isinstance(cell, LinearCell)
    gates = cell.num_gates * WIDTH
    arrays = {
        "state": {n: random(i, ROWS, WIDTH) for i, n in enumerate(cell.states)},
        "gates": random(3, STEPS, ROWS, gates),
        "bias": random(4, gates),
        "x": random(5, STEPS, ROWS, WIDTH) if cell.highway else None,
    }
    weigh = random(6, STEPS, ROWS, WIDTH) * MASK[..., None]

    def objective(run):
        def total(arrays):
            outputs, last = run(
                cell,
                arrays["state"],
                arrays["gates"],
                bias=arrays["bias"],
                x=arrays["x"],
                mask=MASK,
                reverse=reverse,
            )
            return (outputs * weigh).sum() + sum((leaf**2).sum() for leaf in last.values()), last

        return jax.jit(jax.value_and_grad(total, has_aux=True))

    expected = objective(plain)(arrays)
    for method in ("sequential", "associative"):
        monkeypatch.setattr(linear_recurrence, "choose_method", lambda *a, m=method, **k: m)
        result = objective(linear_recurrence.run)(arrays)
        assert jax.tree.structure(result) == jax.tree.structure(expected)
        for value, wanted in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-5, err_msg=method)


@pytest.mark.parametrize("kind", KINDS)
def test_gates_driven_to_their_ends_stay_finite(kind, monkeypatch):
    """Long products of gates vanish, closed gates keep the state, and gradients are numbers."""
    monkeypatch.setattr(linear_recurrence, "choose_method", lambda *a, **k: "associative")
    cell = build_cell(kind)
    start = {n: jnp.ones((1, 1)) for n in cell.states}
    # The input of each gate: how far to forget and, in minLSTM, both gates vanishing at once.
    for forget, size in ((-90.0, 1.0), (90.0, 1.0), (-200.0, 1e4)):
        sign = -1 if kind == "mingru" else 1
        parts = [jnp.full((300, 1, 1), sign * forget)] * (cell.num_gates - 1)
        gates = jnp.concatenate([*parts, jnp.full((300, 1, 1), size)], axis=-1)

        def total(gates, start):
            outputs, last = linear_recurrence.run(cell, start, gates, bias=jnp.zeros(1))
            return outputs.sum(), last[cell.states[-1]]

        (_, last), slopes = jax.value_and_grad(total, (0, 1), has_aux=True)(gates, start)
        assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves((last, slopes)))
        kept = kind != "minlstm" and forget > 0  # equal gates share: half is forgotten
        np.testing.assert_allclose(last, 1.0 if kept else size, rtol=1e-4)


def test_a_highway_carries_the_input_where_widths_agree():
    x = random(7, STEPS, ROWS, WIDTH)
    layer = build("sru")
    f, r, n = np.split(np.asarray(layer.input(x)), 3, axis=-1)
    f, r = 1 / (1 + np.exp(-f)), 1 / (1 + np.exp(-r))
    c, outputs = np.zeros((ROWS, WIDTH)), []
    for t in range(STEPS):
        c = f[t] * c + (1 - f[t]) * n[t]
        outputs.append(r[t] * c + (1 - r[t]) * np.sqrt(3) * np.asarray(x[t]))
    np.testing.assert_allclose(layer(x)[0], outputs, atol=1e-5)
    assert layer.highway and not build("sru", in_dim=3).highway


def test_there_is_no_recurrent_kernel_and_a_bias_for_the_forget_gate():
    for kind, gates, forget in (
        ("mingru", 2, None),
        ("minlstm", 3, 1),
        ("sru", 3, 0),
        ("ssru", 2, 0),
    ):
        layer = RecurrentLayer(3, WIDTH, kind=kind, forget_bias=2.0, rngs=nnx.Rngs(0))
        shapes = sorted(leaf.shape for leaf in jax.tree.leaves(nnx.state(layer)))
        assert shapes == [(3, gates * WIDTH), (gates * WIDTH,)]
        starts = np.asarray(layer.input.bias[...]).reshape(gates, WIDTH)
        assert [set(row) for row in starts] == [{2.0 if g == forget else 0.0} for g in range(gates)]


def test_the_rule_is_a_scan_on_cpu_and_a_tree_for_long_sequences_elsewhere():
    assert {choose_method(n, backend="cpu") for n in (1, 20, 4096)} == {"sequential"}
    assert choose_method(1, backend="gpu") == "sequential"
    assert choose_method(512, backend="tpu") == "associative"


class LeakyCell(MinGRUCell):
    """A user's own cell: one gate less, a leak that is the same everywhere."""

    num_gates = 1

    def coefficients(self, gates):
        return jnp.full_like(gates, 0.5), gates

    def initial_bias(self, hidden_dim, *, forget_bias):
        return jnp.zeros(hidden_dim, jnp.float32)


def test_a_linear_cell_of_the_users_own_is_taken_by_name():
    layer = RecurrentLayer(3, WIDTH, kind=f"{__name__}:LeakyCell", rngs=nnx.Rngs(0))
    x = random(8, 3, ROWS, 3)
    gates = np.asarray(layer.input(x))
    np.testing.assert_allclose(layer(x)[1]["h"], gates[2] + gates[1] / 2 + gates[0] / 4, atol=1e-5)


def test_the_contracts_tell_the_cells_apart():
    assert {kind for kind in CELLS if isinstance(build_cell(kind), LinearCell)} == set(KINDS)
