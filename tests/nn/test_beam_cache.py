"""The cache that beams share, against each row's own list of keys and values."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqgen.nn.attention_plain import KeyValues, attend
from seqgen.nn.beam_cache import (
    BeamHistory,
    StepMemory,
    attend_history,
    attend_step,
    part_beams,
    share_beams,
)

BATCH, BEAMS, SLOTS, HEADS, WIDTH = 2, 3, 12, 2, 4


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


class Reference:
    """What each row has consumed, as lists of numpy vectors."""

    def __init__(self):
        self.rows = [[] for _ in range(BATCH * BEAMS)]

    def extend(self, new, real):
        for row, entries in enumerate(self.rows):
            for t in np.flatnonzero(real[row]):
                entries.append((new.keys[row, :, t], new.values[row, :, t]))

    def reorder(self, parents):
        flat = (np.arange(BATCH)[:, None] * BEAMS + parents).reshape(-1)
        self.rows = [list(self.rows[row]) for row in flat]

    def rewind(self, lengths):
        self.rows = [entries[:n] for entries, n in zip(self.rows, lengths, strict=True)]

    def attend(self, row, query, window=None, slope=0.0):
        """[N, H] over everything the row has consumed, or the last of it; the later, the more."""
        seen = self.rows[row][-(window or 0) :]
        keys, values = (np.stack(part) for part in zip(*seen, strict=True))
        scores = np.einsum("nh,tnh->nt", query, keys) / np.sqrt(WIDTH)
        scores += slope * np.arange(len(seen)) * np.arange(1, HEADS + 1)[:, None]
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return np.einsum("nt,tnh->nh", weights, values)


@functools.partial(jax.jit, static_argnames=("window", "slope"))
def extend(history, memory, new, real, query, window=None, slope=0.0):
    """Write, then let each row's newest token look back."""
    memory = memory.write(new, history)
    history = history.extend(real)
    mask = history.mask(real.shape[2], window=window)
    back = history.distances(real.shape[2])
    bias = history.spread(-slope * back * jnp.arange(1, HEADS + 1).reshape(-1, 1, 1, 1, 1))
    mixed = attend_history(
        share_beams(query, BEAMS), memory, mask, history, bias=bias, compute_dtype="float32"
    )
    return history, memory, part_beams(mixed, BEAMS)


@pytest.mark.parametrize(("window", "slope"), [(None, 0.0), (2, 0.0), (None, 0.5)])
def test_follows_every_row_through_extensions_reorderings_and_rewinds(window, slope):
    rng, reference = np.random.default_rng(7), Reference()
    history = BeamHistory.empty(BATCH, BEAMS, SLOTS)
    memory = StepMemory.empty(history, HEADS, WIDTH, compute_dtype="float32")
    rows = BATCH * BEAMS
    # The first slots are taken by ragged prompts; then tokens come one by one.
    for step, num_new in enumerate([3, 1, 1, 1, 1, 1]):
        lengths = rng.integers(1, num_new + 1, rows)
        real = np.arange(num_new) < lengths[:, None]
        shape = (rows, HEADS, num_new, WIDTH)
        new, query = KeyValues(random(*shape, seed=step), random(*shape, seed=step + 50)), random(
            *shape, seed=step + 100
        )  # fmt: skip
        reference.extend(jax.tree.map(np.asarray, new), real)
        history, memory, mixed = extend(
            history,
            memory,
            new,
            jnp.asarray(real).reshape(BATCH, BEAMS, num_new),
            query,
            window,
            slope,
        )
        for row in range(rows):
            last = lengths[row] - 1
            want = reference.attend(row, np.asarray(query[row, :, last]), window, slope)
            np.testing.assert_allclose(mixed[row, :, last], want, atol=1e-5, err_msg=f"{step}")
        parents = rng.integers(0, BEAMS, (BATCH, BEAMS))
        history = history.reorder(jnp.asarray(parents))
        reference.reorder(parents)
        if step == 3:
            kept = rng.integers(1, 4, rows)
            history = history.rewind(jnp.asarray(kept).reshape(BATCH, BEAMS))
            reference.rewind(kept)
            assert int(history.num_slots) < 6  # what nobody needs is free again


def test_a_query_sees_no_later_token_of_the_same_extension():
    history = BeamHistory.empty(1, 1, 4).extend(jnp.ones((1, 1, 3), bool))
    np.testing.assert_array_equal(history.mask(3)[0, 0], np.tri(3, 4, dtype=bool))


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_a_step_equals_plain_attention(kv_heads):
    query = random(6, 4, 2, 8)
    memory = KeyValues(random(2, kv_heads, 5, 8, seed=1), random(2, kv_heads, 5, 8, seed=2))
    copied = jax.tree.map(lambda x: jnp.repeat(x, 3, axis=0), memory)
    mask = jnp.array([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]], bool)[:, None, None]
    want, want_weights = attend(query, copied, jnp.repeat(mask, 3, axis=0))
    step = StepMemory.of(memory, compute_dtype="float32")
    got, weights = attend_step(share_beams(query, 3), step, mask, compute_dtype="float32")
    np.testing.assert_allclose(part_beams(got, 3), want, atol=1e-6)
    np.testing.assert_allclose(part_beams(weights, 3), want_weights, atol=1e-6)
