"""Filters of sampling without a sort, so that their numbers may be traced.

The threshold that a sort would give is found exactly by bisection over the 32 bits of a float:
thirty-two cheap passes instead of ordering the vocabulary. Equal logits are kept or dropped
together, so the outcome does not depend on their order.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from seqgen.types import Array


def keep_top_k(logits: Array, k: Array) -> Array:
    """Logits [..., V] with -inf below the k-th largest (Fan et al. 2018, arXiv:1805.04833).

    Args:
      logits: float32, no NaN.
      k: int32 scalar, at least 1; beyond V keeps all.
    """
    keys = _ordered_bits(logits)
    k = jnp.minimum(k, logits.shape[-1])
    threshold = _largest_passing(
        lambda bits: jnp.sum(keys >= bits, axis=-1, keepdims=True) >= k, keys.shape[:-1]
    )
    return jnp.where(keys >= threshold, logits, -jnp.inf)


def keep_top_p(logits: Array, p: Array) -> Array:
    """Logits [..., V] cut to the nucleus (Holtzman et al. 2020, arXiv:1904.09751).

    The nucleus is the smallest set of likeliest tokens whose probabilities sum to at least p; the
    likeliest token always stays.

    Args:
      logits: float32, no NaN.
      p: float32 scalar in [0, 1].
    """
    probs = jax.nn.softmax(logits, axis=-1)
    return _keep_mass(logits, probs, probs, p)


def keep_min_p(logits: Array, p: Array) -> Array:
    """Logits [..., V] of tokens at least p times as likely as the likeliest, others -inf.

    Nguyen et al. 2024, arXiv:2407.01082; Hugging Face `min_p`.

    Args:
      logits: float32, no NaN.
      p: float32 scalar in [0, 1].
    """
    threshold = jnp.max(logits, axis=-1, keepdims=True) + jnp.log(p)
    return jnp.where(logits >= threshold, logits, -jnp.inf)


def keep_typical(logits: Array, p: Array) -> Array:
    """Logits [..., V] cut to the locally typical set (Meister et al. 2023, arXiv:2202.00666, 3).

    Tokens are ranked by how near their surprise -log q is to the entropy of q; the set is the
    smallest of first ones whose probabilities sum to at least p, and the first one always stays.
    Hugging Face `typical_p`.

    Args:
      logits: float32, no NaN.
      p: float32 scalar in [0, 1].
    """
    log_probs = jax.nn.log_softmax(logits, axis=-1)
    probs = jnp.exp(log_probs)
    entropy = -jnp.sum(jnp.where(probs > 0, probs * log_probs, 0.0), axis=-1, keepdims=True)
    return _keep_mass(logits, probs, -jnp.abs(log_probs + entropy), p)


def _keep_mass(logits: Array, probs: Array, ranks: Array, p: Array) -> Array:
    """Logits of the tokens of highest rank whose probabilities first reach p, others -inf."""
    keys = _ordered_bits(ranks)
    threshold = _largest_passing(
        lambda bits: jnp.sum(jnp.where(keys >= bits, probs, 0.0), axis=-1, keepdims=True) >= p,
        keys.shape[:-1],
    )
    threshold = jnp.minimum(threshold, jnp.max(keys, axis=-1, keepdims=True))
    return jnp.where(keys >= threshold, logits, -jnp.inf)


def _ordered_bits(values: Array) -> Array:
    """uint32 numbers in the order of the floats."""
    bits = jax.lax.bitcast_convert_type(values + 0.0, jnp.uint32)
    sign = jnp.uint32(1 << 31)
    return jnp.where(bits >= sign, ~bits, bits | sign)


def _largest_passing(passes: Callable[[Array], Array], shape: tuple[int, ...]) -> Array:
    """The largest uint32 [..., 1] that passes a test which large numbers fail."""

    def try_bit(i: Array, low: Array) -> Array:
        tried = low | (jnp.uint32(1 << 31) >> i.astype(jnp.uint32))
        return jnp.where(passes(tried), tried, low)

    return jax.lax.fori_loop(0, 32, try_bit, jnp.zeros((*shape, 1), jnp.uint32))
