"""The order of examples as a pure function of (seed, epoch), the same for every NumPy version."""

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def mixed(values: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele et al., 2014): a bijection of uint64 that scatters."""
    with np.errstate(over="ignore"):
        z = values.astype(np.uint64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def fold(*values: int) -> int:
    """One 64-bit number out of several, order included."""
    state = np.zeros(1, np.uint64)
    for value in values:
        with np.errstate(over="ignore"):
            state = mixed(state + _GOLDEN + np.uint64(int(value) & (2**64 - 1)))
    return int(state[0])


def permutation(count: int, *key: int) -> np.ndarray:
    """int64 [count]: a permutation that depends on `key` alone."""
    with np.errstate(over="ignore"):
        ranks = mixed(np.uint64(fold(*key)) + np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN)
    return np.argsort(ranks, kind="stable")


def uniform(count: int, *key: int) -> np.ndarray:
    """float64 [count] in [0, 1) that depend on `key` alone."""
    with np.errstate(over="ignore"):
        bits = mixed(np.uint64(fold(*key)) + np.arange(1, count + 1, dtype=np.uint64) * _GOLDEN)
    return (bits >> np.uint64(11)).astype(np.float64) / 2.0**53
