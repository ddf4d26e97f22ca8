"""Token embeddings, usable as the output layer too (tied weights)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from seqgen.nn.dense import dot, row_major
from seqgen.nn.parameters import param
from seqgen.nn.quantization import Int8Weights, as_float
from seqgen.types import Array


@jax.custom_vjp
def lookup(table: Array, ids: Array) -> Array:
    """Rows of a table [V, D] by int32 ids [...]; ids beyond the table take its last row."""
    return jnp.take(table, ids, axis=0, mode="clip")


def _lookup_forward(table: Array, ids: Array) -> Any:
    return lookup(table, ids), (table, ids)


def _lookup_backward(saved: Any, dy: Array) -> Any:
    # XLA:CPU joins the scatters of two look-ups in one table and fuses both chains that lead to
    # them, dropout bits included, into the joint; without the fence that compiles for 40 seconds.
    table, ids = saved
    return jnp.zeros_like(table).at[ids].add(row_major(dy), mode="clip"), None


lookup.defvjp(_lookup_forward, _lookup_backward)


class Embedding(nnx.Module):
    """A table [V, D] of token vectors, started from normal(0, D^-0.5).

    Multiplied by sqrt(D) on the way in, such vectors have unit variance; used as the output layer
    they give logits of unit variance for normalised states (Vaswani et al. 2017, section 3.4).
    """

    def __init__(
        self, vocab_size: int, dim: int, *, compute_dtype: str = "float32", rngs: nnx.Rngs
    ):
        table = jax.random.normal(rngs.params(), (vocab_size, dim), jnp.float32) * dim**-0.5
        self.table = param(table, ("vocab", "embed"), summed_axis=-1)
        self.compute_dtype = compute_dtype

    def __call__(self, ids: Array) -> Array:
        """Vectors float32 [..., D] of int32 ids [...]; ids beyond the table take its last row."""
        table: Any = self.table[...]
        if isinstance(table, Int8Weights):
            return as_float(table[jnp.minimum(ids, table.shape[0] - 1)])
        return lookup(table, ids)

    def attend(self, hidden: Array) -> Array:
        """Logits float32 [..., V] of hidden states [..., D] over all tokens of the table."""
        axis = hidden.ndim - 1
        return dot(hidden, self.table[...], ((axis,), (1,)), compute_dtype=self.compute_dtype)
