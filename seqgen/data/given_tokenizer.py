"""Tokenizers of the user's own, whose kind their files tell."""

from pathlib import Path

from seqgen.data import cache
from seqgen.data.base_tokenizer import BaseTokenizer
from seqgen.data.config import TokenizerConfig
from seqgen.data.huggingface_tokenizer import HuggingFaceTokenizer
from seqgen.data.huggingface_vocabulary import read_vocabulary, vocabulary_files
from seqgen.errors import ConfigError, labelled


def load_given(path: Path, cfg: TokenizerConfig, *, lowercase: bool = False) -> BaseTokenizer:
    """The tokenizer in `path`.

    Args:
      path: WordPiece or byte-level BPE: a .txt or .json file, or a directory that holds them;
        SentencePiece: a file with any other ending.
      cfg: how segmentations are sampled.
      lowercase: text is lower-cased first.

    Raises:
      DataError: a file is missing, damaged or of another kind.
      ConfigError: what it needs is not installed, or it has no segmentations to sample.
    """
    from seqgen.data import sentencepiece_tokenizer as pieces

    if not vocabulary_files(path):
        return pieces.load_model(path, sampling=cfg, lowercase=lowercase)
    tokenizer = HuggingFaceTokenizer(read_vocabulary(path), lowercase=lowercase)
    if cfg.sampling_alpha:
        raise ConfigError(
            f"tokenizer.sampling_alpha has no meaning for {path}: it is {tokenizer.kind}",
            details=[labelled("choose", "tokenizer.sampling_alpha=0, or a SentencePiece model")],
        )
    return tokenizer


def digest_given(path: str) -> str:
    """Digest of the files that `path` stands for; `path` itself if there are none.

    Raises:
      DataError: a directory without a vocabulary.
    """
    files = vocabulary_files(Path(path)) or (Path(path),)
    digests = [cache.digest_file(file) for file in files if file.is_file()]
    if len(digests) < 2:
        return digests[0] if digests else path
    return cache.digest_json(digests)
