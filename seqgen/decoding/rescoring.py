"""Teacher-forced log-probabilities of given targets, by the same contract that search uses."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from seqgen.models.base import Decodable
from seqgen.types import BOS_ID, PAD_ID, Array, PyTree, Sequences

_CHUNK_LEN = 8


def target_log_probs(
    model: Decodable,
    source: Sequences,
    labels: Array,
    lengths: Array,
    *,
    first_ids: Array | None = None,
) -> Array:
    """Log-probability of each label given the source and the labels before it.

    Their sum over a row is the `log_probs` that a search returns for that row.

    Args:
      model: a bound model.
      source: B sentences, one a row.
      labels: int32 [B, T]; target ids, as a rule ending with EOS_ID.
      lengths: int32 [B], how many labels of a row are real.
      first_ids: int32 [B], what is read before the first label; by default BOS_ID.

    Returns:
      float32 [B, T]; 0 beyond `lengths`.
    """

    def chosen(logits: Array, labels: Array) -> Array:
        return log_probs_of(labels[..., None], logits)[..., 0]

    log_probs = _read_logits(model, source, labels, lengths, first_ids, chosen)
    return jnp.where(jnp.arange(labels.shape[1]) < lengths[:, None], log_probs, 0.0)


def target_choices(
    model: Decodable,
    source: Sequences,
    labels: Array,
    lengths: Array,
    *,
    top_k: int,
    first_ids: Array | None = None,
) -> tuple[Array, Array, Array]:
    """`target_log_probs`, and the `top_k` likeliest tokens in each label's place.

    Args: as of `target_log_probs`.

    Returns:
      float32 [B, T] log-probabilities of the labels, float32 [B, T, top_k] those of the likeliest
      tokens that may come, likeliest first, int32 [B, T, top_k] their ids; any numbers beyond
      `lengths`.
    """

    def choices(logits: Array, labels: Array) -> tuple[Array, Array, Array]:
        possible = logits.at[..., jnp.array([PAD_ID, BOS_ID])].set(-jnp.inf)
        _, best = jax.lax.top_k(possible, top_k)
        ids = jnp.concatenate([labels[..., None], best], axis=-1)
        log_probs = log_probs_of(ids, logits)
        return log_probs[..., 0], log_probs[..., 1:], best

    return _read_logits(model, source, labels, lengths, first_ids, choices)


def log_probs_of(ids: Array, logits: Array) -> Array:
    """Log-probabilities [..., n] of `ids` [..., n] under `logits` [..., V]."""
    chosen = jnp.take_along_axis(logits, ids, axis=-1)
    return chosen - jax.nn.logsumexp(logits, axis=-1, keepdims=True)


def _read_logits(
    model: Decodable,
    source: Sequences,
    labels: Array,
    lengths: Array,
    first_ids: Array | None,
    read: Callable[[Array, Array], PyTree],
) -> PyTree:
    """What `read` makes of float32 logits [C, B, V] and labels [C, B] of a chunk: [B, T, ...].

    Logits are those in front of each label, given the source and the labels before it.
    """
    batch, width = labels.shape
    state = model.init_decode(model.encode(source), max_len=width)
    start = jnp.full((batch, 1), BOS_ID, labels.dtype)
    if first_ids is not None:
        start = first_ids[:, None].astype(labels.dtype)
    output, _ = model.extend(state, jnp.concatenate([start, labels[:, :-1]], axis=1), lengths)

    def read_chunk(hidden_TBD: Array, labels_TB: Array) -> PyTree:
        return read(model.output_logits(hidden_TBD).astype(jnp.float32), labels_TB)

    return map_chunks(read_chunk, output.hidden, labels)


def map_chunks(read: Callable[..., PyTree], *arrays: Array, chunk_len: int = _CHUNK_LEN) -> PyTree:
    """What `read` makes of a few positions at a time, so that logits are held of these alone.

    Args:
      read: arrays [chunk_len, B, ...] to arrays [chunk_len, B, ...]; each position by itself.
      arrays: [B, T, ...]; behind T, `read` is given zeros.
      chunk_len: positions at a time.

    Returns:
      Arrays [B, T, ...].
    """
    width = arrays[0].shape[1]

    def chunked(x: Array) -> Array:
        x = jnp.pad(x, ((0, 0), (0, -width % chunk_len)) + ((0, 0),) * (x.ndim - 2))
        x = jnp.swapaxes(x, 0, 1)
        return x.reshape(-1, chunk_len, *x.shape[1:])

    def whole(x: Array) -> Array:
        return jnp.swapaxes(x.reshape(-1, *x.shape[2:]), 0, 1)[:, :width]

    mapped = jax.lax.map(lambda chunk: read(*chunk), tuple(map(chunked, arrays)))
    return jax.tree.map(whole, mapped)
