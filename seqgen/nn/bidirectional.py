"""One recurrent layer read in both directions (Schuster & Paliwal 1997)."""

import jax.numpy as jnp

from seqgen.nn.linear_recurrence import State
from seqgen.nn.recurrent import RecurrentLayer
from seqgen.nn.recurrent_cudnn import cudnn_lstm
from seqgen.types import Array


def read_both_ways(
    forward: RecurrentLayer, backward: RecurrentLayer, x: Array, *, mask: Array
) -> tuple[Array, State]:
    """Run two layers of one kind over x [T, B, I], the second from the end of each row.

    Args:
      forward, backward: layers of equal sizes.
      x: [T, B, I].
      mask: bool [T, B], True up to each row's length.

    Returns:
      Hidden states [T, B, 2H] and last states [B, 2H], forward first.
    """
    layers = forward, backward
    if forward.uses_cudnn(x):
        outputs, last = cudnn_lstm(
            x,
            [layer.initial_state(x.shape[1]) for layer in layers],
            [layer.weights for layer in layers],
            mask=mask,
            compute_dtype=forward.compute_dtype,
        )
    else:
        both = [layer(x, mask=mask, reverse=i == 1) for i, layer in enumerate(layers)]
        outputs = jnp.concatenate([outputs for outputs, _ in both], axis=-1)
        last = [state for _, state in both]
    return outputs, {n: jnp.concatenate([state[n] for state in last], axis=-1) for n in last[0]}
