"""Cross-entropy over a vocabulary that never holds the [tokens, vocabulary] logits.

Target positions are worked off in chunks, and the gradients of a chunk are formed while its logits
are at hand, in the forward pass: the logits are computed once and forgotten. Label smoothing:
Szegedy et al. 2016, epsilon / V on every class. z-loss: Chowdhery et al. 2022 (PaLM), section 5.

Where the mesh in force cuts the vocabulary, every device works on its own rows and classes, and
only maxima, sums and label logits of the classes travel (Shoeybi et al. 2019, "Megatron-LM",
section 3): neither the logits of a row nor the table are ever put together.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P

from seqgen.nn.dense import dot, row_major
from seqgen.nn.vocabulary_cut import VocabularyCut
from seqgen.types import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class VocabularyLoss:
    """Float32 scalar SUMS over target tokens; only `loss` carries a gradient.

    Attributes:
      loss: label-smoothed cross-entropy in nats, with the z-loss.
      nll: cross-entropy without smoothing and z-loss, in nats.
      correct: tokens whose label has the largest logit.
      weight: sum of the weights.
    """

    loss: Array
    nll: Array
    correct: Array
    weight: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Mixture:
    """A second way to each label beside the softmax p over the vocabulary, such as copying.

    A label's probability is `exp(log_share) * p(label) + exp(log_other)` (See et al. 2017, "Get to
    the point: summarization with pointer-generator networks", equation 9). Both carry gradients.

    Attributes:
      log_share: float32 [B, T], the share of the softmax.
      log_other: float32 [B, T], of the label by the second way, the share of that included.
      log_rival: float32 [B, T], of the likeliest token by the second way, its share included.
    """

    log_share: Array
    log_other: Array
    log_rival: Array


@dataclasses.dataclass(frozen=True)
class _Options:
    label_smoothing: float
    z_loss: float
    compute_dtype: str
    chunk_tokens: int
    cut: VocabularyCut


def vocabulary_loss(
    hidden: Array,
    kernel: Array,
    bias: Array | None,
    labels: Array,
    weights: Array,
    *,
    mixture: Mixture | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    compute_dtype: str = "float32",
    chunk_tokens: int = 512,
) -> VocabularyLoss:
    """Cross-entropy of `hidden @ kernel.T + bias` against `labels`.

    Under a mesh in force (`seqgen.nn.partitioning.axis_rules`) that cuts 'vocab', the kernel and
    its gradient lie cut over their classes. A vocabulary that the mesh axes do not divide stays
    whole, as its table does.

    Args:
      hidden: float32 [B, T, D].
      kernel: float32 [V, D].
      bias: float32 [V] or None.
      labels: int32 [B, T].
      weights: float32 [B, T], 0 where a position does not count.
      mixture: a second way to the labels, or None. It is needed at the labels alone, so the logits
        are met once as without it. `correct` then counts labels that are likelier than the
        likeliest token of each way is by that way: an upper bound, exact unless another token
        leads by the sum of both.
      label_smoothing: epsilon in [0, 1): the label's target is `1 - epsilon + epsilon / V`; of a
        mixture, epsilon / V of every class by the softmax and the rest of the label by both ways.
      z_loss: coefficient of the squared log-normaliser that every token adds to `loss`; it draws
        the logits to a scale at which the normaliser is 1 (PaLM: 1e-4).
      compute_dtype: precision of the products ('float32' or 'bfloat16' operands).
      chunk_tokens: about how many positions' logits exist at once; chunks are cut along T, so that
        rows stay on their devices, and hold one position of every row at least.
    """
    batch, length = labels.shape
    cut = VocabularyCut.of(batch, length, kernel.shape[0])
    chunk_tokens = max(1, chunk_tokens // cut.num_row_parts)
    options = _Options(float(label_smoothing), float(z_loss), compute_dtype, chunk_tokens, cut)
    return _loss(hidden, kernel, bias, labels, weights, mixture, options)


def _chunks(x: Array, num_chunks: int, width: int) -> Array:
    """[B, T, ...] -> [num_chunks, B * width, ...], padded with zeros along T."""
    fill = num_chunks * width - x.shape[1]
    x = jnp.pad(x, [(0, 0), (0, fill)] + [(0, 0)] * (x.ndim - 2))
    x = x.reshape(x.shape[0], num_chunks, width, *x.shape[2:]).swapaxes(0, 1)
    return x.reshape(num_chunks, -1, *x.shape[3:])


def _unchunk(x: Array, batch: int, length: int) -> Array:
    """The inverse of `_chunks`."""
    x = x.reshape(x.shape[0], batch, -1, *x.shape[2:]).swapaxes(0, 1)
    return x.reshape(batch, -1, *x.shape[3:])[:, :length]


def _run(
    hidden: Array,
    kernel: Array,
    bias: Array | None,
    labels: Array,
    weights: Array,
    mixture: Mixture | None,
    options: _Options,
    *,
    with_gradients: bool,
) -> tuple[VocabularyLoss, Any]:
    """The loss and its gradients; where the work is cut, of one device's rows and classes."""
    cut = options.cut
    batch, length, _ = hidden.shape
    vocab_size = kernel.shape[0] * cut.num_class_parts
    width = max(1, min(length, -(-options.chunk_tokens // batch)))
    num_chunks = -(-length // width)
    width = -(-length // num_chunks)
    epsilon, floor = options.label_smoothing, options.label_smoothing / vocab_size
    product = partial(dot, compute_dtype=options.compute_dtype)
    table = kernel.astype(options.compute_dtype)
    # The mean logit needs no pass over the logits: it is the product with the mean row.
    mean_row = cut.over_classes(lax.pmean, table.astype(jnp.float32).mean(0))
    mean_bias = 0.0 if bias is None else cut.over_classes(lax.pmean, bias.mean())

    def one_chunk(carry: Any, chunk: Any) -> Any:
        sums, d_table, d_bias = carry
        rows, labels, weights, mixture = chunk
        labels = cut.own_labels(labels, kernel.shape[0])
        rows = rows.astype(options.compute_dtype)
        logits = product(rows, table, ((1,), (1,)))
        if bias is not None:
            logits = logits + bias
        largest = cut.over_classes(lax.pmax, logits.max(-1))
        total = cut.over_classes(lax.psum, jnp.exp(logits - largest[:, None]).sum(-1))
        log_normalizer = jnp.log(total) + largest
        label_logits = cut.label_logits(logits, labels)
        mean_logits = (rows.astype(jnp.float32) * mean_row).sum(-1) + mean_bias
        nll = log_normalizer - label_logits
        smoothed = log_normalizer - (1 - epsilon) * label_logits - epsilon * mean_logits
        if options.z_loss:
            smoothed = smoothed + options.z_loss * jnp.square(log_normalizer)
        correct = label_logits >= largest
        pull: Any = 1 - epsilon  # of the label in the loss, as far as it is the softmax's
        if mixture is not None:
            generated = mixture.log_share - nll
            both_ways = -jnp.logaddexp(generated, mixture.log_other)
            share = jnp.exp(generated + both_ways)
            other = jnp.exp(mixture.log_other + both_ways)
            smoothed, nll = smoothed + (1 - epsilon) * (both_ways - nll), both_ways
            leading = jnp.maximum(mixture.log_share + largest - log_normalizer, mixture.log_rival)
            correct = both_ways <= 1e-5 - leading
            pull = ((1 - epsilon) * share)[:, None]
        correct = correct.astype(jnp.float32)
        sums = sums + jnp.stack([(smoothed * weights).sum(), (nll * weights).sum(),
                                 (correct * weights).sum()])  # fmt: skip
        if not with_gradients:
            return (sums, d_table, d_bias), None
        is_label = lax.broadcasted_iota(jnp.int32, logits.shape, 1) == labels[:, None]
        probabilities = jnp.exp(logits - log_normalizer[:, None])
        push: Any = 1 if mixture is None else pull + epsilon
        if options.z_loss:
            push += 2 * options.z_loss * log_normalizer[:, None]
        if mixture is not None or options.z_loss:
            probabilities *= push
        d_logits = probabilities - jnp.where(is_label, pull + floor, floor)
        d_logits = (d_logits * weights[:, None]).astype(options.compute_dtype)
        # Formed as [D, V]: only the small operand is transposed in memory, which halves the time.
        d_table += product(row_major(rows.T), d_logits, ((1,), (0,)))
        if bias is not None:
            d_bias += d_logits.sum(0, dtype=jnp.float32)
        d_rows, d_mixture = product(d_logits, table, ((1,), (0,))), None
        if mixture is not None:
            d_share = -pull[:, 0] * weights
            d_other = -(1 - epsilon) * weights * other
            d_mixture = Mixture(d_share, d_other, jnp.zeros_like(weights))
        return (sums, d_table, d_bias), (d_rows, d_mixture)

    given = (hidden, labels, weights, mixture)
    chunks = jax.tree.map(lambda x: _chunks(x, num_chunks, width), given)
    zeros = jnp.zeros((3,), jnp.float32)
    d_table = jnp.zeros(kernel.shape[::-1], jnp.float32) if with_gradients else None
    d_bias = jnp.zeros_like(bias) if with_gradients and bias is not None else None
    (sums, d_table, d_bias), by_token = lax.scan(one_chunk, (zeros, d_table, d_bias), chunks)
    result = cut.sum_rows(VocabularyLoss(sums[0], sums[1], sums[2], weights.sum()))
    if not with_gradients:
        return result, None
    assert d_table is not None
    d_rows, d_mixture = jax.tree.map(lambda x: _unchunk(x, batch, length), by_token)
    d_hidden = cut.over_classes(lax.psum, d_rows)
    d_table, d_bias = cut.sum_rows((d_table, d_bias))
    return result, (d_hidden, d_table.T, d_bias, d_mixture)


def _place(*arrays: Any, options: _Options, with_gradients: bool) -> tuple[VocabularyLoss, Any]:
    """`_run` on its arrays, once on every device where the work is cut."""
    run = partial(_run, options=options, with_gradients=with_gradients)
    cut = options.cut
    if cut.mesh is not None:
        rows, table, classes = P(*cut.rows, None), P(cut.classes, None), P(cut.classes)
        run = jax.shard_map(
            run,
            mesh=cut.mesh,
            in_specs=(rows, table, classes, cut.rows, cut.rows, cut.rows),
            out_specs=(P(), (rows, table, classes, cut.rows) if with_gradients else None),
            check_vma=False,
        )
    return run(*arrays)


@partial(jax.custom_vjp, nondiff_argnums=(6,))
def _loss(
    hidden: Array,
    kernel: Array,
    bias: Array | None,
    labels: Array,
    weights: Array,
    mixture: Mixture | None,
    options: _Options,
) -> VocabularyLoss:
    arrays = (hidden, kernel, bias, labels, weights, mixture)
    return _place(*arrays, options=options, with_gradients=False)[0]


def _loss_forward(*arguments: Any) -> Any:
    *arrays, options = arguments
    return _place(*arrays, options=options, with_gradients=True)


def _loss_backward(options: _Options, gradients: Any, cotangent: VocabularyLoss) -> Any:
    scaled = jax.tree.map(lambda g: g * cotangent.loss, gradients)
    d_hidden, d_kernel, d_bias, d_mixture = scaled
    return d_hidden, d_kernel, d_bias, None, None, d_mixture


_loss.defvjp(_loss_forward, _loss_backward)


def sequence_log_probs(
    hidden: Array,
    kernel: Array,
    bias: Array | None,
    labels: Array,
    *,
    compute_dtype: str = "float32",
    chunk_tokens: int = 512,
) -> Array:
    """Log-probability of each label, float32 [B, T] in nats; arguments as `vocabulary_loss`."""
    batch, length, _ = hidden.shape
    width = max(1, min(length, -(-chunk_tokens // batch)))
    num_chunks = -(-length // width)

    def one_chunk(_: None, chunk: Any) -> Any:
        rows, labels = chunk
        logits = dot(rows, kernel, ((1,), (1,)), compute_dtype=compute_dtype)
        if bias is not None:
            logits = logits + bias
        label_logits = jnp.take_along_axis(logits, labels[:, None], axis=-1)[:, 0]
        return None, label_logits - jax.nn.logsumexp(logits, axis=-1)

    chunks = tuple(_chunks(x, num_chunks, width) for x in (hidden, labels))
    return _unchunk(lax.scan(one_chunk, None, chunks)[1], batch, length)
