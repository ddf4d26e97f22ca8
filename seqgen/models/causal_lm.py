"""A decoder without an encoder: GPT, or a recurrent language model.

GPT-2 (Radford et al., "Language models are unsupervised multitask learners", 2019, section 2.3) is
a Transformer decoder with `norm_position='pre'`, `positions='learned'`, `activation='gelu_tanh'`
and `scale_embeddings=False`, its output tied to its embedding.

With `source_prefix` the model reads pairs: a source and its target are one row, as in Liu et al.,
"Generating Wikipedia by summarizing long sequences", 2018, section 4.2.3. The loss stands on the
target alone. In decoding a source is whatever the rows begin with: that of a pair, or a prompt.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from seqgen.models.base import DecodeOutput
from seqgen.models.checks import (
    check_carries_state,
    check_model,
    check_reads_sources,
    encoded_dims,
)
from seqgen.models.config import ModelConfig, NoEncoderConfig
from seqgen.models.target_side import TargetSide
from seqgen.types import Array, Batch, Encoded, PyTree, Sequences, no_source


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CausalState:
    """Decode state.

    Attributes:
      prefix_lengths: int32 [B], tokens of the source that each sentence's rows began with (of a
        prompt, all but its last, which the first step reads as it otherwise reads BOS).
      decoder: the decoder's own state of R = B * K rows, the source consumed.
    """

    prefix_lengths: Array
    decoder: PyTree


class CausalLM(TargetSide):
    """Next-token prediction, `Trainable` and `Decodable` (see `seqgen.models.base`)."""

    def __init__(
        self,
        config: ModelConfig,
        *,
        source_vocab_size: int,
        target_vocab_size: int,
        compute_dtype: str = "float32",
        rngs: nnx.Rngs,
    ):
        """Args: source_vocab_size: must be the target's if sources are read, else it is not used.

        Raises:
          ConfigError: the config contradicts itself (`check_model`).
        """
        check_model(
            config, source_vocab_size=source_vocab_size, target_vocab_size=target_vocab_size
        )
        super().__init__(
            config, vocab_size=target_vocab_size, compute_dtype=compute_dtype, rngs=rngs
        )
        assert isinstance(config.encoder, NoEncoderConfig)
        dims = encoded_dims(config.encoder, config.embed_dim)
        self.add_decoder(dims, vocab_size=target_vocab_size, rngs=rngs)

    def __call__(self, batch: Batch, *, key: Any = None, teacher_forcing_rate: Any = 1.0) -> Array:
        """Teacher-forced hidden states [B, T, D] of the target, ready for the output layer.

        Args:
          batch: target rows, packed or not (recurrent decoders: not); with sources, which
            `source_prefix` allows, one pair a row. Labels are not read.
          key: dropout key, None = evaluation.
          teacher_forcing_rate: see `TargetSide.teacher_forced`; 1 where there are sources.

        Raises:
          ConfigError: there are sources, and the config has no place for them.
        """
        source, rows = batch.source, batch.target
        if source is not None:
            check_reads_sources(self.config)
            rows = join(source, batch.target)
        hidden = self.teacher_forced(
            rows,
            self.encode(no_source(rows.ids.shape[0])),
            key=key,
            teacher_forcing_rate=teacher_forcing_rate,
        )
        if source is None:
            return hidden
        length = batch.target.ids.shape[1]
        cut = jax.vmap(lambda row, first: lax.dynamic_slice_in_dim(row, first, length))
        return cut(hidden, source_lengths(source.segments))

    def init_carry(self, num_rows: int) -> PyTree:
        """See `Carrying`.

        Raises:
          ConfigError: the decoder carries no state, as Transformers do not.
        """
        check_carries_state(self.decoder)
        return self.decoder.init_carry(num_rows)

    def read_on(
        self, batch: Batch, carry: PyTree, *, key: Any = None, teacher_forcing_rate: Any = 1.0
    ) -> tuple[Array, PyTree]:
        """See `Carrying`; the batch has no sources."""
        assert batch.source is None, "the config's check sees to it"
        return self.teacher_forced(
            batch.target,
            self.encode(no_source(batch.target.ids.shape[0])),
            key=key,
            teacher_forcing_rate=teacher_forcing_rate,
            carry=lax.stop_gradient(carry),
        )

    def encode(self, source: Sequences, *, key: Any = None) -> Encoded:
        """Embeddings of what the rows begin with, as the memory; see `types.no_source`."""
        del key  # dropout comes in the teacher-forced pass, which reads no memory
        memory = self.vectors(source.ids)
        summary = jnp.zeros((source.ids.shape[0], 0), jnp.float32)
        return Encoded(memory, source.segments, source.positions, summary)

    def init_decode(
        self, encoded: Encoded, *, max_len: int, num_beams: int = 1, rewindable: bool = False
    ) -> CausalState:
        """Decode state after the source, for at most `max_len` tokens a row beside it."""
        width = encoded.memory.shape[1]
        lengths = source_lengths(encoded.segments)
        state = self.decoder.init_decode(
            self.encode(no_source(lengths.shape[0])),
            max_len=width + max_len,
            num_beams=num_beams,
            rewindable=rewindable,
        )
        if width:
            vectors = jnp.repeat(encoded.memory, num_beams, axis=0)
            _, state = self.decoder.extend(state, vectors, jnp.repeat(lengths, num_beams))
        return CausalState(lengths, state)

    def extend(
        self, state: CausalState, tokens: Array, lengths: Array
    ) -> tuple[DecodeOutput, CausalState]:
        """Consume token ids [R, T], of which the first `lengths` [R] are real."""
        output, decoder = super().extend(state.decoder, tokens, lengths)
        return output, dataclasses.replace(state, decoder=decoder)

    def reorder(self, state: CausalState, parents: Array) -> CausalState:
        """Beam k of sentence b continues beam `parents[b, k]` ([B, K])."""
        return dataclasses.replace(state, decoder=self.decoder.reorder(state.decoder, parents))

    def select(self, state: CausalState, rows: Array) -> CausalState:
        """Keep the sentences `rows` [B'], all their beams."""
        return CausalState(state.prefix_lengths[rows], self.decoder.select(state.decoder, rows))

    def rewind(self, state: CausalState, lengths: Array) -> CausalState:
        """Forget all but the source and the first `lengths` [R] tokens; needs `rewindable`."""
        num_beams = lengths.shape[0] // state.prefix_lengths.shape[0]
        lengths = lengths + jnp.repeat(state.prefix_lengths, num_beams)
        return dataclasses.replace(state, decoder=self.decoder.rewind(state.decoder, lengths))


def source_lengths(segments: Array) -> Array:
    """Real tokens of each row, int32 [B]."""
    return (segments != 0).sum(axis=1, dtype=jnp.int32)


def join(source: Sequences, target: Sequences) -> Sequences:
    """Each source and its target as one row [B, S + T] without a gap, padding at the end.

    Rows are not packed. The target's first token stands where the source ends, whatever the padding
    there, and positions count on, so that no number depends on the width of a batch.
    """
    first = source_lengths(source.segments)
    write = jax.vmap(lambda room, row, at: lax.dynamic_update_slice_in_dim(room, row, at, axis=0))

    def put(before: Array, after: Array) -> Array:
        return write(jnp.pad(before, ((0, 0), (0, after.shape[1]))), after, first)

    segments = put(source.segments, target.segments)
    positions = jnp.where(segments != 0, jnp.arange(segments.shape[1]), 0)
    return Sequences(put(source.ids, target.ids), segments, positions)
