"""The few largest of many logits, without ordering the rest."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from seqgen.types import Array


def top_tokens(
    logits: Array, k: int, constrain: Callable[[Array, Array], Array] | None = None
) -> tuple[Array, Array]:
    """The k largest logits and their ids, as `jax.lax.top_k` gives them: ties to the lowest id.

    The largest of each block of ids are found in one pass; the k blocks with the largest maxima
    hold all of the k largest logits, because a logit in any other block is beaten by those k
    maxima. Only these blocks are ordered. There are about as many blocks as candidates in them.

    Args:
      logits: float32 [..., V]; among NaN the choice is any.
      k: how many, at most V.
      constrain: (logits [..., n], int32 ids [n] or [..., n]) -> logits, elementwise, applied to all
        logits first. Given here, it costs no pass of its own.

    Returns:
      Values and int32 ids, both [..., k], largest first.
    """
    constrain = constrain or (lambda values, ids: values)
    vocab = logits.shape[-1]
    block = 2 ** round(math.log2(max(16, math.sqrt(vocab / k))))
    num_blocks = -(-vocab // block)
    if num_blocks < 2 * k:
        values, ids = jax.lax.top_k(constrain(logits, jnp.arange(vocab)), k)
        return values, ids
    lead = logits.shape[:-1]
    fill = [(0, 0)] * len(lead) + [(0, num_blocks * block - vocab)]
    logits = jnp.pad(logits, fill, constant_values=-jnp.inf)

    def in_blocks(values: Array) -> Array:
        return values.reshape(*lead, num_blocks, block)

    maxima = jnp.max(in_blocks(constrain(logits, jnp.arange(num_blocks * block))), axis=-1)
    _, chosen = jax.lax.top_k(maxima, k)
    # In the order of ids, so that equal logits stand lowest id first.
    chosen = jnp.sort(chosen, axis=-1)[..., None]
    ids = (chosen * block + jnp.arange(block, dtype=chosen.dtype)).reshape(*lead, k * block)
    candidates = jnp.take_along_axis(in_blocks(logits), chosen, axis=-2).reshape(ids.shape)
    values, places = jax.lax.top_k(constrain(candidates, ids), k)
    return values, jnp.take_along_axis(ids, places, axis=-1)
