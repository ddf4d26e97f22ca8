"""The few likeliest tokens of many, without ordering the rest and in few passes over the logits."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from seqgen.types import NUM_CONTROL_IDS, Array

Constrain = Callable[[Array, Array], Array]


def top_tokens(
    logits: Array, k: int, constrain: Constrain | None = None, normalizers: Array | None = None
) -> tuple[Array, Array]:
    """Log-probabilities and ids of the k likeliest tokens that may come; ties to the lowest id.

    The largest logits of each block of ids are found in one pass. The k blocks with the largest
    maxima hold all of the k largest logits, because a logit in any other block is beaten by those k
    maxima; only these blocks, and the first one, which holds the control ids, are ordered. There
    are about as many blocks as candidates in them. A second pass sums the exponentials.

    Args:
      logits: float32 [..., V]; a row that holds NaN gives NaN.
      k: how many, at most V.
      constrain: (logits [..., n], int32 ids [n] or [..., n]) -> logits, elementwise: sets those of
        tokens that may not come to -inf. It may depend on the ids below `NUM_CONTROL_IDS`; all
        others of a row it treats alike. Probabilities are those before it.
      normalizers: float32 [..., 1], what is taken off a logit to give a log-probability where that
        is not the logarithm of the sum of these logits' exponentials.

    Returns:
      float32 and int32 [..., k], likeliest first; -inf where fewer than k tokens may come.
    """
    constrain = constrain or (lambda values, ids: values)
    lead, vocab = logits.shape[:-1], logits.shape[-1]
    block = _block_size(vocab, k)
    num_blocks = -(-vocab // block)
    if num_blocks < 2 * (k + 1):
        largest = logits.max(axis=-1, keepdims=True)
        ids = jnp.broadcast_to(jnp.arange(vocab), logits.shape)
        candidates = logits
    else:
        padded = logits
        if num_blocks * block > vocab:
            fill = [(0, 0)] * len(lead) + [(0, num_blocks * block - vocab)]
            padded = jnp.pad(logits, fill, constant_values=-jnp.inf)
        blocks = padded.reshape(*lead, num_blocks, block)
        maxima = blocks.max(axis=-1)
        largest = maxima.max(axis=-1, keepdims=True)
        _, chosen = jax.lax.top_k(maxima.at[..., 0].set(jnp.inf), k + 1)
        # In the order of ids, so that equal logits stand lowest id first.
        chosen = jnp.sort(chosen, axis=-1)[..., None]
        ids = (chosen * block + jnp.arange(block, dtype=chosen.dtype)).reshape(*lead, -1)
        candidates = jnp.take_along_axis(blocks, chosen, axis=-2).reshape(ids.shape)
    if normalizers is None:
        totals = largest + jnp.log(jnp.exp(logits - largest).sum(axis=-1, keepdims=True))
    else:
        totals = normalizers
    values, places = jax.lax.top_k(constrain(candidates, ids), k)
    return jnp.minimum(values - totals, 0.0), jnp.take_along_axis(ids, places, axis=-1)


def _block_size(vocab: int, k: int) -> int:
    """About sqrt(V / k), and a divisor of V where one is near: then nothing has to be padded."""
    wanted = max(NUM_CONTROL_IDS, 16, round(math.sqrt(vocab / k)))
    near = range(max(NUM_CONTROL_IDS, wanted // 2), 2 * wanted + 1)
    divisors = [size for size in near if vocab % size == 0]
    return min(divisors, key=lambda size: abs(math.log(size / wanted)), default=wanted)
