"""Text with hidden tokens in, their likeliest candidates out: masked language models.

A token is told from all tokens around it in one pass, as in training (Devlin et al. 2019, section
3.1). Several hidden tokens of a text are told apart from each other: each with the others hidden.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqgen.decoding.batching import pad_rows, plan_batches
from seqgen.decoding.config import DecodeConfig
from seqgen.decoding.id_tables import power_of_two
from seqgen.errors import DataError, labelled, refuse
from seqgen.refusals import refused
from seqgen.types import BOS_ID, EOS_ID, NUM_CONTROL_IDS, Array, Params, Sequences, Tokenizer

MARK = "[MASK]"
_WINDOW_BATCHES = 32
_ANCHOR = "\ufdd0"  # a noncharacter: no piece of a vocabulary holds it


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A token that may stand at a mark.

    Attributes:
      token: what it adds to the text, with the space before it where it begins a word.
      id: its id.
      probability: the model's, of this token among the whole vocabulary.
      text: the whole text with the token in the mark's place; other marks stay.
    """

    token: str
    id: int
    probability: float
    text: str


class Filler:
    """A trained masked language model with its tokenizer.

    Attributes:
      tokenizer: its first control id of its own (`mark_ids`) stands for a hidden token.
    """

    def __init__(
        self,
        definition: Any,
        params: Params,
        tokenizer: Tokenizer,
        config: DecodeConfig | None = None,
        *,
        max_len: int | None = None,
    ):
        """Binds the parts; nothing is compiled yet.

        Args:
          definition: gives a `MaskedLM` by `bind(params)`.
          params: nested dict of arrays.
          tokenizer: with `mark_ids` (`data.control_tokens`).
          config: `batch_size` and `batch_tokens`.
          max_len: most tokens of a row, BOS and EOS counted; None = any number.
        """
        self.definition = definition
        self.params = jax.device_put(params)
        self.tokenizer: Any = tokenizer
        self._config = config or DecodeConfig()
        self._max_len = max_len
        self._mask_id = self.tokenizer.mark_ids[0]
        self._program = jax.jit(
            functools.partial(_likeliest, definition, num_tokens=self._mask_id),
            static_argnames="top_k",
        )

    def fill(
        self, texts: Sequence[str], *, top_k: int = 5, mark: str = MARK
    ) -> list[list[list[Candidate]]]:
        """The `top_k` likeliest tokens at each mark of each text, likeliest first.

        Several marks of a text are filled apart from each other: each with the others hidden.

        Args:
          texts: each with at least one mark.
          top_k: candidates a mark; fewer where the vocabulary has fewer.
          mark: how a hidden token is written. A space before it belongs to the token, where the
            tokenizer's words carry the space before them.

        Raises:
          ConfigError: `top_k` is below 1, or `mark` is empty.
          DataError: a text has no mark, or more tokens than the model reads; its line is named.
        """
        return list(self.fill_stream(texts, top_k=top_k, mark=mark))

    def fill_stream(
        self, lines: Iterable[str], *, top_k: int = 5, mark: str = MARK
    ) -> Iterator[list[list[Candidate]]]:
        """`fill` for any number of lines, in order; they are read a window at a time.

        Raises:
          ConfigError: as `fill` does, at the call.
          DataError: as `fill` does, when the line's window is reached.
        """
        if top_k < 1:
            refuse(f"bad value for  top_k: {top_k!r}", ("it takes", "int, at least 1"))
        if not mark:
            refuse("an empty mark stands everywhere", ("the default", MARK))
        return self._stream(iter(lines), min(top_k, self._mask_id - NUM_CONTROL_IDS), mark)

    def _stream(
        self, lines: Iterator[str], top_k: int, mark: str
    ) -> Iterator[list[list[Candidate]]]:
        first = 0
        while window := list(itertools.islice(lines, _WINDOW_BATCHES * self._config.batch_size)):
            rows = [self._row(text, first + i, mark) for i, text in enumerate(window)]
            found: list[list[list[Candidate]]] = [[]] * len(window)
            for members in plan_batches([len(row) for row in rows], self._config):
                told = self._tell([rows[i] for i in members], top_k)
                for i, probabilities, ids in zip(members, *told):
                    found[i] = self._candidates(window[i].split(mark), mark, probabilities, ids)
            yield from found
            first += len(window)

    def _row(self, text: str, line: int, mark: str) -> list[int]:
        """Ids of a text between BOS and EOS.

        Raises:
          DataError: see `fill`.
        """
        parts = text.split(mark)
        if len(parts) == 1:
            raise DataError(
                f"line {line + 1} has no {mark}: there is nothing to fill",
                details=[labelled("the line", repr(text[:60])), labelled("marks are", mark)],
            )
        row = [BOS_ID]
        for place, part in enumerate(parts):
            last = place == len(parts) - 1
            row += self._cut(part if last else self._before(part), behind_mark=place > 0)
            row.append(EOS_ID if last else self._mask_id)
        if self._max_len is not None and len(row) > self._max_len:
            raise DataError(
                f"line {line + 1} has {len(row)} tokens, and the model reads {self._max_len}",
                details=["BOS, EOS and marks are counted: give less of the text around the marks"],
            )
        return row

    def _cut(self, text: str, *, behind_mark: bool) -> list[int]:
        """Ids of a part of a text that stands at its beginning, or behind a mark."""
        encode = self.tokenizer.encode
        if not behind_mark:
            return encode(text)
        # As it stands inside a line: many tokenizers put a space before what they are given.
        anchor, ids = self._anchor, encode(_ANCHOR + text)
        touching = text.partition(" ")[0]
        # Words that run from space to space are not parted from the anchor, and stand alone.
        swallowed = touching and encode(_ANCHOR + touching) == anchor
        apart = ids[: len(anchor)] == anchor and not swallowed
        return ids[len(anchor) :] if apart else encode(text)

    @functools.cached_property
    def _anchor(self) -> list[int]:
        return self.tokenizer.encode(_ANCHOR)

    def _before(self, text: str) -> str:
        """What is before a mark, without the space that the hidden token carries."""
        return text.removesuffix(" ") if self._words_carry_spaces else text

    @functools.cached_property
    def _words_carry_spaces(self) -> bool:
        spelt = map(self.tokenizer.piece_bytes, range(NUM_CONTROL_IDS, self._mask_id))
        return any(len(piece) > 1 and piece.startswith(b" ") for piece in spelt)

    def _tell(self, rows: list[list[int]], top_k: int) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities and ids [rows, P, k] at the marks of each row; P is that of most marks."""
        text = pad_rows(rows, self._config, limit=self._max_len)
        hidden = [np.flatnonzero(np.asarray(row) == self._mask_id) for row in rows]
        most = power_of_two(max(map(len, hidden)))
        places = np.zeros((text.ids.shape[0], most), np.int32)
        for row, found in enumerate(hidden):
            places[row, : len(found)] = found
        return jax.device_get(self._program(self.params, text, places, top_k=top_k))

    def _candidates(
        self, parts: list[str], mark: str, probabilities: np.ndarray, ids: np.ndarray
    ) -> list[list[Candidate]]:
        """Those of each mark between the `parts` of a text."""
        found = []
        for place in range(len(parts) - 1):
            before, after = mark.join(parts[: place + 1]), mark.join(parts[place + 1 :])
            found.append(
                [
                    self._candidate(int(i), float(p), before, after)
                    for i, p in zip(ids[place], probabilities[place])
                ]
            )
        return found

    def _candidate(self, token: int, probability: float, before: str, after: str) -> Candidate:
        spelt = self.tokenizer.piece_bytes(token).decode("utf-8", "replace")
        before = self._before(before)
        begins_line = not before or before.endswith("\n")
        shown = spelt.removeprefix(" ") if begins_line and self._words_carry_spaces else spelt
        return Candidate(spelt, token, probability, before + shown + after)

    generate = stream = stream_text = refused("filler", "generate")
    chat = chat_stream = refused("filler", "chat")
    score = token_scores = token_choices = refused("filler", "score")


def _likeliest(
    definition: Any, params: Params, text: Sequences, places: Array, *, top_k: int, num_tokens: int
) -> tuple[Array, Array]:
    """Probabilities and ids, [B, P, k], of the likeliest tokens at the columns `places` [B, P].

    Control ids, which are those below `NUM_CONTROL_IDS` and from `num_tokens` on, are no
    candidates; their probability is not given to the others.
    """
    model = definition.bind(params)
    memory = model.encode(text, jnp.zeros_like(text.ids)).memory
    logits = model.output_logits(model.token_states(memory, places)).astype(jnp.float32)
    probabilities = jax.nn.softmax(logits, axis=-1)[..., NUM_CONTROL_IDS:num_tokens]
    values, ids = jax.lax.top_k(probabilities, top_k)
    return values, ids + NUM_CONTROL_IDS
