"""A table language model conditioned on its source, small enough to be searched exhaustively."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np

from seqgen.models.base import DecodeOutput
from seqgen.types import BOS_ID, EOS_ID, Encoded, Sequences


@dataclasses.dataclass
class ToyModel:
    """Next-token logits depend on the source, the last two tokens and the position.

    It keeps the `Decodable` contract as a real decoder does: what beams share is stored once a
    sentence, what differs is moved by `reorder`.
    """

    vocab: int = 8
    seed: int = 0
    scale: float = 2.0
    spoil: float | None = None  # a value that some logits take, e.g. NaN
    spoil_from: int = 0

    def __post_init__(self):
        rng = np.random.default_rng(self.seed)
        draw = lambda *shape: jnp.asarray(self.scale * rng.normal(size=shape), jnp.float32)  # noqa: E731
        self.by_pair = draw(self.vocab, self.vocab, self.vocab)
        self.by_position = draw(64, self.vocab)
        self.by_source = draw(16, self.vocab)

    def encode(self, source, *, key=None):
        seen = (source.segments > 0)[..., None]
        features = jnp.where(seen, self.by_source[source.ids % 16], 0.0)
        summary = features.sum(1) / jnp.maximum(seen.sum(1), 1)
        return Encoded(features, source.segments, source.positions, summary)

    def init_decode(self, encoded, *, max_len, num_beams=1):
        rows = encoded.summary.shape[0] * num_beams
        return {
            "shared": encoded.summary,
            "previous": jnp.full((rows,), BOS_ID),
            "last": jnp.full((rows,), BOS_ID),
            "position": jnp.zeros((rows,), jnp.int32),
        }

    def extend(self, state, tokens, lengths):
        beams = tokens.shape[0] // state["shared"].shape[0]
        shared = jnp.repeat(state["shared"], beams, axis=0)

        def step(carry, token_and_index):
            token, index = token_and_index
            real = index < lengths
            previous = jnp.where(real, carry["last"], carry["previous"])
            last = jnp.where(real, token, carry["last"])
            position = carry["position"] + real
            logits = self.by_pair[previous, last] + self.by_position[position] + shared
            if self.spoil is not None:
                spoilt = (position > self.spoil_from) & (shared[:, 4] > 0)
                logits = jnp.where(spoilt[:, None], self.spoil, logits)
            return {**carry, "previous": previous, "last": last, "position": position}, logits

        steps = (tokens.T, jnp.arange(tokens.shape[1]))
        state, hidden = jax.lax.scan(step, state, steps)
        return DecodeOutput(jnp.swapaxes(hidden, 0, 1)), state

    def output_logits(self, hidden, vocab_ids=None):
        return hidden if vocab_ids is None else hidden[..., vocab_ids]

    def reorder(self, state, parents):
        rows = (parents + jnp.arange(parents.shape[0])[:, None] * parents.shape[1]).reshape(-1)
        return {name: x if name == "shared" else x[rows] for name, x in state.items()}


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
