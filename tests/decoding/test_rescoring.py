"""Positions read a few at a time."""

import jax.numpy as jnp
import numpy as np
import pytest

from seqgen.decoding.rescoring import map_chunks


@pytest.mark.parametrize("width", [1, 4, 7])
def test_chunks_join_to_the_whole(width):
    """Arrays of two and three axes in, a tree out; no position is lost, none is added."""
    rng = np.random.default_rng(width)
    hidden, labels = rng.normal(size=(3, width, 5)), rng.integers(0, 9, (3, width))
    seen = []

    def read(hidden, labels):
        seen.append((hidden.shape, labels.shape))
        return {"sum": hidden.sum(-1) + labels, "own": (hidden * 2, labels)}

    found = map_chunks(read, jnp.float32(hidden), jnp.asarray(labels), chunk_len=4)
    assert set(seen) == {((4, 3, 5), (4, 3))}
    np.testing.assert_allclose(found["sum"], hidden.sum(-1) + labels, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found["own"][0], hidden * 2, rtol=1e-6)
    np.testing.assert_array_equal(found["own"][1], labels)
