"""Length penalties against their formulas, and the bound that makes early stopping safe."""

import numpy as np
import pytest

from seqgen.decoding.length_penalty import (
    LENGTH_PENALTY_KINDS,
    best_attainable_score,
    length_penalty,
)


def test_formulas():
    lengths = np.asarray([1, 2, 7, 40])
    for alpha in (-1.5, 0.0, 0.6, 1.0):
        np.testing.assert_allclose(
            length_penalty(lengths, alpha, kind="length"), lengths.astype(float) ** alpha, rtol=1e-5
        )
        np.testing.assert_allclose(
            length_penalty(lengths, alpha, kind="wu"), ((5 + lengths) / 6) ** alpha, rtol=1e-5
        )
        np.testing.assert_array_equal(length_penalty(lengths, alpha, kind="none"), np.ones(4))


def test_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="'gnmt'"):
        length_penalty(np.asarray(3), 1.0, kind="gnmt")


@pytest.mark.parametrize("kind", LENGTH_PENALTY_KINDS)
def test_no_completion_beats_the_bound(kind):
    """Random completions of every allowed length, alpha of either sign."""
    rng = np.random.default_rng(0)
    for alpha in np.linspace(-3, 3, 13, dtype=np.float32):
        so_far = -rng.exponential(10, 500).astype(np.float32)
        shortest = rng.integers(1, 20, 500)
        longest = shortest + rng.integers(0, 40, 500)
        bound = best_attainable_score(so_far, shortest, longest, alpha, kind=kind)
        length = rng.integers(shortest, longest + 1)
        total = so_far - rng.choice([0.0, 1e-3, 2.0], 500).astype(np.float32)
        score = np.asarray(total / length_penalty(length, alpha, kind=kind))
        assert np.all(score <= np.asarray(bound) + 1e-6 * abs(score))
        # The bound is attained, so no tighter one is safe.
        ends = [so_far / length_penalty(end, alpha, kind=kind) for end in (shortest, longest)]
        np.testing.assert_array_equal(bound, np.maximum(*ends))
