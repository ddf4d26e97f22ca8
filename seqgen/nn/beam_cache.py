"""Keys and values of consumed tokens for decoding in steps, shared by the beams of a sentence.

Beams write side by side into one cache and never move: whose entry in a slot is a row's own past is
told by a table of integers. To reorder beams is to reorder that table; moving the caches themselves
costs as much as the products of a layer. All rows take a slot for each token of an extension, real
or not, so that writing is one copy.
"""

import dataclasses
import itertools
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from seqgen.nn.attention_plain import MASKED_SCORE, KeyValues, operand_dtype
from seqgen.nn.dense import dot
from seqgen.types import Array

_NOBODY = -1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BeamHistory:
    """Which cache entries each row has consumed.

    Attributes:
      owners: int32 [B, K, S]: the beam whose entry in slot s belongs to the row; -1 = none does.
      num_slots: int32 scalar, slots in use.
    """

    owners: Array
    num_slots: Array

    @property
    def lengths(self) -> Array:
        """Tokens that each row has consumed, int32 [B, K]."""
        return jnp.sum(self.owners != _NOBODY, axis=2, dtype=jnp.int32)

    @classmethod
    def empty(cls, batch: int, num_beams: int, num_slots: int) -> "BeamHistory":
        """Nothing consumed yet, room for `num_slots` slots."""
        owners = jnp.full((batch, num_beams, num_slots), _NOBODY, jnp.int32)
        return cls(owners, jnp.int32(0))

    def extend(self, real: Array) -> "BeamHistory":
        """After T more slots, in which rows took the tokens that are `real`, bool [B, K, T]."""
        own = jnp.arange(real.shape[1], dtype=jnp.int32)[:, None]
        new = jnp.where(real, own, _NOBODY)
        owners = jax.lax.dynamic_update_slice_in_dim(self.owners, new, self.num_slots, axis=2)
        return BeamHistory(owners, self.num_slots + real.shape[2])

    def distances(self, num_new: int) -> Array:
        """Int32 [B, K, T, S]: how many of a row's tokens back from each query an entry lies.

        The queries are in the last T = `num_new` slots. Meaningless where a slot is not the row's.
        """
        places = jnp.cumsum(self.owners != _NOBODY, axis=2, dtype=jnp.int32)
        first = self.num_slots - num_new
        queries = jax.lax.dynamic_slice_in_dim(places, first, num_new, axis=2)
        return queries[..., None] - places[:, :, None]

    def mask(self, num_new: int, *, window: int | None = None) -> Array:
        """Bool [B, 1, K * T, S * K]: what queries in the last T = `num_new` slots may see.

        With `window`, of a row's tokens only those less than so many back.
        """
        batch, beams, slots = self.owners.shape
        own = self.owners[:, :, None, :, None] == jnp.arange(beams)
        if num_new > 1:
            places = self.num_slots - num_new + jnp.arange(num_new)
            earlier = jnp.arange(slots) <= places[:, None]
            own = own & earlier[:, :, None]
        if window is not None:
            own = own & (self.distances(num_new) < window)[..., None]
        return own.reshape(batch, 1, beams * num_new, slots * beams)

    def spread(self, values: Array) -> Array:
        """Numbers of distances [N, B, K, T, S] as the cache lies: [B, N, K * T, S * K]."""
        heads, batch, beams, num_new, slots = values.shape
        values = jnp.repeat(values.swapaxes(0, 1)[..., None], beams, axis=-1)
        return values.reshape(batch, heads, beams * num_new, slots * beams)

    def reorder(self, parents: Array) -> "BeamHistory":
        """Beam k of sentence b continues beam `parents[b, k]`."""
        owners = jnp.take_along_axis(self.owners, parents[:, :, None], axis=1)
        return dataclasses.replace(self, owners=owners)

    def rewind(self, lengths: Array) -> "BeamHistory":
        """Each row keeps its first `lengths` [B, K] tokens; slots that nobody needs come free."""
        taken = self.owners != _NOBODY
        kept = taken & (jnp.cumsum(taken, axis=2) <= lengths[:, :, None])
        ends = jnp.where(kept, jnp.arange(1, kept.shape[2] + 1), 0)
        return BeamHistory(jnp.where(kept, self.owners, _NOBODY), jnp.max(ends).astype(jnp.int32))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StepMemory:
    """Keys and values as steps read them, in the operands' dtype of attention's products.

    Attributes:
      keys: [B, G, H, M]; the products with few queries are twice as fast on transposed keys.
      values: [B, G, M, H].
    """

    keys: Array
    values: Array

    @classmethod
    def of(cls, memory: KeyValues, *, compute_dtype: str) -> "StepMemory":
        """A memory that is whole from the start: keys and values [B, G, M, H]."""
        dtype = operand_dtype(compute_dtype)
        return cls(memory.keys.swapaxes(2, 3).astype(dtype), memory.values.astype(dtype))

    @classmethod
    def empty(
        cls, history: BeamHistory, num_kv_heads: int, head_dim: int, *, compute_dtype: str
    ) -> "StepMemory":
        """Room for the entries of all slots and beams, M = S * K, slot by slot."""
        batch, beams, slots = history.owners.shape
        dtype = operand_dtype(compute_dtype)
        return cls(
            jnp.zeros((batch, num_kv_heads, head_dim, slots * beams), dtype),
            jnp.zeros((batch, num_kv_heads, slots * beams, head_dim), dtype),
        )

    def write(self, new: KeyValues, history: BeamHistory) -> "StepMemory":
        """With keys and values [B * K, G, T, H] in the slots that `history` takes next.

        The slots must be there: `history.num_slots + T` at most S.
        """
        beams = history.owners.shape[1]
        start = history.num_slots * beams

        def by_sentence(rows: Array, order: tuple[int, ...]) -> Array:
            rows = rows.reshape(-1, beams, *rows.shape[1:])  # [B, K, G, T, H]
            return rows.transpose(order)

        def put(old: Array, fresh: Array, axis: int) -> Array:
            fresh = fresh.astype(old.dtype)
            return jax.lax.dynamic_update_slice_in_dim(old, fresh, start, axis=axis)

        keys = by_sentence(new.keys, (0, 2, 4, 3, 1))
        values = by_sentence(new.values, (0, 2, 3, 1, 4))
        batch, heads, width, num_new, _ = keys.shape
        return StepMemory(
            put(self.keys, keys.reshape(batch, heads, width, num_new * beams), 3),
            put(self.values, values.reshape(batch, heads, num_new * beams, width), 2),
        )


