"""A vocabulary cut to the tokens that a batch's sources suggest, so that output layers cost less.

On the host, `Shortlist` gathers the candidates of a batch. In the program, `ShortlistedModel` is a
model of a small vocabulary to the search: its token i is candidate i. Each sentence may use its own
candidates alone, so that its answer does not depend on its neighbours.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqgen.decoding.hypotheses import Hypotheses
from seqgen.models.base import Decodable, DecodeOutput
from seqgen.types import NUM_CONTROL_IDS, PAD_ID, Array, Encoded, PyTree, Sequences

_SMALLEST = 256


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Candidates:
    """The tokens that the answers of a batch may be made of.

    Attributes:
      ids: int32 [C], the control ids, then all others in ascending order, then PAD_ID.
      allowed: bool [B, C], those of each sentence itself.
    """

    ids: Array
    allowed: Array


@dataclasses.dataclass(frozen=True, eq=False)
class Shortlist:
    """Which target tokens a source token suggests; numpy alone.

    Attributes:
      table: int32 [source vocabulary, N] target ids; PAD_ID stands for none.
      always: int32 [F] target ids that every sentence may use, beside the control ids.
      vocab_size: V of the target.
    """

    table: np.ndarray
    always: np.ndarray
    vocab_size: int

    def candidates(self, source: Sequences) -> Candidates:
        """What the tokens of B sentences suggest; C is one of `candidate_sizes`."""
        rows = len(source.ids)
        suggested = self.table[np.where(source.segments > 0, source.ids, PAD_ID)].reshape(rows, -1)
        wanted = np.zeros(self.vocab_size, bool)
        wanted[:NUM_CONTROL_IDS] = True
        wanted[self.always] = True
        always = np.flatnonzero(wanted)
        wanted[suggested] = True
        found = np.flatnonzero(wanted)
        place = np.cumsum(wanted) - 1
        size = next(n for n in candidate_sizes(self.vocab_size) if n >= len(found))
        ids = np.full(size, PAD_ID, np.int32)
        ids[: len(found)] = found
        allowed = np.zeros((rows, size), bool)
        allowed[:, place[always]] = True
        allowed[np.arange(rows)[:, None], place[suggested]] = True
        return Candidates(ids, allowed)


def candidate_sizes(vocab_size: int) -> tuple[int, ...]:
    """The sizes that candidates are padded to: 256, 384, 512, 768, 1024, ... and V itself."""
    sizes = []
    size = _SMALLEST
    while size < vocab_size:
        sizes += [size, size + size // 2]
        size *= 2
    return (*(n for n in sizes if n < vocab_size), vocab_size)


class ShortlistedModel:
    """A `Decodable` whose vocabulary is the candidates of a batch.

    Control ids are what they are in the whole vocabulary. The columns of the output layer are
    gathered here, once. A sentence's logits are -inf for all but its own candidates, so its
    log-probabilities are normalised over these. Hidden states ARE the logits [R, T, C].
    """

    def __init__(self, model: Decodable, candidates: Candidates):
        """Args: candidates: of the B sentences that will be encoded."""
        self._model, self._candidates = model, candidates
        self._columns = model.output_columns(candidates.ids)

    def encode(self, source: Sequences, *, key: Any = None) -> Encoded:
        return self._model.encode(source, key=key)

    def init_decode(
        self, encoded: Encoded, *, max_len: int, num_beams: int = 1, rewindable: bool = False
    ) -> PyTree:
        state = self._model.init_decode(
            encoded, max_len=max_len, num_beams=num_beams, rewindable=rewindable
        )
        return {"allowed": self._candidates.allowed, "model": state}

    def extend(self, state: PyTree, tokens: Array, lengths: Array) -> tuple[DecodeOutput, PyTree]:
        tokens = self._candidates.ids[tokens]
        output, model = self._model.extend(state["model"], tokens, lengths)
        num_beams = len(tokens) // len(state["allowed"])
        allowed = jnp.repeat(state["allowed"], num_beams, axis=0)[:, None]
        logits = self._model.output_logits(output.hidden, self._columns, allowed)
        return DecodeOutput(logits, output.attention), {**state, "model": model}

    def output_columns(self, vocab_ids: Array) -> PyTree:
        return vocab_ids

    def output_logits(
        self, hidden: Array, columns: PyTree = None, allowed: Array | None = None
    ) -> Array:
        logits = hidden if columns is None else hidden[..., columns]
        return logits if allowed is None else jnp.where(allowed, logits, -jnp.inf)

    def compared_states(self, hidden: Array) -> Array:
        return hidden  # logits: `search` compares no states among candidates

    def reorder(self, state: PyTree, parents: Array) -> PyTree:
        return {**state, "model": self._model.reorder(state["model"], parents)}

    def select(self, state: PyTree, rows: Array) -> PyTree:
        model = self._model.select(state["model"], rows)
        return {"allowed": state["allowed"][rows], "model": model}

    def rewind(self, state: PyTree, lengths: Array) -> PyTree:
        return {**state, "model": self._model.rewind(state["model"], lengths)}

    def in_whole_vocabulary(self, found: Hypotheses) -> Hypotheses:
        """What a search of this model found, as ids of the whole vocabulary."""
        return dataclasses.replace(found, ids=self._candidates.ids[found.ids])
