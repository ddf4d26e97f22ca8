"""The encoder-decoder: embeddings, any encoder, any decoder, output layer."""

from typing import Any

import jax.numpy as jnp
from flax import nnx

from seqgen.models.checks import check_model
from seqgen.models.config import RECURRENT_KINDS, ModelConfig
from seqgen.models.recurrent import RecurrentEncoder
from seqgen.models.stack_input import norm_options, stack_input, token_vectors
from seqgen.models.target_side import TargetSide
from seqgen.models.transformer import TransformerEncoder
from seqgen.nn.dropout import fold
from seqgen.nn.embedding import Embedding
from seqgen.nn.norm import LayerNorm
from seqgen.types import Array, Batch, Encoded, Sequences, load_component

ENCODERS: dict[str, Any] = {
    "transformer": TransformerEncoder,
    **dict.fromkeys(RECURRENT_KINDS, RecurrentEncoder),
}


class EncoderDecoder(TargetSide):
    """Sequence to sequence, `Trainable` and `Decodable` (see `seqgen.models.base`).

    Its encoder's parameters have the names that they have in a `MaskedLM` (but for the embedding,
    there `embedding`, here `source_embedding`), its decoder's those that they have in a `CausalLM`,
    which has no cross-attention: what is pre-trained apart is put together by name (Rothe et al.,
    "Leveraging pre-trained checkpoints for sequence generation tasks", 2020).
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
        check_model(
            config, source_vocab_size=source_vocab_size, target_vocab_size=target_vocab_size
        )
        options = {"compute_dtype": compute_dtype, "rngs": rngs}
        super().__init__(config, vocab_size=target_vocab_size, **options)
        dim, shared = config.embed_dim, config.tie_embeddings == "all"
        self.source_embedding = None if shared else Embedding(source_vocab_size, dim, **options)
        types = config.source_token_types
        self.token_types = Embedding(types, dim, **options) if types else None
        self.embedding_norm = LayerNorm(dim, **norm_options(config)) if types else None
        build_encoder = load_component(config.encoder.kind, ENCODERS, what="encoder")
        self.encoder = build_encoder(config.encoder, embed_dim=dim, **options)
        self.add_decoder(self.encoder.dims, vocab_size=target_vocab_size, rngs=rngs)

    def encode(self, source: Sequences, *, key: Any = None) -> Encoded:
        """Source rows to what decoders read."""
        embedding = self.source_embedding or self.target_embedding
        # Of its token types a source has the first.
        types = None if self.token_types is None else self.token_types(jnp.zeros_like(source.ids))
        embedded = stack_input(
            self.config,
            token_vectors(self.config, embedding, source.ids),
            source,
            self.encoder,
            fold(key, 0),
            types=types,
            norm=self.embedding_norm,
        )
        return self.encoder(source, embedded=embedded, key=fold(key, 1))

    def __call__(self, batch: Batch, *, key: Any = None, teacher_forcing_rate: Any = 1.0) -> Array:
        """Teacher-forced hidden states [B, T, D], ready for the output layer.

        Args:
          batch: source and target rows; labels are not read.
          key: dropout key, None = evaluation.
          teacher_forcing_rate: see `TargetSide.teacher_forced`.
        """
        assert batch.source is not None, "an encoder needs sources"
        encoded = self.encode(batch.source, key=key)
        return self.teacher_forced(
            batch.target, encoded, key=key, teacher_forcing_rate=teacher_forcing_rate
        )
