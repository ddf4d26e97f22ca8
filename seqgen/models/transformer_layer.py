"""One Transformer layer: attention and feed-forward sub-layers inside residual sums.

Post-norm normalises after each sum (Vaswani et al. 2017), pre-norm what each sub-layer reads
(Xiong et al. 2020).
"""

from typing import Any

import jax
from flax import nnx

from seqgen.nn.attention import Attention
from seqgen.nn.dense import Dense
from seqgen.nn.dropout import dropout, fold
from seqgen.nn.masks import AttentionMask
from seqgen.nn.norm import build_norm
from seqgen.nn.partitioning import constrain
from seqgen.nn.position_bias import DistanceBias
from seqgen.nn.rotary import RotaryRule
from seqgen.types import Array

_ACTIVATION_AXES = ("batch", "length", "embed")


class FeedForward(nnx.Module):
    """Two projections around an activation; swiglu gates with a third (Shazeer 2020).

    gelu is x times the normal distribution function of x, gelu_tanh its tanh approximation
    (Hendrycks and Gimpel 2016, section 2), which GPT-2 computes.
    """

    def __init__(self, cfg: Any, dim: int, *, compute_dtype: str, rngs: nnx.Rngs):
        options = {"use_bias": cfg.bias, "compute_dtype": compute_dtype, "rngs": rngs}
        self.up = Dense(dim, cfg.ff_dim, axes=("embed", "mlp"), **options)
        gated = cfg.activation == "swiglu"
        self.gate = Dense(dim, cfg.ff_dim, axes=("embed", "mlp"), **options) if gated else None
        self.down = Dense(cfg.ff_dim, dim, axes=("mlp", "embed"), **options)
        self.activation, self.dropout_rate = cfg.activation, cfg.activation_dropout_rate

    def __call__(self, x: Array, *, key: Any = None) -> Array:
        hidden = constrain(self.up(x), ("batch", "length", "mlp"))
        if self.gate is not None:
            hidden = jax.nn.silu(self.gate(x)) * hidden
        elif self.activation in ("gelu", "gelu_tanh"):
            # Of its inner values, each as large as `hidden`, none is kept for the gradient.
            approximate = self.activation == "gelu_tanh"
            gelu = jax.checkpoint(lambda x: jax.nn.gelu(x, approximate=approximate))
            hidden = gelu(hidden)
        else:
            hidden = jax.nn.relu(hidden)
        return self.down(dropout(hidden, self.dropout_rate, key))


class TransformerLayer(nnx.Module):
    """Self-attention, optional cross-attention, feed-forward; a residual sum around each."""

    def __init__(
        self,
        cfg: Any,
        dim: int,
        *,
        memory_dim: int | None = None,
        compute_dtype: str,
        rngs: nnx.Rngs,
    ):
        """Args: memory_dim: width of the encoder's memory; None = no cross-attention."""

        def attention(memory_dim: int, *, rotary: RotaryRule | None = None) -> Attention:
            return Attention(
                dim,
                memory_dim,
                num_heads=cfg.num_heads,
                num_kv_heads=cfg.num_kv_heads,
                use_bias=cfg.bias,
                dropout_rate=cfg.attention_dropout_rate,
                rotary=rotary,
                qk_norm=cfg.qk_norm,
                norm_epsilon=1e-6 if cfg.norm_epsilon is None else cfg.norm_epsilon,
                kernel=cfg.attention_kernel,
                compute_dtype=compute_dtype,
                rngs=rngs,
            )

        def norm() -> Any:
            return build_norm(cfg.norm, dim, use_bias=cfg.bias, epsilon=cfg.norm_epsilon)

        self.pre_norm, self.dropout_rate = cfg.norm_position == "pre", cfg.dropout_rate
        rotary = RotaryRule(
            cfg.rotary_base, cfg.rotary_scaling, cfg.rotary_factor, cfg.rotary_original_len
        )
        self.self_attention = attention(dim, rotary=rotary if cfg.positions == "rotary" else None)
        self.self_norm = norm()
        has_memory = memory_dim is not None
        self.cross_attention = attention(memory_dim) if has_memory else None
        self.cross_norm = norm() if has_memory else None
        self.feed_forward = FeedForward(cfg, dim, compute_dtype=compute_dtype, rngs=rngs)
        self.feed_forward_norm = norm()

    def enter(self, x: Array, norm: Any) -> Array:
        """What a sub-layer reads."""
        return norm(x) if self.pre_norm else x

    def leave(self, x: Array, update: Array, norm: Any, key: Any) -> Array:
        """The residual sum after a sub-layer."""
        x = constrain(x + dropout(update, self.dropout_rate, key), _ACTIVATION_AXES)
        return x if self.pre_norm else norm(x)

    def __call__(
        self,
        x: Array,
        mask: AttentionMask,
        positions: Array,
        *,
        memory: Array | None = None,
        memory_mask: AttentionMask | None = None,
        memory_positions: Array | None = None,
        bias: DistanceBias | None = None,
        key: Any = None,
        weigh: bool = False,
    ) -> Any:
        """[B, T, D] -> [B, T, D]; masks True = may be seen; `bias` of the self-attention.

        With `weigh` also the weights [B, T, S] over the memory, as `Attention`.
        """
        weights = None
        read = self.enter(x, self.self_norm)
        update = self.self_attention(
            read, None, mask, positions=positions, bias=bias, key=fold(key, 0)
        )
        x = self.leave(x, update, self.self_norm, fold(key, 1))
        if self.cross_attention is not None:
            assert memory_mask is not None
            read = self.enter(x, self.cross_norm)
            update = self.cross_attention(
                read,
                memory,
                memory_mask,
                positions=positions,
                memory_positions=memory_positions,
                key=fold(key, 2),
                weigh=weigh,
            )
            update, weights = update if weigh else (update, None)
            x = self.leave(x, update, self.cross_norm, fold(key, 3))
        update = self.feed_forward(self.enter(x, self.feed_forward_norm), key=fold(key, 4))
        x = self.leave(x, update, self.feed_forward_norm, fold(key, 5))
        return (x, weights) if weigh else x
