"""A small model and an endless stream of small batches, both pure functions of numbers."""

import dataclasses
import hashlib

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from seqgen.nn.dense import dense
from seqgen.nn.dropout import dropout, fold
from seqgen.nn.parameters import Definition, param
from seqgen.types import BOS_ID, EOS_ID, Batch, Sequences

VOCAB, DIM = 24, 16


class Toy(nnx.Module):
    """Bag of source words + position-wise layer; enough to have every kind of parameter."""

    def __init__(self, *, compute_dtype: str, dropout_rate: float, rngs: nnx.Rngs):
        draw = jax.nn.initializers.normal(0.1)
        self.table = param(draw(rngs.params(), (VOCAB, DIM)), ("vocab", "embed"))
        self.kernel = param(draw(rngs.params(), (DIM, 2 * DIM)), ("embed", "mlp"))
        self.bias = param(jnp.zeros(2 * DIM), ("mlp",))
        self.output = param(draw(rngs.params(), (2 * DIM, DIM)), ("mlp", "embed"))
        self.compute_dtype = compute_dtype
        self.dropout_rate = dropout_rate

    def __call__(self, batch: Batch, *, key=None):
        seen = (batch.source.segments > 0)[..., None]
        bag = jnp.sum(self.table[...][batch.source.ids] * seen, axis=1, keepdims=True)
        hidden = self.table[...][batch.target.ids] + bag
        inner = dense(hidden, self.kernel[...], self.bias[...], compute_dtype=self.compute_dtype)
        inner = dropout(jax.nn.relu(inner), self.dropout_rate, fold(key, 1))
        return hidden + dense(inner, self.output[...], None, compute_dtype=self.compute_dtype)

    def output_kernel(self):
        return self.table[...], None


def toy_definition(*, dropout_rate: float = 0.1, compute_dtype: str = "float32") -> Definition:
    return Definition(
        lambda rngs: Toy(compute_dtype=compute_dtype, dropout_rate=dropout_rate, rngs=rngs)
    )


@dataclasses.dataclass(frozen=True)
class Facts:
    digest: str
    tokens: int
    pad_fraction: float


def sequences(ids: np.ndarray, lengths: np.ndarray) -> Sequences:
    places = np.arange(ids.shape[1], dtype=np.int32)[None, :]
    real = (places < lengths[:, None]).astype(np.int32)
    return Sequences(ids=(ids * real).astype(np.int32), segments=real, positions=places * real)


def toy_batch(index: int, *, rows: int = 8, length: int = 6) -> Batch:
    """Copy a source of random length; the batch is a function of `index`."""
    random = np.random.default_rng(index)
    lengths = random.integers(1, length, rows)
    words = random.integers(4, VOCAB, (rows, length))
    labels = np.where(np.arange(length)[None] < lengths[:, None], words, EOS_ID)
    target = np.concatenate([np.full((rows, 1), BOS_ID), words[:, :-1]], axis=1)
    source = sequences(labels, lengths + 1)
    return Batch(
        source=source,
        target=sequences(target, lengths + 1),
        labels=source.ids,
        weights=source.segments.astype(np.float32),
    )


def toy_facts(batch: Batch) -> Facts:
    weights = np.asarray(batch.weights)
    digest = hashlib.sha256(np.asarray(batch.labels).tobytes()).hexdigest()[:16]
    return Facts(digest, int(weights.sum()), float(1 - weights.mean()))


def toy_batches(start: int, *, lengths: tuple[int, ...] = (6,)):
    index = start
    while True:
        batch = toy_batch(index, length=lengths[index % len(lengths)])
        yield batch, toy_facts(batch)
        index += 1
