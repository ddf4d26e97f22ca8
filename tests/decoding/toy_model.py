"""A table language model conditioned on its source, small enough to be searched exhaustively."""

import dataclasses
import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqgen.decoding import make_row_keys, search
from seqgen.models.base import DecodeOutput
from seqgen.types import BOS_ID, EOS_ID, Encoded, Sequences


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ToyModel:
    """Next-token logits depend on the source, the last two tokens and the position.

    It keeps the `Decodable` contract as a real decoder does: what beams share is stored once a
    sentence, what differs is moved by `reorder`. Its tables are traced, so that models of one
    vocabulary share one compiled search.

    Attributes:
      by_pair: [V, V, V] logits after two tokens.
      by_position: [64, V].
      by_source: [16, V], averaged over the source.
      spoilt: a number that replaces the logits of some sources; 0 leaves them alone.
      spoilt_from: the position after which they are replaced.
    """

    by_pair: jax.Array
    by_position: jax.Array
    by_source: jax.Array
    spoilt: Any = 0.0
    spoilt_from: Any = 0

    @classmethod
    def random(cls, seed=0, *, vocab=8, scale=2.0, **options):
        rng = np.random.default_rng(seed)
        shapes = [(vocab, vocab, vocab), (64, vocab), (16, vocab)]
        return cls(*[np.float32(scale * rng.normal(size=shape)) for shape in shapes], **options)

    @property
    def vocab(self):
        return self.by_position.shape[1]

    def reference_logits(self, line, ids):
        """Logits [V] of what comes after `ids`, worked out in float64 numpy."""
        by_source, by_pair, by_position = (
            np.asarray(x, np.float64) for x in (self.by_source, self.by_pair, self.by_position)
        )
        previous, last = [BOS_ID, BOS_ID, *ids][-2:]
        summary = by_source[np.asarray(line) % 16].mean(0)
        return by_pair[previous, last] + by_position[len(ids) + 1] + summary

    def reference_log_probs(self, line, target):
        """Log-probability of each id of `target`."""
        log_probs = []
        for position, token in enumerate(target):
            logits = self.reference_logits(line, target[:position])
            log_probs.append(logits[token] - np.log(np.exp(logits).sum()))
        return np.asarray(log_probs)

    def encode(self, source, *, key=None):
        seen = (source.segments > 0)[..., None]
        features = jnp.where(seen, jnp.asarray(self.by_source)[source.ids % 16], 0.0)
        summary = features.sum(1) / jnp.maximum(seen.sum(1), 1)
        return Encoded(features, source.segments, source.positions, summary)

    def init_decode(self, encoded, *, max_len, num_beams=1, rewindable=False):
        rows = encoded.summary.shape[0] * num_beams
        read = {"read": jnp.full((rows, max_len), BOS_ID)} if rewindable else {}
        return {
            **read,
            "shared": encoded.summary,
            "previous": jnp.full((rows,), BOS_ID),
            "last": jnp.full((rows,), BOS_ID),
            "position": jnp.zeros((rows,), jnp.int32),
        }

    def extend(self, state, tokens, lengths):
        beams = tokens.shape[0] // state["shared"].shape[0]
        shared = jnp.repeat(state["shared"], beams, axis=0)
        by_pair, by_position = jnp.asarray(self.by_pair), jnp.asarray(self.by_position)

        def step(carry, token_and_index):
            token, index = token_and_index
            real = index < lengths
            previous = jnp.where(real, carry["last"], carry["previous"])
            last = jnp.where(real, token, carry["last"])
            position = carry["position"] + real
            if "read" in carry:
                place = jnp.arange(len(token)), carry["position"]
                read = carry["read"].at[place].set(jnp.where(real, token, carry["read"][place]))
                carry = {**carry, "read": read}
            logits = by_pair[previous, last] + by_position[position] + shared
            spoils = (self.spoilt != 0) & (position > self.spoilt_from) & (shared[:, 4] > 0)
            logits = jnp.where(spoils[:, None], self.spoilt, logits)
            return {**carry, "previous": previous, "last": last, "position": position}, logits

        steps = (tokens.T, jnp.arange(tokens.shape[1]))
        state, hidden = jax.lax.scan(step, state, steps)
        return DecodeOutput(jnp.swapaxes(hidden, 0, 1)), state

    def output_columns(self, vocab_ids):
        return vocab_ids

    def output_logits(self, hidden, columns=None, allowed=None):
        logits = hidden if columns is None else hidden[..., columns]
        return logits if allowed is None else jnp.where(allowed, logits, -jnp.inf)

    def compared_states(self, hidden):
        return hidden

    def rewind(self, state, lengths):
        def read(back):
            tokens = state["read"][jnp.arange(len(lengths)), jnp.maximum(lengths - back, 0)]
            return jnp.where(lengths >= back, tokens, BOS_ID)

        return {**state, "position": lengths, "last": read(1), "previous": read(2)}

    def reorder(self, state, parents):
        rows = (parents + jnp.arange(parents.shape[0])[:, None] * parents.shape[1]).reshape(-1)
        return {name: x if name == "shared" else x[rows] for name, x in state.items()}

    def select(self, state, rows):
        beams = state["last"].shape[0] // state["shared"].shape[0]
        each = (rows[:, None] * beams + jnp.arange(beams)).reshape(-1)
        return {name: x[rows if name == "shared" else each] for name, x in state.items()}


def sources(lines, width=None):
    """`Sequences` of id lists, padded to `width`."""
    width = width or max(len(line) for line in lines)
    ids = np.zeros((len(lines), width), np.int32)
    segments = np.zeros_like(ids)
    for row, line in enumerate(lines):
        ids[row, : len(line)] = line
        segments[row, : len(line)] = 1
    positions = np.where(segments > 0, np.arange(width), 0).astype(np.int32)
    return Sequences(ids, segments, positions)


def random_lines(rng, count, *, low=2, high=9):
    return [[*rng.integers(4, 16, rng.integers(low, high)).tolist(), EOS_ID] for _ in range(count)]


def every_target(vocab, max_length, min_length=0, *, unk=True):
    """All id lists that end with EOS and have at most `max_length` ids, EOS counted."""
    words = [i for i in range(vocab) if i not in (0, BOS_ID, EOS_ID) and (unk or i != 1)]
    for length in range(min_length, max_length):
        for ids in itertools.product(words, repeat=length):
            yield [*ids, EOS_ID]


@functools.partial(jax.jit, static_argnames=("shape", "max_len"))
def _search(model, source, keys, values, candidates=None, *, shape, max_len):
    return search(
        model, source, keys, shape=shape, values=values, max_len=max_len, candidates=candidates
    )


def encode(text):
    """Ids of a text that is a list of them, as '4 5'."""
    return [int(word) for word in text.split()]


def run(model, source, config, *, max_len=16, numbers=None, candidates=None):
    """Search as numpy arrays; lines are numbered by their rows unless told otherwise."""
    numbers = np.arange(source.ids.shape[0]) if numbers is None else np.asarray(numbers)
    keys = make_row_keys(config.seed, numbers)
    values, shape = config.values(encode), config.shape()
    return jax.device_get(
        _search(model, source, keys, values, candidates, shape=shape, max_len=max_len)
    )
