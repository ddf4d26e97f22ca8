"""Recurrent layers, and the cells whose gates read the state: simple (tanh), LSTM and GRU.

A layer projects its whole input sequence at once (the input product is hoisted out of the scan), so
that a step only multiplies the state; gradients of the recurrent kernel are formed after the
backward scan (`seqgen.nn.scan`). Cells whose gates read the input alone have no recurrent kernel;
they run in the same layer and stand in `seqgen.nn.linear_recurrence`. On request an LSTM layer is
cuDNN's (`seqgen.nn.recurrent_cudnn`) where that can run it. Sequences are time-major here,
[T, B, ...]. Gates stand in the order of the torch library: LSTM input, forget, candidate,
output; GRU reset, update, candidate.

Elman, "Finding structure in time", 1990; Hochreiter & Schmidhuber, "Long short-term memory", 1997,
with the forget gate of Gers et al., 2000; Cho et al., "Learning phrase representations using RNN
encoder-decoder", 2014 (GRU, in the variant that resets after the product).
"""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from seqgen.nn import linear_recurrence as linear
from seqgen.nn.dense import Dense, dense
from seqgen.nn.linear_recurrence import LinearCell, State
from seqgen.nn.parameters import param
from seqgen.nn.quantization import as_float
from seqgen.nn.recurrent_cudnn import Weights, cudnn_lstm, cudnn_refusal
from seqgen.nn.scan import Project, time_scan
from seqgen.types import Array, PyTree, load_component


class Cell(Protocol):
    """The elementwise part of a recurrent cell; a user's own class may keep this contract.

    Attributes:
      states: names of the state's arrays; 'h' is the output.
      num_gates: widths of H that input and recurrent products have.
      joint: whether the two products enter only as their sum (then `recurrent` is None).
    """

    states: tuple[str, ...]
    num_gates: int
    joint: bool

    def advance(self, state: State, gates: Array, recurrent: Array | None) -> State:
        """The next state from the input product (or the sum) and the recurrent one, [B, G * H]."""
        ...

    def initial_bias(self, hidden_dim: int, *, forget_bias: float) -> Array:
        """Start of the input product's bias, [G * H]."""
        ...


class SimpleCell:
    """h' = tanh(x + u)."""

    states: tuple[str, ...] = ("h",)
    num_gates = 1
    joint = True

    def advance(self, state: State, gates: Array, recurrent: Array | None) -> State:
        """See `Cell`."""
        return {"h": jnp.tanh(gates)}

    def initial_bias(self, hidden_dim: int, *, forget_bias: float) -> Array:
        """Zeros."""
        return jnp.zeros(hidden_dim, jnp.float32)


class LSTMCell:
    """c' = f c + i g, h' = o tanh(c')."""

    states: tuple[str, ...] = ("h", "c")
    num_gates = 4
    joint = True

    def advance(self, state: State, gates: Array, recurrent: Array | None) -> State:
        """See `Cell`."""
        i, f, g, o = jnp.split(gates, 4, axis=-1)
        c = jax.nn.sigmoid(f) * state["c"] + jax.nn.sigmoid(i) * jnp.tanh(g)
        return {"h": jax.nn.sigmoid(o) * jnp.tanh(c), "c": c}

    def initial_bias(self, hidden_dim: int, *, forget_bias: float) -> Array:
        """Zeros, but `forget_bias` for the forget gate (Jozefowicz et al., 2015)."""
        return jnp.zeros((4, hidden_dim), jnp.float32).at[1].set(forget_bias).reshape(-1)


class GRUCell:
    """n = tanh(x_n + r u_n), h' = (1 - z) n + z h; u_n has a bias of its own."""

    states: tuple[str, ...] = ("h",)
    num_gates = 3
    joint = False

    def advance(self, state: State, gates: Array, recurrent: Array | None) -> State:
        """See `Cell`."""
        assert recurrent is not None
        x_r, x_z, x_n = jnp.split(gates, 3, axis=-1)
        u_r, u_z, u_n = jnp.split(recurrent, 3, axis=-1)
        r, z = jax.nn.sigmoid(x_r + u_r), jax.nn.sigmoid(x_z + u_z)
        n = jnp.tanh(x_n + r * u_n)
        return {"h": n + z * (state["h"] - n)}

    def initial_bias(self, hidden_dim: int, *, forget_bias: float) -> Array:
        """Zeros."""
        return jnp.zeros(3 * hidden_dim, jnp.float32)


