"""One function for attention, and the choice among the ways to compute it.

'plain' holds all scores of a layer, 'sliced' those of a few rows, 'blocked' a block at a time,
fused kernels none at all: 'splash' on TPUs, and 'cudnn', NVIDIA's behind
`jax.nn.dot_product_attention`. All give the same numbers, up to rounding, wherever a query sees any
key; dropout has the same bits in the first three.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from seqgen.nn.attention_blocked import attend_blocked
from seqgen.nn.attention_plain import KeyValues, attend
from seqgen.nn.attention_sliced import attend_sliced, suits_slices
from seqgen.nn.attention_splash import attend_splash, splash_refusal, suits_splash
from seqgen.nn.masks import AttentionMask
from seqgen.nn.partitioning import layout_in_force
from seqgen.nn.position_bias import DistanceBias
from seqgen.types import Array

KERNELS = ("plain", "sliced", "blocked", "splash", "cudnn")

# Scores of one head (4 MiB) up to which they are held whole; `benchmarks/attention_memory.py
# --parts speed` measures on both sides of it.
PLAIN_SCORES = 1024 * 1024
_CUDNN_HEAD_DIM = 128


def _is_spelt_out(mask: AttentionMask) -> bool:
    """Whether cuDNN wants the mask as a [B, 1, T, S] array: it knows but causal rows by rule."""
    by_rule = mask.query_segments is None and mask.allowed is None
    return not by_rule or (mask.window is not None and not mask.causal)


def cudnn_refusal(
    query: Array,
    key_len: int,
    mask: AttentionMask,
    *,
    dropping: bool,
    compute_dtype: str,
    biased: bool = False,
) -> str | None:
    """Why cuDNN cannot compute this attention, or None if it can.

    Args:
      query: anything with the shape [B, N, T, H].
      key_len: S.
      mask: what each query may see.
      dropping: whether weights are dropped out.
      compute_dtype: 'float32' or 'bfloat16'.
      biased: whether something is added to the scores.
    """
    query_len, head_dim = query.shape[2:]
    if biased:
        return "it would want the whole square of what is added to scores: plain or blocked do not"
    if dropping:
        return "it has no dropout of ours: set attention_dropout_rate to 0"
    if compute_dtype != "bfloat16":
        return f"it multiplies in bfloat16, not {compute_dtype}: set compute_dtype to bfloat16"
    if head_dim % 8 or head_dim > _CUDNN_HEAD_DIM:
        return f"heads are {head_dim} wide: it wants a multiple of 8 up to {_CUDNN_HEAD_DIM}"
    if _is_spelt_out(mask) and (query_len % 2 or key_len % 2):
        return f"with a mask it wants even lengths, not {query_len} queries and {key_len} keys"
    return None


def choose_kernel(
    query: Array, key_len: int, mask: AttentionMask, *, dropping: bool, biased: bool = False
) -> str:
    """What 'auto' means: 'plain' while a head's scores are few, then 'splash' or 'blocked'.

    'sliced' in the place of 'plain' on one CPU, where the rows of a batch are many and none of them
    has more scores than the cache holds: loops over rows are no way to use other devices.

    'splash' on TPUs, without dropout, bias and `allowed` array, where heads are a multiple of
    64 wide and both lengths at least 128.

    cuDNN is never chosen, nor an option of a config: it has been compiled for, but not yet run on a
    GPU, and evaluation in float32 could not use it.

    Args:
      query: anything with the shape [B, N, T, H].
      key_len: S.
      mask: what each query may see.
      dropping: whether weights are dropped out.
      biased: whether something is added to the scores.
    """
    batch, num_heads, query_len, _ = query.shape
    backend = jax.default_backend()
    if query_len * key_len <= PLAIN_SCORES:
        alone = backend == "cpu" and layout_in_force() is None
        many = suits_slices(batch, num_heads * query_len * key_len)
        return "sliced" if alone and many else "plain"
    refusal = splash_refusal(mask, dropping=dropping, biased=biased)
    can = backend == "tpu" and refusal is None
    return "splash" if can and suits_splash(query, key_len) else "blocked"


def _attend_cudnn(query: Array, memory: KeyValues, mask: AttentionMask) -> Array:
    query_len, key_len = query.shape[2], memory.keys.shape[2]
    spelt_out, known_window = None, None
    if _is_spelt_out(mask):
        # The window is in the array then; causality stays a rule, so that blocks are skipped.
        rules = dataclasses.replace(mask, causal=False)
        shape = (query.shape[0], 1, query_len, key_len)
        spelt_out = jnp.broadcast_to(rules.dense(query_len, key_len), shape)
    elif mask.window is not None:
        known_window = (mask.window - 1, 0)

    def lay_out(x: Array) -> Array:
        return x.astype(jnp.bfloat16).swapaxes(1, 2)

    mixed = jax.nn.dot_product_attention(
        lay_out(query),
        lay_out(memory.keys),
        lay_out(memory.values),
        mask=spelt_out,
        is_causal=mask.causal,
        local_window_size=known_window,
        implementation="cudnn",
    )
    return mixed.swapaxes(1, 2).astype(jnp.float32)


def attention(
    query: Array,
    memory: KeyValues,
    mask: AttentionMask,
    *,
    bias: DistanceBias | None = None,
    implementation: str = "auto",
    dropout_rate: float = 0.0,
    key: Any = None,
    compute_dtype: str = "float32",
) -> Array:
    """Softmax-weighted values (Vaswani et al. 2017, section 3.2.1).

    Args:
      query: [B, N, T, H].
      memory: keys and values [B, G, S, H] where G divides N; query heads n * (N / G) ... share
        key/value head n.
      mask: what each query may see.
      bias: added to the scores after scaling, or None.
      implementation: 'auto' (see `choose_kernel`) or one of `KERNELS`.
      dropout_rate, key: dropout on the weights; key None = evaluation.
      compute_dtype: operands of the two products.

    Returns:
      float32 [B, N, T, H]; finite but meaningless where a query may see nothing.

    Raises:
      ValueError: for an unknown implementation, segments of one side only, a window below 1, or
        what a fused kernel cannot do if it was asked for.
    """
    if (mask.query_segments is None) != (mask.key_segments is None):
        raise ValueError("an attention mask has segments for queries and keys, or for neither")
    if mask.window is not None and mask.window < 1:
        raise ValueError(f"attention window {mask.window} sees nothing: it is at least 1")
    dropping = key is not None and dropout_rate > 0
    query_len, key_len = query.shape[2], memory.keys.shape[2]
    if implementation == "auto":
        implementation = choose_kernel(
            query, key_len, mask, dropping=dropping, biased=bias is not None
        )
    options: dict[str, Any] = {
        "dropout_rate": dropout_rate,
        "key": key,
        "compute_dtype": compute_dtype,
    }
    if implementation == "plain":
        whole = None if bias is None else bias.dense(query_len, key_len)
        return attend(query, memory, mask.dense(query_len, key_len), bias=whole, **options)[0]
    if implementation == "sliced":
        return attend_sliced(query, memory, mask, bias=bias, **options)
    if implementation == "blocked":
        return attend_blocked(query, memory, mask, bias=bias, **options)
    if implementation == "splash":
        refusal = splash_refusal(mask, dropping=dropping, biased=bias is not None)
        if refusal is not None:
            raise ValueError(f"splash attention cannot compute this: {refusal}")
        return attend_splash(query, memory, mask, compute_dtype=compute_dtype)
    if implementation != "cudnn":
        raise ValueError(f"attention kernel {implementation!r} is not auto or one of {KERNELS}")
    refusal = cudnn_refusal(
        query,
        key_len,
        mask,
        dropping=dropping,
        compute_dtype=compute_dtype,
        biased=bias is not None,
    )
    if refusal is not None:
        raise ValueError(f"cuDNN cannot compute this attention: {refusal}")
    return _attend_cudnn(query, memory, mask)
