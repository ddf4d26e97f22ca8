"""Teacher-forced log-probabilities of given targets, by the same contract that search uses."""

import jax
import jax.numpy as jnp

from seqgen.models.base import Decodable
from seqgen.types import BOS_ID, Array, Sequences


def target_log_probs(
    model: Decodable,
    source: Sequences,
    labels: Array,
    lengths: Array,
    *,
    first_ids: Array | None = None,
    chunk_len: int = 8,
) -> Array:
    """Log-probability of each label given the source and the labels before it.

    Their sum over a row is the `log_probs` that a search returns for that row.

    Args:
      model: a bound model.
      source: B sentences, one a row.
      labels: int32 [B, T]; target ids, as a rule ending with EOS_ID.
      lengths: int32 [B], how many labels of a row are real.
      first_ids: int32 [B], what is read before the first label; by default BOS_ID.
      chunk_len: positions whose [B, chunk_len, V] logits are held at once.

    Returns:
      float32 [B, T]; 0 beyond `lengths`.
    """
    batch, width = labels.shape
    state = model.init_decode(model.encode(source), max_len=width)
    start = jnp.full((batch, 1), BOS_ID, labels.dtype)
    if first_ids is not None:
        start = first_ids[:, None].astype(labels.dtype)
    output, _ = model.extend(state, jnp.concatenate([start, labels[:, :-1]], axis=1), lengths)
    padding = -width % chunk_len
    hidden = jnp.pad(output.hidden, ((0, 0), (0, padding), (0, 0)))
    targets = jnp.pad(labels, ((0, 0), (0, padding)))

    def chunk(chunk: tuple[Array, Array]) -> Array:
        hidden_TBD, labels_TB = chunk
        logits = model.output_logits(hidden_TBD).astype(jnp.float32)
        chosen = jnp.take_along_axis(logits, labels_TB[..., None], axis=-1)[..., 0]
        return chosen - jax.nn.logsumexp(logits, axis=-1)

    def chunked(x: Array) -> Array:
        x = jnp.swapaxes(x, 0, 1)
        return x.reshape(-1, chunk_len, *x.shape[1:])

    log_probs = jax.lax.map(chunk, (chunked(hidden), chunked(targets)))
    log_probs = jnp.swapaxes(log_probs.reshape(-1, batch), 0, 1)[:, :width]
    return jnp.where(jnp.arange(width) < lengths[:, None], log_probs, 0.0)
