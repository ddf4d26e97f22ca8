"""Sampled segmentations: subword regularisation whose draws depend on nothing but the seed.

SentencePiece samples with a generator of its own that cannot be set again, so the draws are made
here: BPE-dropout (Provilkov et al., 2020, arXiv:1910.13267) by running the merges, unigram (Kudo,
2018, arXiv:1804.10959) by drawing among the n best segmentations.
"""

import itertools
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from seqgen.data import order


class Segmenter(Protocol):
    """Text and seed to SentencePiece ids."""

    def __call__(self, text: str, *, seed: int) -> list[int]: ...


def build_segmenter(processor: Any, *, alpha: float, nbest: int) -> Segmenter:
    """The sampler that suits the model type of a SentencePiece processor."""
    try:
        processor.nbest_encode_as_ids("a", 2)
    except (RuntimeError, NotImplementedError):
        return BpeDropout(processor, rate=alpha)
    return NbestSampler(processor, alpha=alpha, nbest=nbest)


class NbestSampler:
    """Segmentation i of the n best with probability proportional to p_i ** alpha."""

    def __init__(self, processor: Any, *, alpha: float, nbest: int):
        self._processor = processor
        self._alpha = alpha
        self._nbest = nbest

    def __call__(self, text: str, *, seed: int) -> list[int]:
        """Draw one."""
        found = self._processor.nbest_encode_as_ids(text, self._nbest)
        if len(found) < 2:
            return found[0] if found else []
        scores = np.array(
            [sum(self._processor.get_score(i) for i in ids) for ids in found], np.float64
        )
        weights = np.exp(self._alpha * (scores - scores.max()))
        draw = order.uniform(1, seed)[0] * weights.sum()
        return found[min(int(np.searchsorted(np.cumsum(weights), draw)), len(found) - 1)]


class BpeDropout:
    """The merges of BPE in order of rank, each candidate left out with probability `rate`."""

    def __init__(self, processor: Any, *, rate: float):
        self._processor = processor
        self._rate = rate
        self._unknown = processor.unk_id()
        self._scores = {
            processor.id_to_piece(i): processor.get_score(i)
            for i in range(processor.get_piece_size())
            if not (processor.is_control(i) or processor.is_unknown(i) or processor.is_byte(i))
        }

    def __call__(self, text: str, *, seed: int) -> list[int]:
        """Draw one."""
        # The model's own pieces give the normalised text with its space marks.
        pieces = self._processor.encode(text, out_type=str)
        ids: list[int] = []
        run: list[str] = []
        draws = _draws(seed)
        for piece in pieces:
            if piece in self._scores:
                if piece.startswith("\u2581") and run:
                    ids.extend(self._merge(run, draws))
                    run = []
                run.extend(piece)
            else:
                ids.extend(self._merge(run, draws))
                run = []
                ids.append(self._processor.piece_to_id(piece))
        ids.extend(self._merge(run, draws))
        return ids

    def _merge(self, symbols: list[str], draws: Iterator[float]) -> list[int]:
        """Ids of one word after its merges."""
        scores = self._scores
        while len(symbols) > 1:
            best, best_score = -1, -np.inf
            for i in range(len(symbols) - 1):
                score = scores.get(symbols[i] + symbols[i + 1])
                if score is None or score <= best_score:
                    continue
                if next(draws) >= self._rate:
                    best, best_score = i, score
            if best < 0:
                break
            symbols = [
                *symbols[:best],
                symbols[best] + symbols[best + 1],
                *symbols[best + 2 :],
            ]
        return [self._processor.piece_to_id(symbol) for symbol in symbols]


def _draws(seed: int) -> Iterator[float]:
    """Endless numbers in [0, 1) that depend on the seed alone."""
    for block in itertools.count():
        yield from order.uniform(256, seed, block).tolist()
