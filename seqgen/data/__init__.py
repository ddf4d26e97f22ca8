"""Text corpora, tokenizers and batches. Importing this package imports no data library."""

from seqgen.data.batching import BatchInfo, Shape
from seqgen.data.config import DataConfig, TokenizerConfig
from seqgen.data.contiguous import TextSize
from seqgen.data.loader import TextData
from seqgen.data.preparation import prepare
from seqgen.data.sources import Pair, Source, open_splits
from seqgen.data.tokenizer_store import Tokenizers, load_tokenizers

__all__ = [
    "BatchInfo",
    "DataConfig",
    "Pair",
    "Shape",
    "Source",
    "TextData",
    "TextSize",
    "TokenizerConfig",
    "Tokenizers",
    "load_tokenizers",
    "open_splits",
    "prepare",
]