CELLS: Mapping[str, Callable[[], Cell | LinearCell]] = {
    "simple": SimpleCell,
    "lstm": LSTMCell,
    "gru": GRUCell,
    "mingru": linear.MinGRUCell,
    "minlstm": linear.MinLSTMCell,
    "sru": linear.SRUCell,
    "ssru": linear.SSRUCell,
}


def build_cell(kind: str) -> Cell | LinearCell:
    """A cell by its built-in name, or a user's own class given as `module:name`."""
    return load_component(kind, CELLS, what="recurrent cell")()


def _gatewise(init: Callable[..., Array], key: Array, rows: int, hidden_dim: int, gates: int):
    """One [rows, H] matrix a gate, drawn on its own, side by side."""
    keys = jax.random.split(key, gates)
    return jnp.concatenate([init(k, (rows, hidden_dim), jnp.float32) for k in keys], axis=1)


def _uniform(key: Array, shape: tuple[int, int], dtype) -> Array:
    """Between +-1 / sqrt(rows)."""
    limit = shape[0] ** -0.5
    return jax.random.uniform(key, shape, dtype, -limit, limit)


class RecurrentLayer(nnx.Module):
    """One layer in one direction: a hoisted input product, and a cell run over time.

    Attributes:
      highway: whether the layer's input passes by the cell (cells that do so, where widths agree).
    """

    def __init__(
        self,
        in_dim: int,
        hidden_dim: int,
        *,
        kind: str,
        forget_bias: float = 1.0,
        recurrent_init: str = "orthogonal",
        kernel: str = "scan",
        compute_dtype: str = "float32",
        rngs: nnx.Rngs,
    ):
        """Args: kind: name of the cell; recurrent_init: 'orthogonal' or 'uniform' (torch's);
        kernel: 'scan', or 'auto': cuDNN wherever it can run the layer, the scan elsewhere.
        """
        cell = build_cell(kind)
        gates = cell.num_gates
        glorot = nnx.initializers.glorot_uniform()
        recurrent = {"orthogonal": nnx.initializers.orthogonal(), "uniform": _uniform}
        self.input = Dense(
            in_dim,
            gates * hidden_dim,
            axes=("embed", "hidden"),
            kernel_init=lambda key, shape, dtype: _gatewise(glorot, key, in_dim, hidden_dim, gates),
            compute_dtype=compute_dtype,
            rngs=rngs,
        )
        bias = cell.initial_bias(hidden_dim, forget_bias=forget_bias)
        self.input.bias = param(bias, ("hidden",))
        own_kernel = own_bias = None
        if not isinstance(cell, LinearCell):
            init = recurrent[recurrent_init]
            drawn = _gatewise(init, rngs.params(), hidden_dim, hidden_dim, gates)
            own_kernel = param(drawn, ("embed", "hidden"))
            # Where the products are summed, one bias would say the same as the other.
            own_bias = None if cell.joint else param(jnp.zeros_like(bias), ("hidden",))
        self.recurrent_kernel, self.recurrent_bias = own_kernel, own_bias
        self.highway = isinstance(cell, LinearCell) and cell.highway and in_dim == hidden_dim
        self.kind, self.kernel, self.compute_dtype = kind, kernel, compute_dtype
        self.in_dim, self.hidden_dim = in_dim, hidden_dim

    @property
    def cell(self) -> Cell | LinearCell:
        return build_cell(self.kind)

    @property
    def weights(self) -> Weights:
        """Input kernel, recurrent kernel and bias."""
        assert self.recurrent_kernel is not None and self.input.bias is not None
        kernel = as_float(self.input.kernel[...])
        return kernel, self.recurrent_kernel[...], self.input.bias[...]

    def uses_cudnn(self, x: Array, *, added: bool = False) -> bool:
        """Whether a sequence [T, B, I] goes to cuDNN; `added` as in a call."""
        return self.kernel == "auto" and cudnn_refusal(self.kind, x.shape[0], added=added) is None

    def initial_state(self, rows: int) -> State:
        """Zeros [rows, H]."""
        return {n: jnp.zeros((rows, self.hidden_dim), jnp.float32) for n in self.cell.states}

    def products(
        self, name: str, *, input_kernel: Array | None = None
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """Kernels and biases of the products that `step` asks of a time scan.

        Args:
          name: prefix of the products' names.
          input_kernel: of the input that arrives step by step, where that is not the layer's whole
            input (`hoist` gives the rest).
        """
        entering = as_float(self.input.kernel[...]) if input_kernel is None else input_kernel
        assert self.input.bias is not None
        biases: dict[str, Any] = {self.step_name(name): self.input.bias[...]}
        if self.recurrent_kernel is None:
            return {self.step_name(name): entering}, biases
        own: Any = self.recurrent_kernel[...]
        if self.recurrent_bias is None:
            return {self.step_name(name): jnp.concatenate([entering, own])}, biases
        biases[f"{name}/recurrent"] = self.recurrent_bias[...]
        return {self.step_name(name): entering, f"{name}/recurrent": own}, biases

    def hoist(self, x: Array) -> Array:
        """The input product of a whole sequence [..., I], without the bias: that is added in the
        scan, where it costs no pass over memory.
        """
        return dense(x, self.input.kernel[...], compute_dtype=self.compute_dtype)

    def step_name(self, name: str) -> str:
        """Name of the product that takes the input in `step`."""
        return f"{name}/joint" if getattr(self.cell, "joint", False) else f"{name}/input"

    def step(
        self, project: Project, name: str, x: Array, state: State, *, passed: Array | None = None
    ) -> State:
        """One step inside a time scan that has this layer's `products`: x [R, I] -> next state.

        `passed` is what a highway carries; x itself if None.
        """
        cell = self.cell
        if isinstance(cell, LinearCell):
            gates = project(self.step_name(name), x)
            passed = (x if passed is None else passed) if self.highway else None
            return linear.advance(cell, state, gates, passed)
        if cell.joint:
            gates = project(self.step_name(name), jnp.concatenate([x, state["h"]], axis=-1))
            return cell.advance(state, gates, None)
        gates = project(self.step_name(name), x)
        return cell.advance(state, gates, project(f"{name}/recurrent", state["h"]))

    def __call__(
        self,
        x: Array,
        *,
        state: State | None = None,
        mask: Array | None = None,
        added: Array | None = None,
        reverse: bool = False,
    ) -> tuple[Array, State]:
        """Run over a whole sequence.

        Args:
          x: [T, B, I].
          state: before the first step; zeros if None.
          mask: bool [T, B], True up to each row's length; beyond, the state passes through
            unchanged. None = all True.
          added: added to the input product, [B, G * H] or None.
          reverse: read from the last step to the first.

        Returns:
          Hidden states [T, B, H], meaningless beyond a row's length, and the last state.
        """
        cell = self.cell
        state = self.initial_state(x.shape[1]) if state is None else state
        # In reverse cuDNN reads only beside a forward direction (`seqgen.nn.bidirectional`).
        if not reverse and self.uses_cudnn(x, added=added is not None):
            outputs, (last,) = cudnn_lstm(
                x, [state], [self.weights], mask=mask, compute_dtype=self.compute_dtype
            )
            return outputs, last
        gates = self.hoist(x)
        if added is not None:
            gates = gates + added
        assert self.input.bias is not None
        bias: Any = self.input.bias[...]
        if isinstance(cell, LinearCell):
            passed = x if self.highway else None
            return linear.run(cell, state, gates, bias=bias, x=passed, mask=mask, reverse=reverse)
        assert self.recurrent_kernel is not None
        own_bias: Any = bias if self.recurrent_bias is None else self.recurrent_bias[...]

        def step(project: Project, constants: PyTree, state: State, sliced):
            gates, seen = sliced
            recurrent = project("recurrent", state["h"])
            if cell.joint:
                gates, recurrent = recurrent, None
            else:
                gates = gates + constants
            new = keep_where(seen, cell.advance(state, gates, recurrent), state)
            return new, new["h"]

        last, outputs = time_scan(
            step,
            state,
            (None if cell.joint else gates, mask),
            kernels={"recurrent": self.recurrent_kernel[...]},
            biases={"recurrent": own_bias},
            hoisted={"recurrent": gates} if cell.joint else {},
            constants=None if cell.joint else bias,
            compute_dtype=self.compute_dtype,
            reverse=reverse,
        )
        return outputs, last


def keep_where(seen: Array | None, new: State, old: State) -> State:
    """`new` where `seen` ([B] bool; None = everywhere), `old` elsewhere."""
    if seen is None:
        return new
    return {name: jnp.where(seen[:, None], new[name], old[name]) for name in new}
