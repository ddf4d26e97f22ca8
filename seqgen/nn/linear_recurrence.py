"""Recurrent cells whose gates depend on the input alone: minGRU, minLSTM, SRU and SSRU.

Their state follows c_t = a_t * c_(t-1) + b_t, elementwise, with a and b known for all steps before
the first is taken. So nothing but elementwise work is left inside the recurrence, and it may be
solved in any order: step after step, or as a tree of depth log T (Blelloch, "Prefix sums and their
applications", 1990; Martin & Cundy, "Parallelizing linear recurrent neural nets over sequence
length", 2018). Sequences are time-major, [T, B, ...].

Every a here lies in (0, 1), a forget gate; both ways of solving multiply gates and never divide by
their product, so a long product may vanish but nothing overflows. That is why the cells need
neither the log space of Feng et al., whose closed form divides, nor candidates that are positive.
"""

from functools import partial
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import lax

from seqgen.nn.scan import Project, time_scan
from seqgen.types import Array, PyTree

State = dict[str, Array]


@runtime_checkable
class LinearCell(Protocol):
    """A cell with a linear recurrence; a user's own class may keep this contract.

    Attributes:
      states: ('h',) where the output is c itself, otherwise ('h', 'c').
      num_gates: width of the input product, in units of H.
      highway: whether `output` takes the layer's input where that is as wide as the state.
    """

    states: tuple[str, ...]
    num_gates: int
    highway: bool

    def coefficients(self, gates: Array) -> tuple[Array, Array]:
        """The a and b of c' = a c + b, each [..., H], from the input product [..., G * H]."""
        ...

    def output(self, c: Array, gates: Array, x: Array | None) -> Array:
        """Output [..., H] from c after the step, the input product and x (None: no highway)."""
        ...

    def initial_bias(self, hidden_dim: int, *, forget_bias: float) -> Array:
        """Start of the input product's bias, [G * H]."""
        ...


def _gate_bias(num_gates: int, hidden_dim: int, gate: int, value: float) -> Array:
    """Zeros, but `value` for one of the gates."""
    return jnp.zeros((num_gates, hidden_dim), jnp.float32).at[gate].set(value).reshape(-1)


class MinGRUCell:
    """h' = (1 - z) h + z n (Feng et al., "Were RNNs all we needed?", 2024). Gates: z, n.

    The candidate n is a plain affine map of the input, as in the paper's main text.
    """

    states: tuple[str, ...] = ("h",)
    num_gates = 2
    highway = False

    def coefficients(self, gates: Array) -> tuple[Array, Array]:
        """See `LinearCell`."""
        z, n = jnp.split(gates, 2, axis=-1)
        return jax.nn.sigmoid(-z), jax.nn.sigmoid(z) * n

    def output(self, c: Array, gates: Array, x: Array | None) -> Array:
        """The state itself."""
        return c

    def initial_bias(self, hidden_dim: int, *, forget_bias: float) -> Array:
        """Zeros, as for GRU."""
        return jnp.zeros(2 * hidden_dim, jnp.float32)


class MinLSTMCell:
    """h' = f/(f+i) h + i/(f+i) n (Feng et al., 2024), without a cell state. Gates: i, f, n."""

    states: tuple[str, ...] = ("h",)
    num_gates = 3
    highway = False

    def coefficients(self, gates: Array) -> tuple[Array, Array]:
        """See `LinearCell`.

        The quotient of two sigmoids is one sigmoid of the difference of their logarithms; so it
        stays exact where both of them vanish.
        """
        i, f, n = jnp.split(gates, 3, axis=-1)
        forget = jax.nn.softplus(-i) - jax.nn.softplus(-f)
        return jax.nn.sigmoid(forget), jax.nn.sigmoid(-forget) * n

    def output(self, c: Array, gates: Array, x: Array | None) -> Array:
        """The state itself."""
        return c

    def initial_bias(self, hidden_dim: int, *, forget_bias: float) -> Array:
        """Zeros, but `forget_bias` for the forget gate."""
        return _gate_bias(3, hidden_dim, 1, forget_bias)


