"""Embedding: look-up, tied logits, start."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seqgen.nn.embedding import Embedding


def test_lookup_and_logits():
    embedding = Embedding(11, 6, rngs=nnx.Rngs(0))
    table = np.asarray(embedding.table[...])
    ids = jnp.array([[1, 10], [0, 99]])
    np.testing.assert_array_equal(embedding(ids), table[np.array([[1, 10], [0, 10]])])
    hidden = jnp.ones((2, 3, 6))
    np.testing.assert_allclose(embedding.attend(hidden), np.ones((2, 3, 6)) @ table.T, atol=1e-5)


def test_start_and_gradient():
    embedding = Embedding(4000, 64, rngs=nnx.Rngs(1))
    assert abs(float(embedding.table[...].std()) - 64**-0.5) < 1e-3
    ids = jnp.array([3, 3, 5])
    graph, state = nnx.split(embedding)
    gradient = jax.grad(lambda state: nnx.merge(graph, state)(ids).sum())(state)["table"][...]
    np.testing.assert_array_equal(np.flatnonzero(np.asarray(gradient).sum(1)), [3, 5])
    assert gradient[3, 0] == 2
