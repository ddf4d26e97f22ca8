"""Multi-head and grouped-query attention layers.

Multi-head attention: Vaswani et al. 2017, section 3.2.2; grouped queries: Ainslie et al. 2023. How
the scores are computed is the business of `seqgen.nn.attention_kernels`.
"""

import itertools
from typing import Any

import jax.numpy as jnp
from flax import nnx

from seqgen.nn.additive import attention_weights
from seqgen.nn.attention_kernels import attention
from seqgen.nn.attention_plain import KeyValues, operand_dtype
from seqgen.nn.beam_cache import (
    BeamHistory,
    StepMemory,
    attend_history,
    attend_step,
    part_beams,
    share_beams,
)
from seqgen.nn.dense import Dense, batched_matmul, dense
from seqgen.nn.masks import AttentionMask
from seqgen.nn.norm import RMSNorm
from seqgen.nn.partitioning import constrain, num_shards
from seqgen.nn.position_bias import DistanceBias
from seqgen.nn.quantization import join_outputs
from seqgen.nn.rotary import RotaryRule, rotate
from seqgen.types import Array


class Attention(nnx.Module):
    """Projections around `attend`: queries from one sequence, keys and values from a memory."""

    def __init__(
        self,
        query_dim: int,
        memory_dim: int,
        *,
        num_heads: int,
        num_kv_heads: int | None = None,
        use_bias: bool = True,
        dropout_rate: float = 0.0,
        rotary: RotaryRule | None = None,
        qk_norm: bool = False,
        norm_epsilon: float = 1e-6,
        kernel: str = "auto",
        compute_dtype: str = "float32",
        rngs: nnx.Rngs,
    ):
        """Multi-head attention with parameters of its own.

        Args:
          query_dim, memory_dim: widths of what is read.
          num_heads: N; num_kv_heads: G, heads of keys and values (None = N).
          use_bias: of the projections.
          dropout_rate: of the weights.
          rotary: how queries and keys are turned by their positions; None = not at all.
          qk_norm: RMSNorm of each query and key over its head's width, one scale for all heads,
            before they are turned (Henry et al. 2020, "Query-key normalization for transformers";
            in this form Yang et al. 2025, "Qwen3 technical report", section 2).
          norm_epsilon: of that norm.
          kernel: see `attention_kernels.attention`.
          compute_dtype: 'float32' or 'bfloat16', of the products.
          rngs: where the parameters' first numbers come from.

        Raises:
          ValueError: if heads do not divide the width, or key/value heads the heads.
        """
        num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        if query_dim % num_heads or num_heads % num_kv_heads:
            raise ValueError(
                f"{num_heads} heads must divide width {query_dim}, and {num_kv_heads} key/value "
                f"heads the {num_heads} heads"
            )
        self.num_heads, self.num_kv_heads = num_heads, num_kv_heads
        self.head_dim = query_dim // num_heads
        self.dropout_rate, self.rotary, self.compute_dtype = dropout_rate, rotary, compute_dtype
        self.kernel = kernel
        kv_dim = num_kv_heads * self.head_dim

        def project(in_dim: int, out_dim: int, axes: tuple[str, str]) -> Dense:
            return Dense(
                in_dim,
                out_dim,
                axes=axes,
                use_bias=use_bias,
                compute_dtype=compute_dtype,
                rngs=rngs,
            )

        self.query = project(query_dim, query_dim, ("embed", "heads"))
        self.key = project(memory_dim, kv_dim, ("embed", "heads"))
        self.value = project(memory_dim, kv_dim, ("embed", "heads"))
        self.out = project(query_dim, query_dim, ("heads", "embed"))

        def norm() -> RMSNorm | None:
            if not qk_norm:
                return None
            return RMSNorm(self.head_dim, epsilon=norm_epsilon, axis="head_dim")

        self.query_norm, self.key_norm = norm(), norm()

    def _project(self, x: Array, layers: tuple[Dense, ...]) -> list[Array]:
        """Several projections of `x` as one product, unless heads are cut over devices."""
        if len(layers) == 1 or num_shards("heads") > 1:
            return [layer(x) for layer in layers]
        kernel = join_outputs([layer.kernel[...] for layer in layers])
        biases = [layer.bias[...] for layer in layers if layer.bias is not None]
        bias = jnp.concatenate(biases) if biases else None
        joint = dense(x, kernel, bias, compute_dtype=self.compute_dtype)
        cuts = list(itertools.accumulate(layer.kernel.shape[1] for layer in layers))
        return jnp.split(joint, cuts[:-1], axis=-1)

    def _heads(self, x: Array, num_heads: int) -> Array:
        """[B, T, num_heads * H] -> [B, num_heads, T, H]."""
        x = x.reshape(*x.shape[:2], num_heads, self.head_dim).swapaxes(1, 2)
        return constrain(x, ("batch", "heads", "length", "head_dim"))

    def project_query(self, x: Array, positions: Array) -> Array:
        """[B, T, D] -> [B, N, T, H]; `positions` int32 [B, T] matter to rotary attention only."""
        return self._place_query(self.query(x), positions)

    def _place_query(self, projected: Array, positions: Array) -> Array:
        query = self._heads(projected, self.num_heads)
        query = query if self.query_norm is None else self.query_norm(query)
        return query if self.rotary is None else rotate(query, positions, self.rotary)

    def _place_memory(self, keys: Array, values: Array, positions: Array) -> KeyValues:
        keys = self._heads(keys, self.num_kv_heads)
        values = self._heads(values, self.num_kv_heads)
        keys = keys if self.key_norm is None else self.key_norm(keys)
        keys = keys if self.rotary is None else rotate(keys, positions, self.rotary)
        return KeyValues(keys, values)

    def project_memory(self, memory: Array, positions: Array) -> KeyValues:
        """[B, S, E] -> keys and values [B, num_kv_heads, S, H]."""
        keys, values = self._project(memory, (self.key, self.value))
        return self._place_memory(keys, values, positions)

    def project_self(self, x: Array, positions: Array) -> tuple[Array, KeyValues]:
        """Query, and keys and values, of one sequence [B, T, D] by one product."""
        query, keys, values = self._project(x, (self.query, self.key, self.value))
        return self._place_query(query, positions), self._place_memory(keys, values, positions)

    def step(self, query: Array, memory: StepMemory, mask: Array) -> tuple[Array, Array]:
        """Decoding: output [R, T, D] for queries [R, N, T, H], and weights [B, N, K * T, M].

        The R = B * K rows attend over the memory of their sentence; mask as `attend_step`.
        """
        num_beams = query.shape[0] // memory.keys.shape[0]
        mixed, weights = attend_step(
            share_beams(query, num_beams), memory, mask, compute_dtype=self.compute_dtype
        )
        return self._merge(part_beams(mixed, num_beams)), weights

    def step_back(
        self,
        query: Array,
        cache: StepMemory,
        mask: Array,
        history: BeamHistory,
        *,
        bias: Array | None = None,
    ) -> Array:
        """Decoding: output [R, T, D] for queries [R, N, T, H] over what their rows have consumed.

        Cache and history hold the queries' own tokens already; see `attend_history`.
        """
        num_beams = history.owners.shape[1]
        mixed = attend_history(
            share_beams(query, num_beams),
            cache,
            mask,
            history,
            bias=bias,
            compute_dtype=self.compute_dtype,
        )
        return self._merge(part_beams(mixed, num_beams))

    def _merge(self, mixed: Array) -> Array:
        """[B, N, T, H] -> the layer's output [B, T, D]."""
        return self.out(mixed.swapaxes(1, 2).reshape(mixed.shape[0], mixed.shape[2], -1))

    def _mean_weights(self, query: Array, keys: Array, mask: AttentionMask) -> Array:
        """The mean of the heads' weights [B, T, S]: queries [B, N, T, H] over keys [B, G, S, H]."""
        batch, _, query_len, head_dim = query.shape
        shape = (batch, self.num_kv_heads, -1, head_dim)
        dtype = operand_dtype(self.compute_dtype)
        query = query.reshape(shape) * head_dim**-0.5
        scores: Any = batched_matmul(query, keys.swapaxes(2, 3), dtype)
        scores = scores.reshape(batch, self.num_heads, query_len, -1)
        return attention_weights(scores, mask.dense(query_len, keys.shape[2])).mean(1)

    def __call__(
        self,
        x: Array,
        memory: Array | None,
        mask: AttentionMask,
        *,
        positions: Array,
        memory_positions: Array | None = None,
        bias: DistanceBias | None = None,
        key: Any = None,
        weigh: bool = False,
    ) -> Any:
        """[B, T, D] attending over memory [B, S, E], or over itself (None), -> [B, T, D].

        With `weigh`, which is for attention without `bias`, also the weights [B, T, S]: the mean of
        the heads, without dropout, 0 where nothing is seen. They carry a gradient.
        """
        assert bias is None or not weigh
        if memory is None:
            query, key_values = self.project_self(x, positions)
        else:
            assert memory_positions is not None
            query = self.project_query(x, positions)
            key_values = self.project_memory(memory, memory_positions)
        mixed = attention(
            query,
            key_values,
            mask,
            bias=bias,
            implementation=self.kernel,
            dropout_rate=self.dropout_rate,
            key=key,
            compute_dtype=self.compute_dtype,
        )
        out = self._merge(mixed)
        return (out, self._mean_weights(query, key_values.keys, mask)) if weigh else out
