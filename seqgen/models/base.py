"""The contracts between encoders, decoders, the loss and the search."""

import dataclasses
from typing import Any, Protocol

import jax

from seqgen.losses import Mixture
from seqgen.types import Array, Batch, Encoded, PyTree, Sequences


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DecodeOutput:
    """What `extend` gives for T new tokens.

    Attributes:
      hidden: [R, T, D] states ready for `output_logits` (wider where the model copies).
      attention: [R, T, S] weights over the source (heads averaged, last layer), or None.
    """

    hidden: Array
    attention: Array | None = None


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A choice among V classes at T places of each row, with what it should have been.

    Attributes:
      hidden: [B, T, D] states ready for `kernel`.
      kernel: [V, D].
      bias: [V] or None.
      labels: int32 [B, T].
      weights: float32 [B, T], 0 where a place does not count.
      mixture: a second way to the labels (copying), or None.
      coverage: float32 [B, T], what is attended to once more (See et al. 2017, equation 12), for
        the training loss; or None.
    """

    hidden: Array
    kernel: Array
    bias: Array | None
    labels: Array
    weights: Array
    mixture: Mixture | None = None
    coverage: Array | None = None


class Encoder(Protocol):
    """Embedded source sequences to `Encoded`. `key=None` means evaluation: no dropout.

    Attributes:
      dims: `models.config.EncodedDims`, the widths of what it returns.
    """

    dims: Any

    def __call__(self, source: Sequences, *, embedded: Array, key: Any = None) -> Encoded:
        """`embedded` are the source's input embeddings [B, S, D], dropout applied."""
        ...


class Decoder(Protocol):
    """Teacher-forced pass and stepwise decoding over one set of parameters.

    Rows: R = B * K, row r of a state belongs to sentence r // K. Law: extending T times by one
    token equals extending once by T tokens equals the teacher-forced pass.
    """

    def __call__(
        self, target: Sequences, encoded: Encoded, *, embedded: Array, key: Any = None
    ) -> Array:
        """Hidden states [B, T, D]; `embedded` are the input embeddings [B, T, D].

        Without an encoder, `encoded` has a memory of no positions.
        """
        ...

    def init_decode(
        self, encoded: Encoded, *, max_len: int, num_beams: int = 1, rewindable: bool = False
    ) -> PyTree:
        """State before the first token. What beams share is stored once a sentence [B, ...].

        `rewindable` keeps what `rewind` needs; without it a recurrent state cannot go back.
        """
        ...

    def extend(self, state: PyTree, embedded: Array, lengths: Array) -> tuple[DecodeOutput, PyTree]:
        """Consume `embedded` [R, T, D], of which the first `lengths` [R] are real."""
        ...

    def reorder(self, state: PyTree, parents: Array) -> PyTree:
        """Beam k of sentence b continues beam `parents[b, k]` ([B, K] int32)."""
        ...

    def select(self, state: PyTree, rows: Array) -> PyTree:
        """Keep the sentences `rows` [B'] (int32), all their beams."""
        ...

    def rewind(self, state: PyTree, lengths: Array) -> PyTree:
        """Forget all but the first `lengths` [R] consumed tokens."""
        ...


class WeighingDecoder(Decoder, Protocol):
    """A decoder that tells what it attends to, in `extend` too: what is copied (`models.copying`).

    Its config has the fields `copy` and `coverage`.
    """

    def read_and_weigh(
        self, target: Sequences, encoded: Encoded, *, embedded: Array, key: Any = None
    ) -> tuple[Array, Array]:
        """Hidden states [B, T, D] as the call gives them, and weights [B, T, S] of the memory.

        The weights carry gradients. They sum to 1, and are 0 where the source is padding.
        """
        ...


class Decodable(Protocol):
    """What `seqgen.decoding` needs of a model, and all that it may use."""

    def encode(self, source: Sequences, *, key: Any = None) -> Encoded: ...

    def init_decode(
        self, encoded: Encoded, *, max_len: int, num_beams: int = 1, rewindable: bool = False
    ) -> PyTree: ...

    def extend(self, state: PyTree, tokens: Array, lengths: Array) -> tuple[DecodeOutput, PyTree]:
        """Consume token ids `tokens` [R, T] (first `lengths` [R] real; positions are per row)."""
        ...

    def output_columns(self, vocab_ids: Array) -> PyTree:
        """The part of the output layer that belongs to the tokens `vocab_ids` [C] (int32)."""
        ...

    def output_logits(
        self, hidden: Array, columns: PyTree = None, allowed: Array | None = None
    ) -> Array:
        """float32 logits of hidden states [..., D]: [..., V], or [..., C] of `output_columns`.

        Where `allowed` (bool, broadcast to them) is False they are -inf.
        """
        ...

    def compared_states(self, hidden: Array) -> Array:
        """Of hidden states [..., D] the part [..., E] whose likeness means something."""
        ...

    def reorder(self, state: PyTree, parents: Array) -> PyTree: ...

    def select(self, state: PyTree, rows: Array) -> PyTree: ...

    def rewind(self, state: PyTree, lengths: Array) -> PyTree: ...


class Trainable(Protocol):
    """What the training step needs of a model.

    One that predicts more than tokens has a method `predictions(batch, *, key=None)` beside it,
    which gives name -> `Prediction`, that of the tokens first; the sum of their losses is trained
    on, and the first one's weight divides it.
    """

    def __call__(self, batch: Batch, *, key: Any = None) -> Array:
        """Teacher-forced hidden states [B, T, D], ready for the output layer."""
        ...

    def output_kernel(self) -> tuple[Array, Array | None]:
        """The output layer as (kernel [V, D], bias [V] or None)."""
        ...


class Carrying(Trainable, Protocol):
    """What the training step needs of a model whose state goes on from batch to batch.

    Law: two batches in turn = one batch of their joint length, but for the gradient, which does not
    reach into the batch before.
    """

    def init_carry(self, num_rows: int) -> PyTree:
        """The state at the start of a stream: zeros [num_rows, ...], nested dicts."""
        ...

    def read_on(self, batch: Batch, carry: PyTree, *, key: Any = None) -> tuple[Array, PyTree]:
        """Hidden states [B, T, D] after `carry`, and the states after the last token.

        Padding stands only where a stream ends: the states behind it are of no use.
        """
        ...