class SRUCell:
    """c' = f c + (1 - f) n, h' = r c' + (1 - r) x sqrt(3). Gates: f, r, n.

    Lei et al., "Simple recurrent units for highly parallelizable recurrence", 2018, in the form of
    their first version: the later one adds v * c to the gates, which would make the recurrence
    non-linear. The factor keeps the highway's variance (their section 3.2, highway bias 0). Where
    the input is not as wide as the state there is no highway: h' = r c'.
    """

    states: tuple[str, ...] = ("h", "c")
    num_gates = 3
    highway = True

    def coefficients(self, gates: Array) -> tuple[Array, Array]:
        """See `LinearCell`."""
        f, _, n = jnp.split(gates, 3, axis=-1)
        return jax.nn.sigmoid(f), jax.nn.sigmoid(-f) * n

    def output(self, c: Array, gates: Array, x: Array | None) -> Array:
        """See `LinearCell`."""
        r = jnp.split(gates, 3, axis=-1)[1]
        kept = jax.nn.sigmoid(r) * c
        return kept if x is None else kept + jax.nn.sigmoid(-r) * (3**0.5 * x)

    def initial_bias(self, hidden_dim: int, *, forget_bias: float) -> Array:
        """Zeros, but `forget_bias` for the forget gate."""
        return _gate_bias(3, hidden_dim, 0, forget_bias)


class SSRUCell:
    """c' = f c + (1 - f) n, h' = relu(c'). Gates: f, n.

    Kim et al., "From research to production and back: ludicrously fast neural machine translation",
    2019: what is left of the SRU in the decoders of fast CPU translators. (Its n has a bias here.)
    """

    states: tuple[str, ...] = ("h", "c")
    num_gates = 2
    highway = False

    def coefficients(self, gates: Array) -> tuple[Array, Array]:
        """See `LinearCell`."""
        f, n = jnp.split(gates, 2, axis=-1)
        return jax.nn.sigmoid(f), jax.nn.sigmoid(-f) * n

    def output(self, c: Array, gates: Array, x: Array | None) -> Array:
        """The positive part of the state."""
        return jax.nn.relu(c)

    def initial_bias(self, hidden_dim: int, *, forget_bias: float) -> Array:
        """Zeros, but `forget_bias` for the forget gate."""
        return _gate_bias(2, hidden_dim, 0, forget_bias)


def choose_method(num_steps: int, *, backend: str) -> str:
    """'sequential' or 'associative': how to solve a recurrence of `num_steps`.

    On a CPU the work is bound by memory, and a tree passes over it log T times: measured on two
    cores (float32, H = 256, forward and backward), sequential takes half the time at B = 204,
    T = 20 and 0.4 of it at B = 8, T = 512; chunks of 5 and 16 steps were slower than the tree. On
    an accelerator each sequential step costs a kernel launch or two, so that only short sequences
    are worth it (not measured: the bound is where a tree needs as many launches).
    """
    return "sequential" if backend == "cpu" or num_steps < 8 else "associative"


def _compose(first: tuple[Array, Array], then: tuple[Array, Array]) -> tuple[Array, Array]:
    """The map c -> a c + b of two steps in a row."""
    return then[0] * first[0], then[0] * first[1] + then[1]


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def associative_solution(a: Array, b: Array, start: Array, reverse: bool) -> Array:
    """All states c_t = a_t c_(t-1) + b_t, as a tree of depth log T.

    Args:
      a, b: [T, ...].
      start: c before the first step (with `reverse`: after the last), [...].
      reverse: c_t follows c_(t+1).

    Returns:
      [T, ...]; its gradient is the solution of one more such recurrence, run the other way.
    """
    solved: Any = lax.associative_scan(_compose, (a, b), reverse=reverse)
    product, total = solved
    return total + product * start


