"""What stacks of layers read of token ids: embeddings, positions, a norm of their sum, dropout."""

import math
from typing import Any

from seqgen.models.config import ModelConfig
from seqgen.nn.dropout import dropout
from seqgen.nn.embedding import Embedding
from seqgen.types import Array, Sequences


def token_vectors(config: ModelConfig, embedding: Embedding, ids: Array) -> Array:
    """Scaled embeddings [..., D] of token ids, without positions."""
    scale = math.sqrt(config.embed_dim) if config.scale_embeddings else 1.0
    return embedding(ids) * scale


def stack_input(
    config: ModelConfig,
    vectors: Array,
    rows: Sequences,
    stack: Any,
    key: Any,
    *,
    types: Array | None = None,
    norm: Any = None,
) -> Array:
    """Embeddings [B, T, D] of whole rows: positions added, then dropout.

    Args:
      config: of the model.
      vectors: `token_vectors` [B, T, D] of the rows.
      rows: whose positions are added.
      stack: encoder or decoder.
      key: dropout key, None = evaluation.
      types: embeddings [B, T, D] of the tokens' types, added to theirs.
      norm: of the sum, before dropout.
    """
    embedded = vectors if types is None else vectors + types
    # Stacks that know positions by themselves (recurrent ones) have no such method.
    if hasattr(stack, "add_positions"):
        embedded = stack.add_positions(embedded, rows.positions, max_len=rows.ids.shape[1])
    embedded = embedded if norm is None else norm(embedded)
    return dropout(embedded, config.dropout_rate, key)


def norm_options(config: ModelConfig) -> dict[str, Any]:
    """Of norms beside the encoder's own: its epsilon, where it has one."""
    epsilon = getattr(config.encoder, "norm_epsilon", None)
    return {} if epsilon is None else {"epsilon": epsilon}
