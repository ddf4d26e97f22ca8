"""Decoders that copy from the source: pointer-generator networks with coverage.

See et al. 2017, "Get to the point: summarization with pointer-generator networks", sections 2.2 and
2.3. The probability of a token is `g p(token) + (1 - g) (attention on the places of the source that
hold it)`, with p the softmax over the vocabulary and g, the gate, a logistic function of the
decoder's output state and of what it reads. In a Transformer the attention is the last layer's over
the source, its heads averaged, as in Gehrmann et al. 2018, "Bottom-up abstractive summarization".

Source and target share one vocabulary, and a copied token is one of it: subwords spell what a word
vocabulary would lack, so the paper's vocabulary extended by each source's own words is not built.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from seqgen.losses import Mixture
from seqgen.models.base import DecodeOutput, Prediction
from seqgen.models.checks import check_weighs
from seqgen.models.config import ModelConfig
from seqgen.models.encoder_decoder import EncoderDecoder
from seqgen.models.stack_input import stack_input
from seqgen.nn.dense import Dense, batched_matmul
from seqgen.nn.dropout import fold
from seqgen.types import Array, Batch, Encoded, PyTree, Sequences

_LEAST = 1e-30  # of a probability; its logarithm is finite


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CopyState:
    """Decode state.

    Attributes:
      source_ids: int32 [B, S].
      decoder: the decoder's own state of R = B * K rows.
    """

    source_ids: Array
    decoder: PyTree


class CopyingEncoderDecoder(EncoderDecoder):
    """An encoder-decoder whose output states hold what copying needs.

    States are `[hidden, gate, attention, ids of the source]`, float32 [..., D + 1 + 2 S], side by
    side so that whatever carries states to `output_logits` carries copies too.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        source_vocab_size: int,
        target_vocab_size: int,
        compute_dtype: str = "float32",
        rngs: nnx.Rngs,
    ):
        super().__init__(
            config,
            source_vocab_size=source_vocab_size,
            target_vocab_size=target_vocab_size,
            compute_dtype=compute_dtype,
            rngs=rngs,
        )
        check_weighs(self.decoder)
        self.has_coverage = config.covers
        self.copy_gate = Dense(
            2 * config.embed_dim,
            1,
            axes=("embed", None),
            compute_dtype=compute_dtype,
            rngs=rngs,
        )

    def encode(self, source: Sequences, *, key: Any = None) -> Encoded:
        return dataclasses.replace(super().encode(source, key=key), ids=source.ids)

    def __call__(self, batch: Batch, *, key: Any = None, teacher_forcing_rate: Any = 1.0) -> Array:
        """Teacher-forced states [B, T, D + 1 + 2 S] for `output_logits`; see `EncoderDecoder`."""
        assert teacher_forcing_rate == 1, "the config's check sees to it"
        assert batch.source is not None, "an encoder needs sources"
        return _side_by_side(*self._read(batch, key), batch.source.ids)

    def predictions(self, batch: Batch, *, key: Any = None) -> dict[str, Prediction]:
        """'tokens' [B, T] with their second way; see `Trainable`."""
        assert batch.source is not None, "an encoder needs sources"
        hidden, gate, weights = self._read(batch, key)
        ids = batch.source.ids
        on_label = jnp.where(ids[:, None] == batch.labels[..., None], weights, 0).sum(-1)
        # Places that hold the same token add up.
        same = (ids[:, :, None] == ids[:, None]).astype(jnp.float32)
        by_token: Any = batched_matmul(lax.stop_gradient(weights), same, "float32")
        log_copy = jax.nn.log_sigmoid(-gate)
        mixture = Mixture(
            log_share=jax.nn.log_sigmoid(gate),
            log_other=log_copy + _log(on_label),
            log_rival=lax.stop_gradient(log_copy) + _log(by_token.max(-1)),
        )
        tokens = Prediction(
            hidden,
            *self.output_kernel(),
            batch.labels,
            batch.weights,
            mixture=mixture,
            coverage=repeated_attention(weights) if self.has_coverage else None,
        )
        return {"tokens": tokens}

    def _read(self, batch: Batch, key: Any) -> tuple[Array, Array, Array]:
        """Hidden states [B, T, D], the gate's logits [B, T], attention [B, T, S]."""
        assert batch.source is not None
        encoded = self.encode(batch.source, key=key)
        target, vectors = batch.target, self.vectors(batch.target.ids)
        embedded = stack_input(self.config, vectors, target, self.decoder, fold(key, 2))
        hidden, weights = self.decoder.read_and_weigh(
            target, encoded, embedded=embedded, key=fold(key, 3)
        )
        return hidden, self._gate(hidden, vectors), weights

    def _gate(self, hidden: Array, vectors: Array) -> Array:
        """Logits [B, T] of writing instead of copying, from states and the tokens read."""
        return self.copy_gate(jnp.concatenate([hidden, vectors], axis=-1))[..., 0]

    def output_columns(self, vocab_ids: Array) -> PyTree:
        """Those of the softmax, and of each token its first place in `vocab_ids`, or C: [V]."""
        count = len(vocab_ids)
        slots = jnp.full(self.output_kernel()[0].shape[0], count, jnp.int32)
        slots = slots.at[vocab_ids].min(jnp.arange(count, dtype=jnp.int32))
        return super().output_columns(vocab_ids), slots

    def output_logits(
        self, hidden: Array, columns: PyTree = None, allowed: Array | None = None
    ) -> Array:
        """Float32 log-probabilities [..., V] of states; of `output_columns` alone [..., C].

        The softmax is over the columns, of them over the `allowed` ones; copies of other tokens are
        lost. Of equal columns the first one has the copies.
        """
        dim = self.config.embed_dim
        width = (hidden.shape[-1] - dim - 1) // 2
        states, gate, weights, ids = jnp.split(hidden, (dim, dim + 1, dim + 1 + width), axis=-1)
        own, slots = (None, None) if columns is None else columns
        logits = super().output_logits(states, own, allowed)
        rows = jnp.arange(states.size // dim)[:, None]
        copied = jnp.zeros((len(rows), logits.shape[-1]), jnp.float32)
        places = ids.reshape(len(rows), width).astype(jnp.int32)
        places = places if slots is None else slots[places]
        copied = copied.at[rows, places].add(weights.reshape(len(rows), width), mode="drop")
        copied = copied.reshape(logits.shape)
        log_probs = jnp.logaddexp(
            jax.nn.log_sigmoid(gate) + jax.nn.log_softmax(logits),
            jax.nn.log_sigmoid(-gate) + _log(copied),
        )
        return log_probs if allowed is None else jnp.where(allowed, log_probs, -jnp.inf)

    def compared_states(self, hidden: Array) -> Array:
        """The decoder's own states [..., D]."""
        return hidden[..., : self.config.embed_dim]

    def init_decode(
        self, encoded: Encoded, *, max_len: int, num_beams: int = 1, rewindable: bool = False
    ) -> CopyState:
        decoder = super().init_decode(
            encoded, max_len=max_len, num_beams=num_beams, rewindable=rewindable
        )
        assert encoded.ids is not None
        return CopyState(encoded.ids, decoder)

    def extend(
        self, state: CopyState, tokens: Array, lengths: Array
    ) -> tuple[DecodeOutput, CopyState]:
        """Consume token ids [R, T], of which the first `lengths` [R] are real."""
        vectors = self.vectors(tokens)
        output, decoder = self.decoder.extend(state.decoder, vectors, lengths)
        assert output.attention is not None
        num_beams = len(tokens) // len(state.source_ids)
        hidden = _side_by_side(
            output.hidden,
            self._gate(output.hidden, vectors),
            output.attention,
            jnp.repeat(state.source_ids, num_beams, axis=0),
        )
        return DecodeOutput(hidden, output.attention), dataclasses.replace(state, decoder=decoder)

    def reorder(self, state: CopyState, parents: Array) -> CopyState:
        return dataclasses.replace(state, decoder=super().reorder(state.decoder, parents))

    def select(self, state: CopyState, rows: Array) -> CopyState:
        return CopyState(state.source_ids[rows], super().select(state.decoder, rows))

    def rewind(self, state: CopyState, lengths: Array) -> CopyState:
        return dataclasses.replace(state, decoder=super().rewind(state.decoder, lengths))


def repeated_attention(weights: Array) -> Array:
    """Coverage loss of each step (See et al. 2017, equation 12).

    Sum over the source of the lesser of a place's weight now and the sum of its weights before.

    Args:
      weights: float32 [B, T, S].

    Returns:
      float32 [B, T], in [0, 1].
    """
    before = jnp.cumsum(weights, axis=1) - weights
    return jnp.minimum(weights, before).sum(-1)


def _log(probabilities: Array) -> Array:
    return jnp.log(jnp.maximum(probabilities, _LEAST))


def _side_by_side(hidden: Array, gate: Array, weights: Array, ids: Array) -> Array:
    """States [B, T, D + 1 + 2 S]; ids [B, S] are exact in float32 up to 2^24."""
    placed = jnp.broadcast_to(ids[:, None], weights.shape).astype(jnp.float32)
    return jnp.concatenate([hidden, gate[..., None], weights, placed], axis=-1)
