"""Penalties on tokens that an answer holds already: logits in, lower logits out.

A penalty only lowers logits (its number cannot be one that raises them), so a hypothesis' penalised
log-probability never grows, which the proof of the early stop of beam search rests on.
"""

import jax.numpy as jnp

from seqgen.types import Array


def count_tokens(ids: Array, position: Array, vocab: int) -> Array:
    """How often each token was generated, float32 [B, K, V].

    Args:
      ids: int32 [B, K, T] tokens generated so far; whatever stands from `position` on is not read.
      position: int32 scalar, how many they are.
      vocab: V.
    """
    batch, beams, room = ids.shape
    generated = jnp.broadcast_to(jnp.arange(room) < position, ids.shape).astype(jnp.float32)
    rows, columns = jnp.arange(batch)[:, None, None], jnp.arange(beams)[None, :, None]
    return jnp.zeros((batch, beams, vocab)).at[rows, columns, ids].add(generated, mode="drop")


def count_choices(tokens: Array, alive: Array, vocab: int) -> Array:
    """How many beams have just gone on with each token, float32 [B, V].

    Args:
      tokens: int32 [B, K], the newest of each beam.
      alive: bool [B, K], beams that count.
      vocab: V.
    """
    rows = jnp.arange(tokens.shape[0])[:, None]
    counts = jnp.zeros((tokens.shape[0], vocab))
    return counts.at[rows, tokens].add(alive.astype(jnp.float32), mode="drop")


def penalise_choices(logits: Array, taken: Array, penalty: Array) -> Array:
    """Logits less `penalty` for each beam of an earlier group that has just taken the token.

    Hamming diversity, Vijayakumar et al. 2016, arXiv:1610.02424, section 4.

    Args:
      logits: float32 [B, K, V].
      taken: [B, V] of `count_choices`.
      penalty: float32 scalar, at least 0; 0 changes nothing.
    """
    return logits - penalty * taken[:, None]


def penalise_repetition(logits: Array, counts: Array, penalty: Array) -> Array:
    """Logits of generated tokens divided by `penalty` where positive, multiplied where negative.

    CTRL, Keskar et al. 2019, arXiv:1909.05858, section 4.1, with the care for negative logits that
    Hugging Face `repetition_penalty` takes.

    Args:
      logits: float32 [B, K, V].
      counts: [B, K, V] of `count_tokens`.
      penalty: float32 scalar, at least 1; 1 changes nothing.
    """
    lowered = jnp.where(logits < 0, logits * penalty, logits / penalty)
    return jnp.where(counts > 0, lowered, logits)


def penalise_frequency(logits: Array, counts: Array, penalty: Array) -> Array:
    """Logits less `penalty` for each time the token was generated (OpenAI `frequency_penalty`).

    Args:
      logits: float32 [B, K, V].
      counts: [B, K, V] of `count_tokens`.
      penalty: float32 scalar, at least 0; 0 changes nothing.
    """
    return logits - penalty * counts


def penalise_presence(logits: Array, counts: Array, penalty: Array) -> Array:
    """Logits less `penalty` once for tokens that were generated (OpenAI `presence_penalty`).

    Args:
      logits: float32 [B, K, V].
      counts: [B, K, V] of `count_tokens`.
      penalty: float32 scalar, at least 0; 0 changes nothing.
    """
    return logits - penalty * (counts > 0)
