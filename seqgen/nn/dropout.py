"""Dropout whose bits are a hash of where an element stands, not of a running counter.

The bit of an element depends on the key (made of seed, step, micro-batch and layer) and on its
coordinate along each axis. Padding a batch longer, cutting it over devices or recomputing a layer
in the backward pass therefore changes no bit of the elements that were there before. Bits cost a
few integer operations an element, where a counter-based generator such as threefry costs a quarter
of a training step on a CPU.

The mixing step is the two-round multiply-xorshift hash "lowbias32" of Wellons ("Prospecting for
hash functions", 2018). Dropout itself: Srivastava et al., "Dropout: a simple way to prevent neural
networks from overfitting", JMLR 2014; inverted scaling, so evaluation is the identity.
"""

import functools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqgen.types import Array

_GOLDEN = np.uint32(0x9E3779B9)
_FIRST, _SECOND = np.uint32(0x7FEB352D), np.uint32(0x846CA68B)


def _scramble(bits: Array) -> Array:
    """Mix uint32 words; the HIGH bits of the result are good, the low 16 are not finished."""
    bits = (bits ^ (bits >> np.uint32(16))) * _FIRST
    return (bits ^ (bits >> np.uint32(15))) * _SECOND


def _mix(bits: Array) -> Array:
    """A bijection of uint32 words in which every input bit moves every output bit."""
    bits = _scramble(bits)
    return bits ^ (bits >> np.uint32(16))


def _combine(state: Array, word: Any) -> Array:
    word = jnp.asarray(word).astype(jnp.uint32)
    return _mix(state * np.uint32(5) + _mix(word + _GOLDEN) + _GOLDEN)


def make_key(seed: Any, *, step: Any, micro_batch: Any = 0) -> Array:
    """The dropout key (uint32 scalar) of one micro-batch; ints or integer arrays go in."""
    seed = jnp.asarray(seed).astype(jnp.uint32)
    return fold(_mix(seed ^ np.uint32(0x5EED5EED)), step, micro_batch)


def fold(key: Any, *words: Any) -> Any:
    """A key that also depends on `words` (ints or integer arrays); None stays None."""
    if key is None:
        return None
    for word in words:
        key = _combine(key, word)
    return key


def split(key: Any, num: int) -> list[Any]:
    """`num` keys from one; a list of None from None."""
    return [fold(key, index) for index in range(num)]


@functools.cache
def coordinate_words(axis: int, size: int) -> np.ndarray:
    """Fixed random words, uint32 [size], for the places along one axis; longer ones extend them."""
    with np.errstate(over="ignore"):
        words = np.arange(size, dtype=np.uint32) * _GOLDEN + np.uint32(axis + 1) * _FIRST
        for _ in range(2):
            words = (words ^ (words >> np.uint32(16))) * _FIRST
            words = (words ^ (words >> np.uint32(15))) * _SECOND
        return words ^ (words >> np.uint32(16))


def keep_mask(shape: tuple[int, ...], rate: float, key: Array) -> Array:
    """True with probability `1 - rate`: a pure function of the key and each coordinate.

    The words of an element's coordinates are constants; adding them to the key and scrambling the
    sum is all that is done for an element. (Hashing axis after axis would be fused into the loop
    over elements and done again for each of them, and takes the compiler long.)
    """
    words = key
    for axis, size in enumerate(shape):
        words = words[..., None] + coordinate_words(axis, size)
    return kept(words, rate)


def kept(words: Array, rate: float) -> Array:
    """True with probability `1 - rate`, for sums of the key and coordinate words (uint32).

    What works on a large array piece by piece adds up the `coordinate_words` of its piece and gets
    the bits that `keep_mask` has there.
    """
    return _scramble(words) >= np.uint32(round(rate * 2**32))


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _drop(x: Array, rate: float, key: Array) -> Array:
    return jnp.where(keep_mask(x.shape, rate, key), x * np.float32(1 / (1 - rate)), 0).astype(
        x.dtype
    )


def _drop_forward(x: Array, rate: float, key: Array) -> tuple[Array, Array]:
    return _drop(x, rate, key), key


def _drop_backward(rate: float, key: Array, dy: Array) -> tuple[Array, None]:
    return _drop(dy, rate, key), None


_drop.defvjp(_drop_forward, _drop_backward)


def dropout(x: Array, rate: float, key: Any) -> Array:
    """Zero elements of `x` with probability `rate` and scale the others by `1 / (1 - rate)`.

    Args:
      x: any float array with at least one axis; axis 0 counts global rows.
      rate: Python float in [0, 1).
      key: from `make_key`/`fold`, one for every place where dropout is applied; None means
        evaluation and gives `x` back.

    Raises:
      ValueError: if `rate` is outside [0, 1).
    """
    if not 0 <= rate < 1:
        raise ValueError(f"dropout rate {rate} is outside [0, 1)")
    if key is None or rate == 0:
        return x
    return _drop(x, rate, key)
