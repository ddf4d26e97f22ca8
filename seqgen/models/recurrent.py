"""Recurrent encoder (layers of any cell) and, from its own file, the recurrent decoder."""

from typing import Any

from flax import nnx

from seqgen.models.checks import encoded_dims
from seqgen.models.config import RecurrentEncoderConfig
from seqgen.models.recurrent_decoder import RecurrentDecoder
from seqgen.nn.bidirectional import read_both_ways
from seqgen.nn.dropout import dropout, split
from seqgen.nn.partitioning import constrain
from seqgen.nn.recurrent import RecurrentLayer
from seqgen.types import Array, Encoded, Sequences

__all__ = ["RecurrentDecoder", "RecurrentEncoder"]


class RecurrentEncoder(nnx.Module):
    """A stack of recurrent layers, each in one or both directions.

    Attributes:
      dims: widths of what it returns.
    """

    def __init__(
        self,
        cfg: RecurrentEncoderConfig,
        *,
        embed_dim: int,
        compute_dtype: str = "float32",
        rngs: nnx.Rngs,
    ):
        self.cfg = cfg
        width = cfg.hidden_dim * (2 if cfg.bidirectional else 1)

        def build_layers() -> nnx.List:
            return nnx.List(
                RecurrentLayer(
                    width if i else embed_dim,
                    cfg.hidden_dim,
                    kind=cfg.cell or cfg.kind,
                    forget_bias=cfg.forget_bias,
                    recurrent_init=cfg.recurrent_init,
                    kernel=cfg.recurrence_kernel,
                    compute_dtype=compute_dtype,
                    rngs=rngs,
                )
                for i in range(cfg.num_layers)
            )

        self.forward = build_layers()
        self.backward = build_layers() if cfg.bidirectional else None
        self.dims = encoded_dims(cfg, embed_dim)

    def __call__(self, source: Sequences, *, embedded: Array, key: Any = None) -> Encoded:
        """Read whole sentences; padding (segment 0, at the end) never matters.

        Args:
          source: segments and positions of the rows [B, S].
          embedded: float32 [B, S, D].
          key: dropout key, or None for evaluation.
        """
        mask = (source.segments != 0).T
        x = embedded.swapaxes(0, 1)
        keys = split(key, self.cfg.num_layers)
        states = []
        for i, layer in enumerate(self.forward):
            if self.backward is None:
                outputs, last = layer(x, mask=mask)
            else:
                outputs, last = read_both_ways(layer, self.backward[i], x, mask=mask)
            if self.cfg.residual and x.shape == outputs.shape:
                outputs = outputs + x
            x = dropout(outputs, self.cfg.dropout_rate, keys[i])
            states.append(last)
        return Encoded(
            # Pinned: XLA's partitioner (jaxlib 0.10) makes wrong gradients when it cuts the two
            # directions over `tensor` on a mesh that also has `data` and `fsdp`.
            memory=constrain(x.swapaxes(0, 1), ("batch", "length", "embed")),
            segments=source.segments,
            positions=source.positions,
            summary=states[-1]["h"],
            states=tuple(states),
        )
