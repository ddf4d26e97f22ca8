"""An encoder with heads that tell hidden tokens and whether two texts belong together: BERT.

Devlin et al., "BERT: Pre-training of deep bidirectional transformers for language understanding",
2019, sections 3 and 3.1, with the heads of the published code. It is a Transformer encoder with
`activation='gelu'`, `positions='learned'` and `norm_epsilon=1e-12` under `scale_embeddings=False`
and `output_bias=True`. Parameters start as in the other models here, not from normal(0, 0.02).

Only the positions that are to be told go through the token head and meet the vocabulary.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from seqgen.models.base import Prediction
from seqgen.models.checks import check_model
from seqgen.models.config import ModelConfig, NoDecoderConfig
from seqgen.models.encoder_decoder import ENCODERS
from seqgen.models.stack_input import norm_options, stack_input, token_vectors
from seqgen.nn.dense import Dense
from seqgen.nn.dropout import fold
from seqgen.nn.embedding import Embedding
from seqgen.nn.norm import LayerNorm
from seqgen.nn.parameters import param
from seqgen.types import Array, Encoded, MaskedBatch, Sequences, load_component


class TextEncoder(nnx.Module):
    """An encoder with what it reads: embeddings of tokens, positions and kinds of text."""

    def __init__(self, config: ModelConfig, *, vocab_size: int, compute_dtype: str, rngs: nnx.Rngs):
        assert isinstance(config.decoder, NoDecoderConfig)
        options: dict[str, Any] = {"compute_dtype": compute_dtype, "rngs": rngs}
        dim = config.embed_dim
        self.config = config
        self.embedding = Embedding(vocab_size, dim, **options)
        self.token_types = Embedding(config.decoder.num_token_types, dim, **options)
        self.embedding_norm = LayerNorm(dim, **norm_options(config))
        build_encoder = load_component(config.encoder.kind, ENCODERS, what="encoder")
        self.encoder = build_encoder(config.encoder, embed_dim=dim, **options)

    def embed(self, text: Sequences, token_types: Array, *, key: Any = None) -> Array:
        """What the encoder reads, [B, T, D]: the sum of three embeddings, normalised, dropout."""
        return stack_input(
            self.config,
            token_vectors(self.config, self.embedding, text.ids),
            text,
            self.encoder,
            key,
            types=self.token_types(token_types),
            norm=self.embedding_norm,
        )

    def encode(self, text: Sequences, token_types: Array, *, key: Any = None) -> Encoded:
        """Rows of text, and int32 [B, T] of which text each token is, to the encoder's states."""
        embedded = self.embed(text, token_types, key=fold(key, 0))
        return self.encoder(text, embedded=embedded, key=fold(key, 1))


class MaskedLM(TextEncoder):
    """Masked tokens and next sentences, `Trainable` (see `seqgen.models.base`)."""

    def __init__(
        self,
        config: ModelConfig,
        *,
        source_vocab_size: int,
        target_vocab_size: int,
        compute_dtype: str = "float32",
        rngs: nnx.Rngs,
    ):
        """Args: target_vocab_size: of the one vocabulary there is; the source's is not used.

        Raises:
          ConfigError: the config contradicts itself (`check_model`).
        """
        check_model(
            config, source_vocab_size=source_vocab_size, target_vocab_size=target_vocab_size
        )
        options: dict[str, Any] = {"compute_dtype": compute_dtype, "rngs": rngs}
        super().__init__(config, vocab_size=target_vocab_size, **options)
        assert isinstance(config.decoder, NoDecoderConfig)
        dim = config.embed_dim
        memory_dim = self.encoder.dims.memory
        self.token_dense = Dense(memory_dim, dim, axes=("embed", None), **options)
        self.token_norm = LayerNorm(dim, **norm_options(config))
        tied = config.tie_embeddings != "none"
        self.output = None if tied else Embedding(target_vocab_size, dim, **options)
        bias = jnp.zeros(target_vocab_size, jnp.float32)
        self.output_bias = param(bias, ("vocab",)) if config.output_bias else None
        pairs = config.decoder.next_sentence
        self.pooler = Dense(memory_dim, dim, axes=("embed", None), **options) if pairs else None
        self.next_sentence = Embedding(2, dim, **options) if pairs else None
        self.next_sentence_bias = param(jnp.zeros(2, jnp.float32), (None,)) if pairs else None

    def token_states(self, memory: Array, positions: Array) -> Array:
        """States [B, P, D] of the columns `positions` [B, P], ready for the output layer."""
        chosen = jnp.take_along_axis(memory, positions[..., None], axis=1)
        return self.token_norm(jax.nn.gelu(self.token_dense(chosen), approximate=False))

    def pool(self, memory: Array) -> Array:
        """One vector [B, D] a row, made of its first token's state."""
        assert self.pooler is not None, "model.decoder.next_sentence=false: there is no pooler"
        return jnp.tanh(self.pooler(memory[:, 0]))

    def __call__(self, batch: MaskedBatch, *, key: Any = None) -> Array:
        """States [B, P, D] of the masked positions, ready for the output layer.

        Args:
          batch: rows of text, some tokens hidden; labels are not read.
          key: dropout key, None = evaluation.
        """
        memory = self.encode(batch.text, batch.token_types, key=key).memory
        return self.token_states(memory, batch.masked_positions)

    def predictions(self, batch: MaskedBatch, *, key: Any = None) -> dict[str, Prediction]:
        """'tokens' [B, P] and, with its head, 'next_sentence' [B, 1]; see `Trainable`.

        Where P is 0 there are no 'tokens', and their head is not used.
        """
        memory = self.encode(batch.text, batch.token_types, key=key).memory
        found = {}
        if batch.labels.shape[1]:
            states = self.token_states(memory, batch.masked_positions)
            head = self.output_kernel()
            found["tokens"] = Prediction(states, *head, batch.labels, batch.weights)
        if self.next_sentence is not None and self.next_sentence_bias is not None:
            found["next_sentence"] = Prediction(
                self.pool(memory)[:, None],
                self.next_sentence.table[...],
                self.next_sentence_bias[...],
                batch.next_labels[:, None],
                batch.next_weights[:, None],
            )
        return found

    def output_kernel(self) -> tuple[Array, Array | None]:
        """The output layer as (kernel [V, D], bias [V] or None)."""
        bias = None if self.output_bias is None else self.output_bias[...]
        return (self.output or self.embedding).table[...], bias

    def output_logits(self, hidden: Array) -> Array:
        """Float32 logits [..., V] of states [..., D] made by `token_states`."""
        logits = (self.output or self.embedding).attend(hidden)
        return logits if self.output_bias is None else logits + self.output_bias[...]

    def next_sentence_logits(self, pooled: Array) -> Array:
        """Float32 logits [B, 2] of pooled states [B, D]: follows (0), does not follow (1)."""
        assert self.next_sentence is not None and self.next_sentence_bias is not None
        return self.next_sentence.attend(pooled) + self.next_sentence_bias[...]
