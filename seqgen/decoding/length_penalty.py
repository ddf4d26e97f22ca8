"""Length penalties: what a hypothesis' log-probability is divided by to give its score."""

import jax.numpy as jnp

from seqgen.types import Array

LENGTH_PENALTY_KINDS = ("length", "wu", "none")


def length_penalty(lengths: Array, alpha: Array, *, kind: str) -> Array:
    """The divisor, float32 like `lengths`; always positive and monotone in the length.

    Args:
      lengths: tokens of a hypothesis, EOS counted; values below 1 count as 1.
      alpha: exponent, scalar; 0 switches the penalty off.
      kind: 'length' is len^alpha, as Hugging Face `length_penalty`; 'wu' is ((5 + len) / 6)^alpha,
        equation 14 of Wu et al. 2016 (arXiv:1609.08144), without its coverage term; 'none' is 1.
    """
    lengths = jnp.maximum(jnp.asarray(lengths, jnp.float32), 1.0)
    if kind == "length":
        return lengths**alpha
    if kind == "wu":
        return ((5.0 + lengths) / 6.0) ** alpha
    if kind == "none":
        return jnp.ones_like(lengths)
    raise ValueError(f"length_penalty_kind {kind!r} is not one of {LENGTH_PENALTY_KINDS}")


def best_attainable_score(
    log_probs: Array, shortest: Array, longest: Array, alpha: Array, *, kind: str
) -> Array:
    """An upper bound of the score of every completion of a live hypothesis.

    A completion adds tokens of log-probability <= 0, so its own is at most `log_probs`, and its
    length lies between `shortest` and `longest`. Dividing a non-positive number by a penalty that
    is monotone in the length is largest at one of the two ends, whatever the sign of alpha.

    Args:
      log_probs: float32, log-probability so far (<= 0), any shape.
      shortest: fewest tokens a completion can have, broadcastable.
      longest: most tokens a completion can have, broadcastable.
      alpha: exponent, scalar.
      kind: see `length_penalty`.
    """
    at_shortest = log_probs / length_penalty(shortest, alpha, kind=kind)
    at_longest = log_probs / length_penalty(longest, alpha, kind=kind)
    return jnp.maximum(at_shortest, at_longest)
