"""The encoder-decoder: embeddings, any encoder, any decoder, output layer."""

import math
from typing import Any

import jax.numpy as jnp
from flax import nnx

from seqgen.models.base import DecodeOutput
from seqgen.models.checks import check_model
from seqgen.models.config import RECURRENT_KINDS, ModelConfig
from seqgen.models.recurrent import RecurrentDecoder, RecurrentEncoder
from seqgen.models.transformer import TransformerDecoder, TransformerEncoder
from seqgen.nn.dense import dot
from seqgen.nn.dropout import dropout, fold
from seqgen.nn.embedding import Embedding
from seqgen.nn.parameters import param
from seqgen.types import Array, Batch, Encoded, PyTree, Sequences, load_component

ENCODERS: dict[str, Any] = {
    "transformer": TransformerEncoder,
    **dict.fromkeys(RECURRENT_KINDS, RecurrentEncoder),
}
DECODERS: dict[str, Any] = {
    "transformer": TransformerDecoder,
    **dict.fromkeys(RECURRENT_KINDS, RecurrentDecoder),
}


class EncoderDecoder(nnx.Module):
    """Sequence to sequence, `Trainable` and `Decodable` (see `seqgen.models.base`)."""

    def __init__(
        self,
        config: ModelConfig,
        *,
        source_vocab_size: int,
        target_vocab_size: int,
        compute_dtype: str = "float32",
        rngs: nnx.Rngs,
    ):
        check_model(
            config, source_vocab_size=source_vocab_size, target_vocab_size=target_vocab_size
        )
        self.config, self.compute_dtype = config, compute_dtype
        options = {"compute_dtype": compute_dtype, "rngs": rngs}
        dim = config.embed_dim
        self.target_embedding = Embedding(target_vocab_size, dim, **options)
        shared = config.tie_embeddings == "all"
        self.source_embedding = None if shared else Embedding(source_vocab_size, dim, **options)
        build_encoder = load_component(config.encoder.kind, ENCODERS, what="encoder")
        self.encoder = build_encoder(config.encoder, embed_dim=dim, **options)
        build_decoder = load_component(config.decoder.kind, DECODERS, what="decoder")
        self.decoder = build_decoder(
            config.decoder, embed_dim=dim, encoded=self.encoder.dims, **options
        )
        tied = config.tie_embeddings != "none"
        self.output = None if tied else Embedding(target_vocab_size, dim, **options)
        bias = jnp.zeros(target_vocab_size, jnp.float32)
        self.output_bias = param(bias, ("vocab",)) if config.output_bias else None

    def _vectors(self, embedding: Embedding, ids: Array) -> Array:
        scale = math.sqrt(self.config.embed_dim) if self.config.scale_embeddings else 1.0
        return embedding(ids) * scale

    def _embed(self, embedding: Embedding, rows: Sequences, stack: Any, key: Any) -> Array:
        """Embeddings as a teacher-forced stack reads them: positions added, then dropout."""
        embedded = self._vectors(embedding, rows.ids)
        # Stacks that know positions by themselves (recurrent ones) have no such method.
        if hasattr(stack, "add_positions"):
            embedded = stack.add_positions(embedded, rows.positions, max_len=rows.ids.shape[1])
        return dropout(embedded, self.config.dropout_rate, key)

    def encode(self, source: Sequences, *, key: Any = None) -> Encoded:
        """Source rows to what decoders read."""
        embedding = self.source_embedding or self.target_embedding
        embedded = self._embed(embedding, source, self.encoder, fold(key, 0))
        return self.encoder(source, embedded=embedded, key=fold(key, 1))

    def __call__(self, batch: Batch, *, key: Any = None, teacher_forcing_rate: Any = 1.0) -> Array:
        """Teacher-forced hidden states [B, T, D], ready for the output layer.

        Args:
          batch: source and target rows; labels are not read.
          key: dropout key, None = evaluation.
          teacher_forcing_rate: below 1, a recurrent decoder reads its own last prediction instead
            of the given token with probability `1 - rate` (scheduled sampling, Bengio et al. 2015).
        """
        encoded = self.encode(batch.source, key=key)
        embedded = self._embed(self.target_embedding, batch.target, self.decoder, fold(key, 2))
        options: dict[str, Any] = {}
        if not (isinstance(teacher_forcing_rate, (int, float)) and teacher_forcing_rate >= 1.0):
            ones = jnp.ones_like(embedded)
            options = {
                "teacher_forcing_rate": teacher_forcing_rate,
                "next_embedding": self._feedback,
                "feedback_scale": dropout(ones, self.config.dropout_rate, fold(key, 2)),
            }
        return self.decoder(batch.target, encoded, embedded=embedded, key=fold(key, 3), **options)

    def _feedback(self, hidden: Array) -> Array:
        """Embeddings [..., D] of the likeliest tokens after hidden states [..., D]."""
        return self._vectors(self.target_embedding, self.output_logits(hidden).argmax(-1))

    def output_kernel(self) -> tuple[Array, Array | None]:
        """The output layer as (kernel [V, D], bias [V] or None)."""
        output = self.output or self.target_embedding
        bias = None if self.output_bias is None else self.output_bias[...]
        return output.table[...], bias

    def output_logits(self, hidden: Array, vocab_ids: Array | None = None) -> Array:
        """Float32 logits [..., V] of hidden states [..., D], or of the tokens `vocab_ids` alone."""
        kernel, bias = self.output_kernel()
        if vocab_ids is not None:
            kernel = kernel[vocab_ids]
            bias = None if bias is None else bias[vocab_ids]
        contract = ((hidden.ndim - 1,), (1,))
        logits = dot(hidden, kernel, contract, compute_dtype=self.compute_dtype)
        return logits if bias is None else logits + bias

    def init_decode(
        self, encoded: Encoded, *, max_len: int, num_beams: int = 1, rewindable: bool = False
    ) -> PyTree:
        """Decode state before the first token, for at most `max_len` tokens a row."""
        return self.decoder.init_decode(
            encoded, max_len=max_len, num_beams=num_beams, rewindable=rewindable
        )

    def extend(self, state: PyTree, tokens: Array, lengths: Array) -> tuple[DecodeOutput, PyTree]:
        """Consume token ids [R, T], of which the first `lengths` [R] are real."""
        embedded = self._vectors(self.target_embedding, tokens)
        return self.decoder.extend(state, embedded, lengths)

    def reorder(self, state: PyTree, parents: Array) -> PyTree:
        """Beam k of sentence b continues beam `parents[b, k]` ([B, K])."""
        return self.decoder.reorder(state, parents)

    def select(self, state: PyTree, rows: Array) -> PyTree:
        """Keep the sentences `rows` [B'], all their beams."""
        return self.decoder.select(state, rows)

    def rewind(self, state: PyTree, lengths: Array) -> PyTree:
        """Forget all but the first `lengths` [R] consumed tokens; needs `rewindable`."""
        return self.decoder.rewind(state, lengths)
