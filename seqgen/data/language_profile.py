"""Which of two languages a line is in, by its letters: byte trigrams, learnt from the corpus.

After Cavnar & Trenkle, "N-Gram-Based Text Categorization" (1994), with log-likelihood ratios in
place of ranks. Works on UTF-8 bytes, so any script will do, and on whole blocks of lines at once.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

TABLE_BITS = 16
SCORED_BYTES = 600  # a line's beginning is enough, and bounds the work


@dataclasses.dataclass(frozen=True)
class LanguageProfile:
    """How much likelier each trigram is on the source side than on the target side.

    Attributes:
      log_ratio: float32 [2 ** TABLE_BITS], log P(trigram | source) - log P(trigram | target).
    """

    log_ratio: np.ndarray

    def scores(self, lines: Sequence[bytes]) -> np.ndarray:
        """float64 [n]: nats by which each line looks more like the source side's language."""
        codes, starts = _trigrams(lines)
        return np.add.reduceat(self.log_ratio[codes].astype(np.float64), starts)


def fit_profile(source: Sequence[bytes], target: Sequence[bytes]) -> LanguageProfile:
    """Learn the profile from lines of both sides; a minority of swapped pairs does no harm."""
    logs = []
    for lines in (source, target):
        counts = np.bincount(_trigrams(lines)[0], minlength=1 << TABLE_BITS) + 0.5
        logs.append(np.log(counts / counts.sum()))
    return LanguageProfile(log_ratio=(logs[0] - logs[1]).astype(np.float32))


def _trigrams(lines: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Hashed trigrams of all lines in a row, and where each line's begin."""
    # Two spaces in front and one behind: no trigram sees the neighbour's letters.
    cut = [b"  " + line[:SCORED_BYTES].lower() + b" " for line in lines]
    text = np.frombuffer(b"".join(cut) + b"  ", dtype=np.uint8).astype(np.uint32)
    mixed = ((text[:-2] << 16) | (text[1:-1] << 8) | text[2:]) * np.uint32(2654435761)
    codes = mixed >> np.uint32(32 - TABLE_BITS)
    starts = np.cumsum([0, *(len(line) for line in cut[:-1])])
    return codes.astype(np.int64), starts