def share_beams(query: Array, num_beams: int) -> Array:
    """Queries [B * K, N, T, H] of beams -> [B, N, K * T, H], to attend over one shared memory."""
    rows, num_heads, query_len, head_dim = query.shape
    split = query.reshape(rows // num_beams, num_beams, num_heads, query_len, head_dim)
    return split.swapaxes(1, 2).reshape(-1, num_heads, num_beams * query_len, head_dim)


def part_beams(mixed: Array, num_beams: int) -> Array:
    """The inverse of `share_beams`."""
    batch, num_heads, queries, head_dim = mixed.shape
    split = mixed.reshape(batch, num_heads, num_beams, queries // num_beams, head_dim)
    return split.swapaxes(1, 2).reshape(batch * num_beams, num_heads, -1, head_dim)


def attend_history(
    query: Array,
    cache: StepMemory,
    mask: Array,
    history: BeamHistory,
    *,
    bias: Array | None = None,
    compute_dtype: str,
) -> Array:
    """What queries [B, N, K * T, H] in the last slots of a history see in its cache.

    On a CPU the work grows with the slots in use, in a few steps, and not with the room there is.

    Args:
      query: float32 [B, N, K * T, H].
      cache: of the history's slots.
      mask: `history.mask` of the T newest slots.
      history: the queries' own slots included.
      bias: see `attend_step`; as `history.spread` gives it.
      compute_dtype: see `attend_step`.
    """
    beams, slots = history.owners.shape[1:]
    attend = partial(attend_step, compute_dtype=compute_dtype)
    rooms = _rooms(slots) if jax.default_backend() == "cpu" else (slots,)
    if len(rooms) == 1:
        return attend(query, cache, mask, bias=bias)[0]

    def within(room: int) -> Callable[..., Array]:
        end = room * beams

        def attend_part(query: Array, cache: StepMemory, mask: Array, bias: Array | None) -> Array:
            part = StepMemory(cache.keys[..., :end], cache.values[:, :, :end])
            added = None if bias is None else bias[..., :end]
            return attend(query, part, mask[..., :end], bias=added)[0]

        return attend_part

    index = jnp.sum(history.num_slots > jnp.array(rooms[:-1]))
    return jax.lax.switch(index, [within(room) for room in rooms], query, cache, mask, bias)


def _rooms(slots: int) -> tuple[int, ...]:
    """Numbers of slots that are read at once: 8, 16, 32, ... and all."""
    powers = itertools.takewhile(lambda room: room < slots, (8 << i for i in itertools.count()))
    return (*powers, slots)


def attend_step(
    query: Array,
    memory: StepMemory,
    mask: Array,
    *,
    bias: Array | None = None,
    compute_dtype: str,
) -> tuple[Array, Array]:
    """Softmax-weighted values and the weights, for few queries over a long memory; no gradient.

    Args:
      query: float32 [B, N, Q, H].
      memory: of B sentences, G key/value heads (G divides N), M entries.
      mask: bool, broadcastable to [B, 1, Q, M]; True = may be seen.
      bias: float32 [B, N, Q, M], added to the scores, or None.
      compute_dtype: operands of the two products (on CPU they are float32 in any case).

    Returns:
      float32 [B, N, Q, H] and [B, N, Q, M]. A query that may see nothing gets the values' mean.
    """
    batch, num_heads, num_queries, head_dim = query.shape
    num_kv_heads = memory.keys.shape[1]
    group = num_heads // num_kv_heads
    if group > 1 and mask.shape[2] > 1:
        mask = jnp.tile(mask, (1, 1, group, 1))
    dtype = operand_dtype(compute_dtype)
    query = query.reshape(batch, num_kv_heads, group * num_queries, head_dim) * head_dim**-0.5
    each = ((0, 1), (0, 1))
    scores = dot(query, memory.keys, ((3,), (2,)), each, compute_dtype=dtype)
    if bias is not None:
        scores = scores + bias.reshape(scores.shape)
    weights = jax.nn.softmax(jnp.where(mask, scores, MASKED_SCORE), axis=-1)
    mixed = dot(weights, memory.values, ((3,), (2,)), each, compute_dtype=dtype)
    shape = (batch, num_heads, num_queries)
    return mixed.reshape(*shape, head_dim), weights.reshape(*shape, -1)
