"""What every model that writes tokens is made around: target embedding, decoder, output layer."""

from typing import Any

import jax.numpy as jnp
from flax import nnx

from seqgen.models.base import DecodeOutput
from seqgen.models.config import RECURRENT_KINDS, EncodedDims, ModelConfig
from seqgen.models.recurrent import RecurrentDecoder
from seqgen.models.stack_input import stack_input, token_vectors
from seqgen.models.transformer import TransformerDecoder
from seqgen.nn.dense import dot
from seqgen.nn.dropout import dropout, fold
from seqgen.nn.embedding import Embedding
from seqgen.nn.parameters import param
from seqgen.nn.quantization import Int8Weights
from seqgen.types import Array, Encoded, PyTree, Sequences, load_component

DECODERS: dict[str, Any] = {
    "transformer": TransformerDecoder,
    **dict.fromkeys(RECURRENT_KINDS, RecurrentDecoder),
}


class TargetSide(nnx.Module):
    """A decoder between the embedding and the output layer of the target vocabulary.

    A subclass makes what stands before the decoder, then calls `add_decoder`. The order in which
    parts are made is that in which they draw their first numbers.
    """

    def __init__(self, config: ModelConfig, *, vocab_size: int, compute_dtype: str, rngs: nnx.Rngs):
        self.config, self.compute_dtype = config, compute_dtype
        self.target_embedding = self._new_table(vocab_size, rngs)

    def _new_table(self, vocab_size: int, rngs: nnx.Rngs) -> Embedding:
        dim = self.config.embed_dim
        return Embedding(vocab_size, dim, compute_dtype=self.compute_dtype, rngs=rngs)

    def build_decoder(self, encoded: EncodedDims, *, rngs: nnx.Rngs) -> None:
        """Make the decoder; `encoded` has the widths of what it reads."""
        config = self.config
        build = load_component(config.decoder.kind, DECODERS, what="decoder")
        self.decoder = build(
            config.decoder,
            embed_dim=config.embed_dim,
            encoded=encoded,
            compute_dtype=self.compute_dtype,
            rngs=rngs,
        )

    def add_decoder(self, encoded: EncodedDims, *, vocab_size: int, rngs: nnx.Rngs) -> None:
        """Make decoder and output layer; `encoded` has the widths of what the decoder reads."""
        self.build_decoder(encoded, rngs=rngs)
        config = self.config
        tied = config.tie_embeddings != "none"
        self.output = None if tied else self._new_table(vocab_size, rngs)
        bias = jnp.zeros(vocab_size, jnp.float32)
        self.output_bias = param(bias, ("vocab",)) if config.output_bias else None

    def vectors(self, ids: Array) -> Array:
        """Scaled embeddings [..., D] of token ids, without positions."""
        return token_vectors(self.config, self.target_embedding, ids)

    def teacher_forced(
        self,
        target: Sequences,
        encoded: Encoded,
        *,
        key: Any,
        teacher_forcing_rate: Any,
        prefix_lens: Array | None = None,
        carry: PyTree = None,
    ) -> Any:
        """Hidden states [B, T, D] of given target rows; with `carry` also the last states.

        Args:
          target: the decoder's input rows.
          encoded: what the decoder attends over.
          key: dropout key, None = evaluation.
          teacher_forcing_rate: below 1, a recurrent decoder reads its own last prediction instead
            of the given token with probability `1 - rate` (scheduled sampling, Bengio et al. 2015).
          prefix_lens: int32 [B], tokens at the start of each row that all see one another
            (`TransformerDecoder`), or None.
          carry: states that the decoder goes on from (`RecurrentDecoder.read_on`), or None.
        """
        config, vectors = self.config, self.vectors(target.ids)
        embedded = stack_input(config, vectors, target, self.decoder, fold(key, 2))
        options: dict[str, Any] = {}
        if not (isinstance(teacher_forcing_rate, (int, float)) and teacher_forcing_rate >= 1.0):
            ones = jnp.ones_like(embedded)
            options = {
                "teacher_forcing_rate": teacher_forcing_rate,
                "next_embedding": self._feedback,
                "feedback_scale": dropout(ones, config.dropout_rate, fold(key, 2)),
            }
        options |= {"embedded": embedded, "key": fold(key, 3)}
        if prefix_lens is not None:
            options["prefix_lens"] = prefix_lens
        if carry is None:
            return self.decoder(target, encoded, **options)
        return self.decoder.read_on(target, encoded, carry, **options)

    def _feedback(self, hidden: Array) -> Array:
        """Embeddings [..., D] of the likeliest tokens after hidden states [..., D]."""
        return self.vectors(self.output_logits(hidden).argmax(-1))

    def output_kernel(self) -> tuple[Array, Array | None]:
        """The output layer as (kernel [V, D], bias [V] or None)."""
        output = self.output or self.target_embedding
        bias = None if self.output_bias is None else self.output_bias[...]
        return output.table[...], bias

    def output_columns(self, vocab_ids: Array) -> PyTree:
        """Kernel [C, D] and bias [C] of the tokens `vocab_ids` [C], as products read them."""
        kernel, bias = self.output_kernel()
        kernel: Any = kernel[vocab_ids]
        if not isinstance(kernel, Int8Weights):
            kernel = kernel.astype(self.compute_dtype)
        return kernel, None if bias is None else bias[vocab_ids]

    def output_logits(
        self, hidden: Array, columns: PyTree = None, allowed: Array | None = None
    ) -> Array:
        """Float32 logits [..., V] of hidden states [..., D]; of `output_columns` alone [..., C].

        Where `allowed` (bool, broadcast to them) is False they are -inf.
        """
        kernel, bias = self.output_kernel() if columns is None else columns
        contract = ((hidden.ndim - 1,), (1,))
        logits = dot(hidden, kernel, contract, compute_dtype=self.compute_dtype)
        logits = logits if bias is None else logits + bias
        return logits if allowed is None else jnp.where(allowed, logits, -jnp.inf)

    def compared_states(self, hidden: Array) -> Array:
        """Hidden states as they are: their likeness means something (contrastive search)."""
        return hidden

    def init_decode(
        self, encoded: Encoded, *, max_len: int, num_beams: int = 1, rewindable: bool = False
    ) -> PyTree:
        """Decode state before the first token, for at most `max_len` tokens a row."""
        return self.decoder.init_decode(
            encoded, max_len=max_len, num_beams=num_beams, rewindable=rewindable
        )

    def extend(self, state: PyTree, tokens: Array, lengths: Array) -> tuple[DecodeOutput, PyTree]:
        """Consume token ids [R, T], of which the first `lengths` [R] are real."""
        return self.decoder.extend(state, self.vectors(tokens), lengths)

    def reorder(self, state: PyTree, parents: Array) -> PyTree:
        """Beam k of sentence b continues beam `parents[b, k]` ([B, K])."""
        return self.decoder.reorder(state, parents)

    def select(self, state: PyTree, rows: Array) -> PyTree:
        """Keep the sentences `rows` [B'], all their beams."""
        return self.decoder.select(state, rows)

    def rewind(self, state: PyTree, lengths: Array) -> PyTree:
        """Forget all but the first `lengths` [R] consumed tokens; needs `rewindable`."""
        return self.decoder.rewind(state, lengths)
