"""Transformer encoder and decoder stacks (Vaswani et al. 2017; pre-norm: Xiong et al. 2020).

The paper's architecture is `norm_position='post'`, `norm='layernorm'`, `activation='relu'`,
`positions='sinusoidal'`. Pre-norm stacks end with one more norm. Projections start from Xavier
uniform, each on its own (a fused query-key-value matrix would start narrower), biases from zero.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from seqgen.errors import ConfigError
from seqgen.models.base import DecodeOutput
from seqgen.models.checks import encoded_dims
from seqgen.models.config import (
    EncodedDims,
    TransformerDecoderConfig,
    TransformerEncoderConfig,
)
from seqgen.models.layer_stack import build_layers, layer_list, run_layers
from seqgen.models.transformer_layer import TransformerLayer
from seqgen.nn import masks
from seqgen.nn.beam_cache import BeamHistory, StepMemory
from seqgen.nn.norm import build_norm
from seqgen.nn.position_bias import Alibi, DistanceBias, RelativeBias
from seqgen.nn.positions import LearnedPositions, sinusoid_table
from seqgen.types import Array, Encoded, Sequences


class _Stack(nnx.Module):
    """What encoder and decoder share: layers, final norm of pre-norm stacks, positions."""

    def __init__(
        self,
        cfg: TransformerEncoderConfig | TransformerDecoderConfig,
        *,
        embed_dim: int,
        memory_dim: int | None,
        bidirectional: bool,
        compute_dtype: str,
        rngs: nnx.Rngs,
    ):
        self.cfg, self.embed_dim = cfg, embed_dim
        self.layers = build_layers(
            lambda: TransformerLayer(
                cfg, embed_dim, memory_dim=memory_dim, compute_dtype=compute_dtype, rngs=rngs
            ),
            cfg.num_layers,
            scan=cfg.scan_layers,
        )
        norm = {"use_bias": cfg.bias, "epsilon": cfg.norm_epsilon}
        pre_norm = cfg.norm_position == "pre"
        self.final_norm = build_norm(cfg.norm, embed_dim, **norm) if pre_norm else None
        learned = cfg.positions == "learned"
        self.learned_positions = (
            LearnedPositions(cfg.max_positions, embed_dim, rngs=rngs) if learned else None
        )
        self.position_bias = _build_position_bias(
            cfg, embed_dim, bidirectional=bidirectional, rngs=rngs
        )

    def add_positions(self, embedded: Array, positions: Array, *, max_len: int) -> Array:
        """Embeddings [B, T, D] plus their position signal, if it is one of those that are added.

        Args:
          embedded: token embeddings.
          positions: int32 [B, T], below `max_len`.
          max_len: static bound; positions beyond a table take its last row.
        """
        if self.cfg.positions == "sinusoidal":
            table = jnp.asarray(sinusoid_table(max_len, self.embed_dim))
            return embedded + jnp.take(table, positions, axis=0, mode="clip")
        if self.learned_positions is not None:
            return embedded + self.learned_positions(positions)
        return embedded

    def bias(self, length: int) -> DistanceBias | None:
        """What positions add to the scores of self-attention; the same in all layers."""
        if self.position_bias is None:
            return None
        return self.position_bias.of_lengths(length, length)

    def check_length(self, length: int) -> None:
        """Raises ConfigError if `length` positions are more than a learned table has."""
        if self.cfg.positions == "learned" and length > self.cfg.max_positions:
            raise ConfigError(
                f"a batch has {length} positions, the learned table {self.cfg.max_positions}",
                details=["raise max_positions, lower the data's length limit, or use sinusoidal"],
            )

    def finish(self, x: Array) -> Array:
        """The last norm of a pre-norm stack."""
        return x if self.final_norm is None else self.final_norm(x)


def _build_position_bias(
    cfg: Any, dim: int, *, bidirectional: bool, rngs: nnx.Rngs
) -> Alibi | RelativeBias | None:
    if cfg.positions == "alibi":
        return Alibi(cfg.num_heads)
    if cfg.positions != "relative":
        return None
    return RelativeBias(
        cfg.num_heads,
        num_buckets=cfg.relative_buckets,
        max_distance=cfg.relative_max_distance,
        bidirectional=bidirectional,
        scale=dim**-0.5,
        rngs=rngs,
    )


class TransformerEncoder(_Stack):
    """Bidirectional stack over the source."""

    def __init__(
        self,
        cfg: TransformerEncoderConfig,
        *,
        embed_dim: int,
        compute_dtype: str = "float32",
        rngs: nnx.Rngs,
    ):
        super().__init__(
            cfg,
            embed_dim=embed_dim,
            memory_dim=None,
            bidirectional=True,
            compute_dtype=compute_dtype,
            rngs=rngs,
        )
        self.dims = encoded_dims(cfg, embed_dim)

    def __call__(self, source: Sequences, *, embedded: Array, key: Any = None) -> Encoded:
        self.check_length(embedded.shape[1])
        window = self.cfg.attention_window
        mask = masks.AttentionMask(source.segments, source.segments, window=window)

        bias = self.bias(embedded.shape[1])

        def call(layer: TransformerLayer, x: Array, key: Any) -> Array:
            return layer(x, mask, source.positions, bias=bias, key=key)

        memory = run_layers(self.layers, embedded, call, key=key, remat=self.cfg.remat)
        memory = self.finish(memory)
        real = (source.segments != 0).astype(jnp.float32)[..., None]
        summary = (memory * real).sum(1) / jnp.maximum(real.sum(1), 1.0)
        return Encoded(memory, source.segments, source.positions, summary)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TransformerState:
    """Decode state of B sentences with K beams each, R = B * K rows.

    Attributes:
      history: which entries of the caches each row has consumed.
      cache: per layer, keys and values of what the beams consumed.
      memory: per layer, projected keys and values of the source; None without an encoder.
      memory_mask: bool [B, 1, 1, S].
    """

    history: BeamHistory
    cache: tuple[StepMemory, ...]
    memory: tuple[StepMemory | None, ...]
    memory_mask: Array


class TransformerDecoder(_Stack):
    """Causal stack over the target with cross-attention over any encoder's memory.

    Where there is no encoder (`encoded.memory` is 0) its layers have no cross-attention.
    """

    def __init__(
        self,
        cfg: TransformerDecoderConfig,
        *,
        embed_dim: int,
        encoded: EncodedDims,
        compute_dtype: str = "float32",
        rngs: nnx.Rngs,
    ):
        super().__init__(
            cfg,
            embed_dim=embed_dim,
            memory_dim=encoded.memory or None,
            bidirectional=False,
            compute_dtype=compute_dtype,
            rngs=rngs,
        )

    def __call__(
        self, target: Sequences, encoded: Encoded, *, embedded: Array, key: Any = None
    ) -> Array:
        call = self._caller(target, encoded, embedded.shape[1])
        return self.finish(run_layers(self.layers, embedded, call, key=key, remat=self.cfg.remat))

    def read_and_weigh(
        self, target: Sequences, encoded: Encoded, *, embedded: Array, key: Any = None
    ) -> tuple[Array, Array]:
        """Hidden states [B, T, D] and the last layer's weights over the memory [B, T, S]."""
        call = self._caller(target, encoded, embedded.shape[1])
        x, weights = run_layers(
            self.layers,
            embedded,
            call,
            key=key,
            remat=self.cfg.remat,
            call_last=partial(call, weigh=True),
        )
        return self.finish(x), weights

    def _caller(self, target: Sequences, encoded: Encoded, length: int) -> Any:
        """How a layer is called on given target rows."""
        self.check_length(length)
        window = self.cfg.attention_window
        mask = masks.AttentionMask(target.segments, target.segments, causal=True, window=window)
        memory_mask = masks.AttentionMask(target.segments, encoded.segments)
        bias = self.bias(length)

        def call(layer: TransformerLayer, x: Array, key: Any, *, weigh: bool = False) -> Any:
            return layer(
                x,
                mask,
                target.positions,
                memory=encoded.memory,
                memory_mask=memory_mask,
                memory_positions=encoded.positions,
                bias=bias,
                key=key,
                weigh=weigh,
            )

        return call

    def init_decode(
        self, encoded: Encoded, *, max_len: int, num_beams: int = 1, rewindable: bool = False
    ) -> TransformerState:
        """State before the first token; the source is projected here, once a sentence.

        A cache can always be rewound, so `rewindable` changes nothing.
        """
        batch = encoded.memory.shape[0]
        layers = layer_list(self.layers, self.cfg.num_layers)
        attention = layers[0].self_attention
        dtype = attention.compute_dtype
        history = BeamHistory.empty(batch, num_beams, max_len)
        cache = StepMemory.empty(
            history, attention.num_kv_heads, attention.head_dim, compute_dtype=dtype
        )
        memory = tuple(
            None
            if layer.cross_attention is None
            else StepMemory.of(
                layer.cross_attention.project_memory(encoded.memory, encoded.positions),
                compute_dtype=dtype,
            )
            for layer in layers
        )
        return TransformerState(
            history=history,
            cache=(cache,) * len(layers),
            memory=memory,
            memory_mask=masks.padding_mask(encoded.segments),
        )

    def extend(
        self, state: TransformerState, embedded: Array, lengths: Array
    ) -> tuple[DecodeOutput, TransformerState]:
        """Consume `embedded` [R, T, D], of which the first `lengths` [R] are real."""
        rows, num_new, _ = embedded.shape
        batch, num_beams, max_len = state.history.owners.shape
        positions = state.history.lengths.reshape(rows, 1) + jnp.arange(num_new)
        real = jnp.arange(num_new) < lengths[:, None]
        history = state.history.extend(real.reshape(batch, num_beams, num_new))
        mask = history.mask(num_new, window=self.cfg.attention_window)
        bias = None
        if self.position_bias is not None:
            bias = history.spread(self.position_bias(-history.distances(num_new)))
        x = self.add_positions(embedded, positions, max_len=max_len)
        cache, weights = [], None
        layers = layer_list(self.layers, self.cfg.num_layers)
        for layer, old, memory in zip(layers, state.cache, state.memory, strict=True):
            read, attention = layer.enter(x, layer.self_norm), layer.self_attention
            query, new = attention.project_self(read, positions)
            written = old.write(new, state.history)
            update = attention.step_back(query, written, mask, history, bias=bias)
            x = layer.leave(x, update, layer.self_norm, None)
            if memory is not None:
                read, attention = layer.enter(x, layer.cross_norm), layer.cross_attention
                query = attention.project_query(read, positions)
                update, weights = attention.step(query, memory, state.memory_mask)
                x = layer.leave(x, update, layer.cross_norm, None)
            update = layer.feed_forward(layer.enter(x, layer.feed_forward_norm))
            x = layer.leave(x, update, layer.feed_forward_norm, None)
            cache.append(written)
        attention_map = None
        if weights is not None:
            attention_map = weights.mean(1).reshape(rows, num_new, -1)
        state = dataclasses.replace(state, history=history, cache=tuple(cache))
        return DecodeOutput(self.finish(x), attention_map), state

    def reorder(self, state: TransformerState, parents: Array) -> TransformerState:
        """Beam k of sentence b continues beam `parents[b, k]`."""
        return dataclasses.replace(state, history=state.history.reorder(parents))

    def select(self, state: TransformerState, rows: Array) -> TransformerState:
        """Keep the sentences `rows` [B'], all their beams."""
        whole = (state.history.owners, state.cache, state.memory, state.memory_mask)
        owners, cache, memory, mask = jax.tree.map(lambda leaf: leaf[rows], whole)
        history = BeamHistory(owners, state.history.num_slots)
        return TransformerState(history, cache, memory, mask)

    def rewind(self, state: TransformerState, lengths: Array) -> TransformerState:
        """Forget all but the first `lengths` [R] tokens."""
        history = state.history.rewind(lengths.reshape(state.history.owners.shape[:2]))
        return dataclasses.replace(state, history=history)
