"""Which tokens may come next: control ids, minimum and maximum length."""

import functools
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from seqgen.decoding.config import SearchValues
from seqgen.types import BOS_ID, EOS_ID, PAD_ID, UNK_ID, Array


def length_limits(values: SearchValues, source_lengths: Array, *, max_len: int) -> Array:
    """int32 [B]: most tokens, EOS included, that each sentence's answers may have.

    It depends on the sentence's OWN source length, never on the width of its batch.

    Args:
      values: `max_length`, or `max_length_ratio` and `max_length_offset` where that is 0.
      source_lengths: int32 [B] real source tokens.
      max_len: the room of the decoder's state; limits are cut to it.
    """
    own = jnp.floor(values.max_length_ratio * source_lengths).astype(jnp.int32)
    own = own + values.max_length_offset
    limits = jnp.where(values.max_length > 0, values.max_length, own)
    return jnp.clip(limits, 1, max_len)


def token_rules(state: Any, values: SearchValues) -> Callable[[Array, Array], Array]:
    """`constrain_logits` at the position and limits of a search's state, of logits and ids."""
    return functools.partial(
        constrain_logits,
        position=state.position,
        limits=state.limits,
        values=values,
        cut=state.stop_states is not None,
    )


def constrain_logits(
    logits: Array,
    ids: Array,
    position: Array,
    limits: Array,
    *,
    values: SearchValues,
    cut: bool = False,
) -> Array:
    """Logits with -inf on every token that may not come next.

    PAD and BOS never come; EOS comes after `min_length` tokens at the earliest and is the only
    choice at a sentence's limit, so every hypothesis ends with EOS, unless it is cut there.

    Args:
      logits: float32 [B, K, n].
      ids: int32 [n] or [B, K, n], the tokens they are of.
      position: int32 scalar, tokens generated so far.
      limits: int32 [B] of `length_limits`.
      values: `min_length` and `suppress_unk`.
      cut: what reaches its limit is cut there: any token may be the last.
    """
    at_limit = (position + 1 >= limits)[:, None, None] & (not cut)
    eos_allowed = at_limit | (position >= values.min_length)
    control = (ids == PAD_ID) | (ids == BOS_ID) | ((ids == UNK_ID) & values.suppress_unk)
    allowed = jnp.where(ids == EOS_ID, eos_allowed, ~control & ~at_limit)
    return jnp.where(allowed, logits, -jnp.inf)
