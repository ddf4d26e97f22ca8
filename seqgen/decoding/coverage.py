"""Answers that leave parts of their source out: what attention has not seen lowers the score."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from seqgen.errors import ConfigError
from seqgen.types import Array


def coverage_penalty(coverage: Array, source_mask: Array, strength: Array) -> Array:
    """What is added to a hypothesis' score, float32 [B, K]: at most 0.

    strength * sum over source tokens of log(min(their coverage, 1)): equation 14 of Wu et al. 2016
    (arXiv:1609.08144). A token that no attention fell on counts as the smallest float32.

    Args:
      coverage: float32 [B, K, S], summed attention weights of all target tokens.
      source_mask: bool [B, S], real source tokens.
      strength: float32 scalar beta, at least 0.
    """
    seen = jnp.clip(coverage, jnp.finfo(jnp.float32).tiny, 1.0)
    return strength * jnp.sum(jnp.where(source_mask[:, None], jnp.log(seen), 0.0), axis=-1)


def add_attention(state: Any, attention: Array | None) -> Any:
    """A beam search's state whose `coverage` [B, K, S] counts a step's `attention` [R, 1, S] too.

    Raises:
      ConfigError: coverage is asked for, and the model attends over no source.
    """
    if state.coverage is None:
        return state
    if attention is None:
        raise ConfigError(
            "coverage_penalty needs attention over a source, and this model has none",
            details=["leave it out, or train a decoder with attention"],
        )
    return dataclasses.replace(
        state, coverage=state.coverage + attention.reshape(state.coverage.shape)
    )
