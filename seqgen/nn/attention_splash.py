"""Attention by a fused TPU kernel: scores never leave the core's own memory.

JAX's splash attention: the flash attention of Dao 2023, on a grid that leaves out the blocks that a
rule (causal, window) hides. Segments are compared inside the kernel and skip nothing. Arrays of
what may be seen, and dropout, it does not have.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from seqgen.nn.attention_grid import pad
from seqgen.nn.attention_plain import KeyValues
from seqgen.nn.masks import AttentionMask
from seqgen.nn.partitioning import layout_in_force, spec_for
from seqgen.types import Array

LANES = 128  # of a TPU's vector registers; lengths are padded to multiples of it
_BLOCKS = (512, 256, LANES)


@dataclasses.dataclass(frozen=True)
class _Options:
    causal: bool
    window: int | None
    compute_dtype: str
    interpret: bool


def splash_refusal(mask: AttentionMask, *, dropping: bool, biased: bool = False) -> str | None:
    """Why the kernel cannot compute an attention, or None if it can.

    Args:
      mask: what each query may see.
      dropping: whether weights are dropped out.
      biased: whether something is added to the scores.
    """
    if biased:
        return "it adds nothing to scores: positions=alibi and relative go by plain or blocked"
    if dropping:
        return "it has no dropout of ours: set attention_dropout_rate to 0"
    if mask.allowed is not None:
        return "it knows segments, causality and windows, not an array of what may be seen"
    if jax.default_backend() not in ("tpu", "cpu"):
        return f"it is written for TPUs, not for {jax.default_backend()}"
    return None


def suits_splash(query: Array, key_len: int) -> bool:
    """Whether the kernel is worth its padding here: heads and lengths that fill a TPU's lanes.

    Args:
      query: anything with the shape [B, N, T, H].
      key_len: S.
    """
    query_len, head_dim = query.shape[2:]
    return head_dim % (LANES // 2) == 0 and min(query_len, key_len) >= LANES


def _run(query: Array, keys: Array, values: Array, segments: Any, options: _Options) -> Array:
    """The kernel on padded lengths; segments are a pair of int32 [B, T] and [B, S], or None."""
    # Here, because Pallas is slow to import and no other kernel needs it.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as splash
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as rules

    shape = (query.shape[2], keys.shape[2])
    if options.window is not None:
        reach = options.window - 1
        rule: Any = rules.LocalMask(shape, (reach, 0 if options.causal else reach), offset=0)
    else:
        rule = rules.CausalMask(shape) if options.causal else rules.FullMask(shape)
    query_block, key_block = (
        next(block for block in _BLOCKS if length % block == 0) for length in shape
    )
    blocks = splash.BlockSizes(
        block_q=query_block,
        block_kv=key_block,
        block_q_dkv=query_block,
        block_kv_dkv=key_block,
        block_q_dq=query_block,
        block_kv_dq=key_block,
    )
    kernel = splash.make_splash_mha(
        rules.MultiHeadMask([rule] * query.shape[1]),
        block_sizes=blocks,
        head_shards=1,
        q_seq_shards=1,
        interpret=options.interpret,
    )
    query = query * query.shape[-1] ** -0.5
    operands = (x.astype(options.compute_dtype) for x in (query, keys, values))
    segments = None if segments is None else splash.SegmentIds(*segments)
    mixed: Any = jax.vmap(kernel)(*operands, segments)
    return mixed.astype(jnp.float32)


def _precision(options: _Options) -> Any:
    """The kernel's products name no precision of their own; a TPU would round float32 operands."""
    exact = options.compute_dtype == "float32"
    return jax.default_matmul_precision("highest" if exact else "default")


# A rule of its own, because the backward kernel is traced long after a `with` around the forward.
@partial(jax.custom_vjp, nondiff_argnums=(4,))
def _attend(query: Array, keys: Array, values: Array, segments: Any, options: _Options) -> Array:
    with _precision(options):
        return _run(query, keys, values, segments, options)


def _attend_forward(
    query: Array, keys: Array, values: Array, segments: Any, options: _Options
) -> Any:
    with _precision(options):
        return jax.vjp(lambda q, k, v: _run(q, k, v, segments, options), query, keys, values)


def _attend_backward(options: _Options, pull_back: Any, d_mixed: Array) -> Any:
    with _precision(options):
        return *pull_back(d_mixed), None


_attend.defvjp(_attend_forward, _attend_backward)


def _segments(mask: AttentionMask, batch: int, query_len: int, key_len: int) -> Any:
    """Both sides' segments, padded, or None where all would be one. Here segment 0 sees itself."""
    queries, keys = mask.query_segments, mask.key_segments
    if queries is None or keys is None:
        if key_len % LANES == 0:
            return None
        queries, keys = (jnp.ones((batch, length), jnp.int32) for length in (query_len, key_len))
    return pad(queries, 1, LANES), pad(keys, 1, LANES)


def _reads(mask: AttentionMask, query_len: int, key_len: int) -> Array:
    """Bool [B or 1, 1, T, 1]: not padding, and not beyond the window's last key."""
    reads = jnp.ones((1, query_len), bool)
    if mask.query_segments is not None:
        reads = mask.query_segments != 0
    if mask.window is not None:
        reads &= jnp.arange(query_len) < key_len + mask.window - 1
    return reads[:, None, :, None]


def attend_splash(
    query: Array, memory: KeyValues, mask: AttentionMask, *, compute_dtype: str = "float32"
) -> Array:
    """Softmax-weighted values; on CPU the kernel is interpreted, step by step and slowly.

    Under a mesh in force every device works on its own rows and, where the key/value heads divide,
    its own heads; the length stays whole.

    Args:
      query: [B, N, T, H].
      memory: keys and values [B, G, S, H] where G divides N.
      mask: what each query may see, told by segments, `causal` and `window` (`splash_refusal`).
      compute_dtype: operands of the first product, and of the second as far as a TPU rounds them.

    Returns:
      float32 [B, N, T, H]. Padding gives zeros and passes no gradient.
    """
    batch, _, query_len, _ = query.shape
    key_len = memory.keys.shape[2]
    options = _Options(mask.causal, mask.window, compute_dtype, jax.default_backend() == "cpu")
    segments = _segments(mask, batch, query_len, key_len)
    run = partial(_attend, options=options)
    layout = layout_in_force()
    if layout is not None:
        mesh, table = layout
        spec = spec_for(("batch", "heads"), table, shape=memory.keys.shape[:2], mesh=mesh)
        run = jax.shard_map(
            run,
            mesh=mesh,
            in_specs=(spec, spec, spec, P(spec[0])),
            out_specs=spec,
            check_vma=False,
        )
    arrays = (pad(x, 2, LANES) for x in (query, memory.keys, memory.values))
    mixed = run(*arrays, segments)[:, :, :query_len]
    return jnp.where(_reads(mask, query_len, key_len), mixed, 0)
