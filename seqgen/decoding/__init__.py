"""Ids in, ids out: beam search, greedy search and sampling over the `Decodable` contract."""

from seqgen.decoding.config import DecodeConfig
from seqgen.decoding.generate import generate, search
from seqgen.decoding.hypotheses import Hypotheses
from seqgen.decoding.rescoring import target_log_probs
from seqgen.decoding.sampling import make_row_keys
from seqgen.decoding.shortlist import Candidates, Shortlist

__all__ = [
    "Candidates",
    "DecodeConfig",
    "Hypotheses",
    "Shortlist",
    "generate",
    "make_row_keys",
    "search",
    "target_log_probs",
]
