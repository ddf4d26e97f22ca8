"""LSTM layers by NVIDIA's cuDNN: all steps of a layer, and both its directions, in one call.

What is computed is what `seqgen.nn.recurrent` computes with the cell 'lstm'; here are the layout of
cuDNN's weights and what its call wants beside them. One call holds one layer: cuDNN's own dropout
between layers draws other bits than ours, and residual sums it does not have.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import rnn
from jax.extend.backend import get_backend

from seqgen.nn.partitioning import layout_in_force
from seqgen.types import Array

State = dict[str, Array]
Weights = tuple[Array, Array, Array]  # of one direction: [I, 4H], [H, 4H], [4H]


def on_cuda() -> bool:
    """Whether programs run on an NVIDIA GPU."""
    return jax.default_backend() == "gpu" and "cuda" in get_backend().platform_version.lower()


def cudnn_refusal(kind: str, steps: int, *, added: bool) -> str | None:
    """Why cuDNN cannot run a layer here, or None if it can.

    Args:
      kind: name of the cell.
      steps: length of the sequence.
      added: whether something is added to the input product of every step.
    """
    if kind != "lstm":
        return f"JAX hands it LSTM layers only, not {kind!r}"
    if added:
        return "it has no term that is added to the gates of every step"
    if steps == 1:
        return "packing its weights costs more than a single step"
    if layout_in_force() is not None:
        return "its call cannot be cut over a mesh"
    return None if on_cuda() else "there is no NVIDIA GPU"


def pack_weights(directions: Sequence[Weights]) -> Array:
    """One flat array in cuDNN's order: every matrix, gates first, then every bias.

    cuDNN has a second bias a direction, for the recurrent product; it is zero.

    Args:
      directions: input kernel [I, 4H], recurrent kernel [H, 4H] and bias [4H] of each direction;
        gates in the order input, forget, candidate, output, which is cuDNN's too.
    """
    matrices = [kernel.T.reshape(-1) for weights in directions for kernel in weights[:2]]
    biases = [x for *_, bias in directions for x in (bias, jnp.zeros_like(bias))]
    return jnp.concatenate([*matrices, *biases])


def cudnn_lstm(
    x: Array,
    states: Sequence[State],
    directions: Sequence[Weights],
    *,
    mask: Array | None,
    compute_dtype: str,
) -> tuple[Array, list[State]]:
    """One LSTM layer in one or both directions over a whole sequence.

    Args:
      x: [T, B, I].
      states: {'h', 'c'} [B, H] before the first step, of each direction.
      directions: weights, forward first; see `pack_weights`.
      mask: bool [T, B], True up to each row's length; None = all True.
      compute_dtype: 'float32' is exact; 'bfloat16' lets cuDNN round operands to TF32, which keeps
        three bits more.

    Returns:
      Hidden states [T, B, H] a direction, side by side; zero beyond a row's length. And the last
      state of each direction; a row of length 0 keeps its first.
    """
    steps, rows, in_dim = x.shape
    hidden_dim = states[0]["h"].shape[1]
    lengths = jnp.full(rows, steps) if mask is None else mask.sum(0)
    exact = compute_dtype == "float32"
    called: Any = rnn.lstm(
        x.swapaxes(0, 1),
        *(jnp.stack([state[name] for state in states]) for name in ("h", "c")),
        pack_weights(directions),
        lengths.clip(1).astype(jnp.int32),
        in_dim,
        hidden_dim,
        1,  # layer
        0.0,  # dropout
        len(directions) == 2,
        lax.Precision.HIGHEST if exact else None,
    )
    outputs, h, c = called
    outputs = outputs.swapaxes(0, 1)
    if mask is not None:
        outputs = jnp.where(mask[..., None], outputs, 0)

    def restore(i: int, name: str, value: Any) -> Array:
        return jnp.where((lengths > 0)[:, None], value[i], states[i][name])

    return outputs, [
        {"h": restore(i, "h", h), "c": restore(i, "c", c)} for i in range(len(directions))
    ]
