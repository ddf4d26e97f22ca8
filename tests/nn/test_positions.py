"""Position signals of embeddings: the paper's formula, clamping."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from seqgen.nn.positions import LearnedPositions, sinusoid_table


def test_sinusoids_follow_the_paper():
    table = sinusoid_table(50, 8)
    for position in (0, 1, 7, 49):
        for i in range(4):
            angle = position / 10_000 ** (2 * i / 8)
            np.testing.assert_allclose(table[position, 2 * i], np.sin(angle), atol=1e-6)
            np.testing.assert_allclose(table[position, 2 * i + 1], np.cos(angle), atol=1e-6)


def test_longer_tables_and_odd_widths():
    np.testing.assert_array_equal(sinusoid_table(10, 6), sinusoid_table(99, 6)[:10])
    assert sinusoid_table(4, 7).shape == (4, 7)
    # A shift is one linear map of each column pair, whatever the position (section 3.5).
    table = sinusoid_table(100, 2)
    shift = np.array([[np.cos(5), np.sin(5)], [-np.sin(5), np.cos(5)]])
    np.testing.assert_allclose(table[:-5] @ shift.T, table[5:], atol=1e-5)


def test_learned_positions_clamp():
    positions = LearnedPositions(4, 3, rngs=nnx.Rngs(0))
    out = positions(jnp.array([[0, 3, 4, 99]]))
    np.testing.assert_array_equal(out[0, 1], out[0, 2])
    np.testing.assert_array_equal(out[0, 1], out[0, 3])
    assert jnp.abs(out[0, 0] - out[0, 1]).max() > 0
