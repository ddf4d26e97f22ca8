"""The two moves that every search makes: feed the newest tokens, write the chosen ones."""

import jax
import jax.numpy as jnp

from seqgen.models.base import Decodable
from seqgen.types import Array, PyTree


def next_logits(
    model: Decodable, state: PyTree, ids: Array, position: Array, first_ids: Array
) -> tuple[Array, Array | None, PyTree]:
    """Logits of the token at `position`, float32 [B, K, V], attention, and the decoder's new state.

    Args:
      model: the decoder.
      state: its state after `position` tokens (the first and all but the newest).
      ids: int32 [B, K, T] tokens generated so far.
      position: int32 scalar, how many they are.
      first_ids: int32 [B], what is read where none is generated yet.

    Returns:
      The second one is `DecodeOutput.attention` of this step, [B * K, 1, S] or None; where nobody
      reads it, it is no part of the compiled program.
    """
    batch, beams, _ = ids.shape
    rows = batch * beams
    newest = jax.lax.dynamic_index_in_dim(ids, jnp.maximum(position - 1, 0), axis=2, keepdims=False)
    newest = jnp.where(position == 0, first_ids[:, None], newest)
    output, state = model.extend(state, newest.reshape(rows, 1), jnp.ones((rows,), jnp.int32))
    logits = model.output_logits(output.hidden[:, 0]).astype(jnp.float32)
    return logits.reshape(batch, beams, -1), output.attention, state


def write_tokens(ids: Array, tokens: Array | int, position: Array) -> Array:
    """`ids` [B, K, T] with `tokens` [B, K] (or one id) at `position`."""
    here = jnp.arange(ids.shape[-1]) == position
    return jnp.where(here, jnp.expand_dims(jnp.asarray(tokens, ids.dtype), -1), ids)
