"""Several models of one vocabulary as one: what they predict is averaged at every step."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from seqgen.models.base import Decodable, DecodeOutput
from seqgen.types import Array, Batch, Params, PyTree, Sequences

MEANS = ("probs", "log_probs")


def mean_log_probs(logits: Sequence[Array], *, mean: str) -> Array:
    """What several models say together, as float32 logits [..., V].

    Args:
      logits: float32 [..., V] of each model.
      mean: 'probs' is log(mean of p_i), the mixture of the models; 'log_probs' is mean(log p_i),
        their geometric mean, which is no distribution until it is normalised again, as every search
        does. One model that finds a token impossible forbids it to a geometric mean alone.
    """
    log_probs = jnp.stack([jax.nn.log_softmax(each, axis=-1) for each in logits])
    if mean == "log_probs":
        return jnp.mean(log_probs, axis=0)
    if mean == "probs":
        return jax.nn.logsumexp(log_probs, axis=0) - jnp.log(float(len(logits)))
    raise ValueError(f"mean {mean!r} is not one of {MEANS}")


class Ensemble:
    """A `Decodable` made of several, of any architecture.

    What it encodes and its decode state are tuples, one entry a member. Its hidden states are the
    members' side by side, [R, T, D1 + D2 + ...].
    """

    def __init__(self, members: Sequence[Any], *, mean: str):
        """Args: members: of one vocabulary. mean: see `mean_log_probs`."""
        self._members, self._mean = tuple(members), mean
        self._widths: tuple[int, ...] = ()  # of hidden states, known once there are any

    def __call__(self, batch: Batch, *, key: Any = None) -> Array:
        """Teacher-forced hidden states, where all members are `Trainable`."""
        return self._join([member(batch, key=key) for member in self._members])

    def encode(self, source: Sequences, *, key: Any = None) -> Any:
        return tuple(member.encode(source, key=key) for member in self._members)

    def init_decode(
        self, encoded: Any, *, max_len: int, num_beams: int = 1, rewindable: bool = False
    ) -> PyTree:
        options = {"max_len": max_len, "num_beams": num_beams, "rewindable": rewindable}
        return self._each("init_decode", encoded, **options)

    def extend(self, state: PyTree, tokens: Array, lengths: Array) -> tuple[DecodeOutput, PyTree]:
        """Attention weights are the mean over the members that have some."""
        outputs, states = zip(*self._each("extend", state, tokens, lengths), strict=True)
        attention = [output.attention for output in outputs if output.attention is not None]
        mean = sum(attention) / len(attention) if attention else None
        return DecodeOutput(self._join([output.hidden for output in outputs]), mean), states

    def output_columns(self, vocab_ids: Array) -> PyTree:
        return tuple(member.output_columns(vocab_ids) for member in self._members)

    def output_logits(
        self, hidden: Array, columns: PyTree = None, allowed: Array | None = None
    ) -> Array:
        columns = columns or (None,) * len(self._members)
        parts = zip(self._members, self._split(hidden), columns, strict=True)
        logits = [member.output_logits(part, cut, allowed) for member, part, cut in parts]
        return mean_log_probs(logits, mean=self._mean)

    def compared_states(self, hidden: Array) -> Array:
        parts = zip(self._members, self._split(hidden), strict=True)
        return jnp.concatenate([m.compared_states(part) for m, part in parts], axis=-1)

    def reorder(self, state: PyTree, parents: Array) -> PyTree:
        return self._each("reorder", state, parents)

    def select(self, state: PyTree, rows: Array) -> PyTree:
        return self._each("select", state, rows)

    def rewind(self, state: PyTree, lengths: Array) -> PyTree:
        return self._each("rewind", state, lengths)

    def _each(self, method: str, parts: Any, *args: Any, **options: Any) -> tuple[Any, ...]:
        """What each member's `method` makes of its own part."""
        pairs = zip(self._members, parts, strict=True)
        return tuple(getattr(member, method)(part, *args, **options) for member, part in pairs)

    def _split(self, hidden: Array) -> list[Array]:
        return jnp.split(hidden, list(itertools.accumulate(self._widths))[:-1], axis=-1)

    def _join(self, hidden: Sequence[Array]) -> Array:
        self._widths = tuple(part.shape[-1] for part in hidden)
        return jnp.concatenate(hidden, axis=-1)


@dataclasses.dataclass(frozen=True)
class EnsembleDefinition:
    """A model made of several, without its numbers.

    Attributes:
      members: what gives each member by `bind(params)`.
      mean: see `mean_log_probs`.
    """

    members: tuple[Any, ...]
    mean: str

    def bind(self, params: Params) -> Decodable:
        """The ensemble holding `params`, a dict of the members' by their number ('0', '1', ...)."""
        return Ensemble(
            [member.bind(params[str(i)]) for i, member in enumerate(self.members)], mean=self.mean
        )
