"""Text to labels: one a text (classification) or one a word (tagging).

The stack is that of a pre-trained model under its own names: an encoder with the embeddings of a
`MaskedLM` (Devlin et al. 2019, section 4), or the decoder of a `CausalLM`, whose last token has
read all the others (Radford et al., "Improving language understanding by generative pre-training",
2018, section 3.2). Above it stands one linear layer.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from seqgen.models.base import Prediction
from seqgen.models.checks import check_model, encoded_dims
from seqgen.models.config import (
    ModelConfig,
    NoEncoderConfig,
    TaggerHeadConfig,
    TokensHeadConfig,
)
from seqgen.models.masked_lm import TextEncoder
from seqgen.models.target_side import TargetSide
from seqgen.nn.dropout import dropout, fold
from seqgen.nn.parameters import param
from seqgen.types import NUM_CONTROL_IDS, Array, Encoded, MaskedBatch, no_source


class LabelHead(nnx.Module):
    """A linear layer to labels: `table` [V, D] and `bias` [V], V of the labels alone."""

    def __init__(self, config: ModelConfig, width: int, num_labels: int, *, rngs: nnx.Rngs):
        assert not isinstance(config.head, TokensHeadConfig)
        self.cfg = config.head
        table = jax.random.normal(rngs.params(), (num_labels, width), jnp.float32) * width**-0.5
        self.table = param(table, (None, "embed"))
        self.bias = param(jnp.zeros(num_labels, jnp.float32), (None,))

    def __call__(self, states: Array, batch: MaskedBatch, *, causal: bool, key: Any) -> Prediction:
        """What is told of states [B, T, D]: a place a text [B, 1], or a place a word [B, P]."""
        segments = batch.text.segments
        if isinstance(self.cfg, TaggerHeadConfig):
            chosen = jnp.take_along_axis(states, batch.masked_positions[..., None], axis=1)
        elif causal:
            last = (segments != 0).sum(axis=1, dtype=jnp.int32) - 1
            chosen = jnp.take_along_axis(states, last[:, None, None], axis=1)
        elif self.cfg.pooling == "first":
            chosen = states[:, :1]
        else:
            real = (segments != 0).astype(jnp.float32)[..., None]
            chosen = (states * real).sum(1, keepdims=True) / real.sum(1, keepdims=True)
        chosen = dropout(chosen, self.cfg.dropout_rate, key)
        return Prediction(chosen, self.table[...], self.bias[...], batch.labels, batch.weights)


class EncoderLabeller(TextEncoder):
    """An encoder under a head, `Trainable` (see `seqgen.models.base`)."""

    def __init__(
        self,
        config: ModelConfig,
        *,
        source_vocab_size: int,
        target_vocab_size: int,
        compute_dtype: str = "float32",
        rngs: nnx.Rngs,
    ):
        """Args: target_vocab_size: labels, after the control ids.

        Raises:
          ConfigError: the config contradicts itself (`check_model`).
        """
        check_model(
            config, source_vocab_size=source_vocab_size, target_vocab_size=target_vocab_size
        )
        super().__init__(
            config, vocab_size=source_vocab_size, compute_dtype=compute_dtype, rngs=rngs
        )
        num_labels = target_vocab_size - NUM_CONTROL_IDS
        self.head = LabelHead(config, self.encoder.dims.memory, num_labels, rngs=rngs)

    def predictions(self, batch: MaskedBatch, *, key: Any = None) -> dict[str, Prediction]:
        """'labels'; see `Trainable`."""
        memory = self.encode(batch.text, batch.token_types, key=key).memory
        return {"labels": self.head(memory, batch, causal=False, key=fold(key, 5))}


class DecoderLabeller(TargetSide):
    """A decoder alone under a head, `Trainable` (see `seqgen.models.base`)."""

    def __init__(
        self,
        config: ModelConfig,
        *,
        source_vocab_size: int,
        target_vocab_size: int,
        compute_dtype: str = "float32",
        rngs: nnx.Rngs,
    ):
        """Args: target_vocab_size: labels, after the control ids.

        Raises:
          ConfigError: the config contradicts itself (`check_model`).
        """
        check_model(
            config, source_vocab_size=source_vocab_size, target_vocab_size=target_vocab_size
        )
        super().__init__(
            config, vocab_size=source_vocab_size, compute_dtype=compute_dtype, rngs=rngs
        )
        assert isinstance(config.encoder, NoEncoderConfig)
        self.build_decoder(encoded_dims(config.encoder, config.embed_dim), rngs=rngs)
        num_labels = target_vocab_size - NUM_CONTROL_IDS
        self.head = LabelHead(config, config.embed_dim, num_labels, rngs=rngs)

    def predictions(self, batch: MaskedBatch, *, key: Any = None) -> dict[str, Prediction]:
        """'labels'; see `Trainable`."""
        rows = batch.text.ids.shape[0]
        nothing = no_source(rows)
        memory = jnp.zeros((rows, 0, self.config.embed_dim), jnp.float32)
        summary = jnp.zeros((rows, 0), jnp.float32)
        encoded = Encoded(memory, nothing.segments, nothing.positions, summary)
        states = self.teacher_forced(batch.text, encoded, key=key, teacher_forcing_rate=1.0)
        return {"labels": self.head(states, batch, causal=True, key=fold(key, 5))}
