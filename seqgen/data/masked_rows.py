"""Rows of text with hidden tokens, put into arrays for masked language models."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from seqgen.data.batching import Shape, empty_sequences
from seqgen.data.config import DataConfig
from seqgen.data.control_tokens import ControlTokenizer
from seqgen.data.masking import MaskedRow, MaskRules, mask_tokens
from seqgen.data.word_starts import starts_of_words
from seqgen.types import BOS_ID, MaskedBatch


@dataclasses.dataclass(frozen=True)
class PairText:
    """A row with its control tokens.

    Attributes:
      ids: int32 [T].
      types: int32 [T], 0 in its first text, 1 in its second.
      label: 0 = the second text follows the first, 1 = it does not, None = there is one text.
    """

    ids: np.ndarray
    types: np.ndarray
    label: int | None


class MaskedRows:
    """Hides tokens by the rules of `cfg.objective`.

    Attributes:
      max_places: most tokens that are hidden in a row.
    """

    def __init__(self, cfg: DataConfig, tokenizer: ControlTokenizer):
        rules = cfg.objective
        mask_id = tokenizer.mark_ids[0]
        self._rules = MaskRules(
            vocab_size=mask_id, mask_id=mask_id, unit=rules.unit, rate=rules.rate
        )
        self._line_end_id = tokenizer.line_end_id
        self._starts = None if rules.unit == "token" else tokenizer.word_starts
        self.max_places = max(1, round(rules.rate * (cfg.block_len - 2)))

    def hide(self, row: PairText, *, key: tuple[int, ...]) -> tuple[PairText, MaskedRow]:
        """The row, and what was hidden in it; `key` decides alone."""
        starts = self._starts
        if starts is not None:
            starts = starts_of_words(row.ids, starts, line_end_id=self._line_end_id)
        return row, mask_tokens(row.ids, self._rules, key=key, word_starts=starts)


def assemble_masked(
    rows: Sequence[tuple[PairText, MaskedRow]], shape: Shape, *, max_places: int
) -> MaskedBatch:
    """A numpy batch; unused rows hold one BOS of weight 0, so that no mask of them is empty.

    Pairs weigh as much as the hidden tokens of the batch, all alike (see `MaskedBatch`).
    """
    num_rows, length, _ = shape
    text = empty_sequences(num_rows, length)
    token_types = np.zeros((num_rows, length), np.int32)
    positions, labels = (np.zeros((num_rows, max_places), np.int32) for _ in range(2))
    weights = np.zeros((num_rows, max_places), np.float32)
    next_labels = np.zeros(num_rows, np.int32)
    is_pair = np.zeros(num_rows, np.float32)
    ids, segments, within = (np.asarray(part) for part in (text.ids, text.segments, text.positions))
    for at, (row, hidden) in enumerate(rows):
        size, places = len(row.ids), len(hidden.positions)
        ids[at, :size], segments[at, :size], within[at, :size] = hidden.ids, 1, np.arange(size)
        token_types[at, :size] = row.types
        positions[at, :places], labels[at, :places] = hidden.positions, hidden.labels
        weights[at, :places] = 1.0
        next_labels[at], is_pair[at] = row.label or 0, row.label is not None
    ids[len(rows) :, 0], segments[len(rows) :, 0] = BOS_ID, 1
    return MaskedBatch(
        text=text,
        token_types=token_types,
        masked_positions=positions,
        labels=labels,
        weights=weights,
        next_labels=next_labels,
        next_weights=is_pair * weights.sum(dtype=np.float32) / max(1.0, float(is_pair.sum())),
    )