def _solution_forward(a: Array, b: Array, start: Array, reverse: bool) -> Any:
    c = associative_solution(a, b, start, reverse)
    return c, (a, c, start)


def _solution_backward(reverse: bool, saved: Any, dc: Array) -> Any:
    a, c, start = saved
    if reverse:
        following = jnp.concatenate([jnp.zeros_like(a[:1]), a[:-1]])
        before = jnp.concatenate([c[1:], start[None]])
    else:
        following = jnp.concatenate([a[1:], jnp.zeros_like(a[:1])])
        before = jnp.concatenate([start[None], c[:-1]])
    db: Any = associative_solution(following, dc, jnp.zeros_like(start), not reverse)
    first = -1 if reverse else 0
    return db * before, db, a[first] * db[first]


associative_solution.defvjp(_solution_forward, _solution_backward)


def advance(cell: LinearCell, state: State, gates: Array, x: Array | None) -> State:
    """The next state from the input product [R, G * H] and what the highway carries [R, H]."""
    name = cell.states[-1]
    a, b = cell.coefficients(gates)
    c = a * state[name] + b
    return {"h": cell.output(c, gates, x), name: c}


def run(
    cell: LinearCell,
    state: State,
    gates: Array,
    *,
    bias: Array,
    x: Array | None = None,
    mask: Array | None = None,
    reverse: bool = False,
) -> tuple[Array, State]:
    """Run a cell over a whole sequence.

    Args:
      state: before the first step, each [B, H].
      gates: the input product without its bias, [T, B, G * H].
      bias: [G * H]; added where the gates are read anyway.
      x: what the highway carries, [T, B, H], or None.
      mask: bool [T, B]; where False, the state passes through unchanged. None = all True.
      reverse: from the last step to the first.

    Returns:
      Outputs [T, B, H] (anything where the mask is False), and the last state.
    """
    name = cell.states[-1]
    method = choose_method(gates.shape[0], backend=jax.default_backend())
    solve = _run_sequential if method == "sequential" else _run_associative
    outputs, last = solve(cell, state[name], gates, bias, x, mask, reverse)
    if name == "h":
        return outputs, {"h": last}
    return outputs, {"h": _last_seen(outputs, state["h"], mask, reverse), name: last}


def _run_sequential(cell, start, gates, bias, x, mask, reverse) -> tuple[Array, Array]:
    """One scan in which gates are read, and outputs written, once."""

    def step(project: Project, bias: Array, c: Array, sliced: PyTree):
        gates, x, seen = sliced
        gates = gates + bias
        a, b = cell.coefficients(gates)
        new = a * c + b
        if seen is not None:
            new = jnp.where(seen[:, None], new, c)
        return new, cell.output(new, gates, x)

    last, outputs = time_scan(
        step,
        start,
        (gates, x, mask),
        kernels={},
        constants=bias,
        compute_dtype="float32",  # there are no products
        reverse=reverse,
    )
    return outputs, last


def _run_associative(cell, start, gates, bias, x, mask, reverse) -> tuple[Array, Array]:
    gates = gates + bias
    a, b = cell.coefficients(gates)
    if mask is not None:
        a, b = jnp.where(mask[..., None], a, 1), jnp.where(mask[..., None], b, 0)
    c: Any = associative_solution(a, b, start, reverse)
    return cell.output(c, gates, x), c[0 if reverse else -1]


def _last_seen(outputs: Array, start: Array, mask: Array | None, reverse: bool) -> Array:
    """The output of each row's last real step, [B, H]; `start` where there is none."""
    if mask is None:
        return outputs[0 if reverse else -1]
    steps = outputs.shape[0]
    at = mask.argmax(0) if reverse else steps - 1 - mask[::-1].argmax(0)
    found = jnp.take_along_axis(outputs, at[None, :, None], axis=0)[0]
    return jnp.where(mask.any(0)[:, None], found, start)
