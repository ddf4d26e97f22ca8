"""What a vocabulary shortlist is cut by: the likeliest translations of each source token.

As in Marian and Bergamot (Junczys-Dowmunt et al. 2018, "Marian: cost-effective high-quality neural
machine translation in C++", section 2), after Jean et al. 2015, arXiv:1412.2007, section 3.3.
"""

import dataclasses
import os
import zipfile
from pathlib import Path

import numpy as np

from seqgen.data import cache
from seqgen.data.config import DataConfig
from seqgen.data.token_cache import TokenizedSplit
from seqgen.data.tokenizer_store import Tokenizers
from seqgen.data.training_set import overlong
from seqgen.data.translation_table import Pairs, learn_translation_table, select, spread
from seqgen.errors import DataError, StorageError
from seqgen.types import NUM_CONTROL_IDS

VERSION = 1  # raise it when the same pairs would give another lexicon
MOST_TRANSLATIONS = 100
MOST_FREQUENT = 100
MAX_LINKS = 50_000_000  # some 100,000 pairs of 20 tokens; bounds memory and minutes


@dataclasses.dataclass(frozen=True, eq=False)
class Lexicon:
    """Translations learnt from pairs.

    Attributes:
      likeliest: int32 [source vocabulary, MOST_TRANSLATIONS] target ids, best first, then zeros.
      frequent: int32 [at most MOST_FREQUENT] target ids, most frequent first, no control ids.
      fingerprint: see `lexicon_fingerprint`.
    """

    likeliest: np.ndarray
    frequent: np.ndarray
    fingerprint: str


def lexicon_fingerprint(tokenizers: Tokenizers) -> str:
    """Digest of the tokenizers whose ids a lexicon holds."""
    return cache.digest_json(
        [VERSION, tokenizers.source.fingerprint, tokenizers.target.fingerprint]
    )


def learn_lexicon(
    ids: TokenizedSplit, cfg: DataConfig, tokenizers: Tokenizers, *, max_links: int = MAX_LINKS
) -> Lexicon:
    """Learn from a tokenised split by IBM model 1.

    Blank pairs and those over the limits of `cfg` are left out; of more pairs than give `max_links`
    links, an even selection is read.

    Raises:
      DataError: no pair is left.
    """
    usable = ~ids.blank & ~overlong(ids, cfg)
    if not usable.any():
        raise DataError("no training pair is left to learn translations from")
    whole = Pairs(ids.source_ids, ids.target_ids, ids.source_lens - 1, ids.target_lens - 1)
    pairs = spread(select(whole, usable), max_links=max_links)
    table = learn_translation_table(pairs, target_vocab_size=tokenizers.target.vocab_size)
    counts = np.bincount(pairs.target, minlength=tokenizers.target.vocab_size)
    counts[:NUM_CONTROL_IDS] = 0
    order = np.argsort(-counts, kind="stable")[:MOST_FREQUENT]
    return Lexicon(
        table.likeliest(MOST_TRANSLATIONS, source_vocab_size=tokenizers.source.vocab_size),
        order[counts[order] > 0].astype(np.int32),
        lexicon_fingerprint(tokenizers),
    )


def save_lexicon(lexicon: Lexicon, path: Path) -> None:
    """Write an npz file without pickle; it appears whole or not at all.

    Raises:
      StorageError: if the disk refuses.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with draft.open("wb") as file:
            np.savez_compressed(file, **dataclasses.asdict(lexicon))
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise StorageError(
            f"cannot write {path}", details=[error.strerror or str(error)]
        ) from error


def load_lexicon(path: Path, tokenizers: Tokenizers) -> Lexicon:
    """Read what `save_lexicon` wrote.

    Raises:
      DataError: it was learnt with other tokenizers, or the file is damaged.
    """
    remedy = "remove it: the next --shortlist learns it anew"
    try:
        with np.load(path, allow_pickle=False) as arrays:
            lexicon = Lexicon(arrays["likeliest"], arrays["frequent"], str(arrays["fingerprint"]))
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise DataError(f"cannot read {path}", details=[str(error), remedy]) from error
    if lexicon.fingerprint != lexicon_fingerprint(tokenizers):
        raise DataError(f"{path} was learnt with other tokenizers than the run's", details=[remedy])
    return lexicon
