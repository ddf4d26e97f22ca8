"""The attention of recurrent decoders: one head, scored by a small network or by a product.

Additive: Bahdanau et al., "Neural machine translation by jointly learning to align and translate",
2015. Dot and general: Luong et al., "Effective approaches to attention-based neural machine
translation", 2015. What depends on the source alone (`keys`) is computed once a sentence.
"""

from typing import Any

import jax.numpy as jnp
from flax import nnx

from seqgen.nn.dense import Dense, batched_matmul
from seqgen.nn.parameters import param
from seqgen.types import Array


def attention_weights(scores: Array, mask: Array) -> Array:
    """Softmax over the last axis where `mask` is True: sums to 1, or to 0 where nothing is seen.

    Args:
      scores: float32 [..., S].
      mask: bool, broadcastable to `scores`.
    """
    scores = jnp.where(mask, scores, -1e30)
    powers = jnp.where(mask, jnp.exp(scores - scores.max(axis=-1, keepdims=True)), 0)
    return powers / jnp.maximum(powers.sum(axis=-1, keepdims=True), 1e-30)


def additive_scores(
    query: Array, keys: Array, vector: Array, covered: Array | None = None
) -> Array:
    """`vector . tanh(query + key)`: query [B, Q, A], keys [B, S, A], vector [A] -> [B, Q, S].

    `covered` [B, Q, S, A], if given, stands in the sum beside query and key.
    """
    total = query[:, :, None] + keys[:, None]
    hidden = jnp.tanh(total if covered is None else total + covered)
    return (hidden * vector).sum(axis=-1)


class AdditiveAttention(nnx.Module):
    """Bahdanau's attention: scores from a hidden layer over query and key."""

    def __init__(
        self,
        query_dim: int,
        memory_dim: int,
        *,
        attention_dim: int,
        coverage: bool = False,
        compute_dtype: str = "float32",
        rngs: nnx.Rngs,
    ):
        """Args: coverage: also read how much each place was attended to before."""
        self.query = Dense(
            query_dim,
            attention_dim,
            axes=("hidden", "mlp"),
            use_bias=False,
            compute_dtype=compute_dtype,
            rngs=rngs,
        )
        self.key = Dense(
            memory_dim,
            attention_dim,
            axes=("hidden", "mlp"),
            compute_dtype=compute_dtype,
            rngs=rngs,
        )
        start = nnx.initializers.glorot_uniform()(rngs.params(), (attention_dim, 1), jnp.float32)
        self.vector = param(start[:, 0], ("mlp",))
        # From zeros: attention begins as without it.
        unmoved = jnp.zeros(attention_dim, jnp.float32)
        self.coverage = param(unmoved, ("mlp",)) if coverage else None

    def keys(self, memory: Array) -> Array:
        """Memory [B, S, D] -> keys [B, S, A]."""
        return self.key(memory)

    def weigh(self, query: Array, keys: Array, mask: Array) -> Array:
        """Weights [B, Q, S] of queries [B, Q, H] over positions where `mask` [B, S] is True."""
        scores = additive_scores(self.query(query), keys, self.vector[...])
        return attention_weights(scores, mask[:, None])


class LuongAttention(nnx.Module):
    """Luong's attention: the product of query and memory, directly or through a matrix."""

    def __init__(
        self,
        query_dim: int,
        memory_dim: int,
        *,
        general: bool,
        compute_dtype: str = "float32",
        rngs: nnx.Rngs,
    ):
        """Args: general: project the memory to the query's width (dot needs equal widths).

        Raises:
          ValueError: if the widths differ and nothing projects them.
        """
        if not general and query_dim != memory_dim:
            raise ValueError(f"dot attention of a {query_dim}-wide query, {memory_dim}-wide memory")
        self.key = (
            Dense(
                memory_dim,
                query_dim,
                axes=("hidden", "mlp"),
                use_bias=False,
                compute_dtype=compute_dtype,
                rngs=rngs,
            )
            if general
            else None
        )
        self.compute_dtype = compute_dtype

    def keys(self, memory: Array) -> Array:
        """Memory [B, S, D] -> keys [B, H, S], positions last as the scores want them."""
        keys = memory if self.key is None else self.key(memory)
        return keys.swapaxes(1, 2)

    def weigh(self, query: Array, keys: Array, mask: Array) -> Array:
        """Weights [B, Q, S] of queries [B, Q, H] over positions where `mask` [B, S] is True."""
        scores: Any = batched_matmul(query, keys, self.compute_dtype)
        return attention_weights(scores, mask[:, None])
