"""The shortlist of a run: learnt from its training pairs when it is first asked for, then kept."""

import logging
import pathlib
from collections.abc import Callable

import numpy as np

from seqgen.data import TextData, Tokenizers
from seqgen.data.lexicon import (
    MOST_TRANSLATIONS,
    Lexicon,
    learn_lexicon,
    load_lexicon,
    save_lexicon,
)
from seqgen.decoding.shortlist import Shortlist
from seqgen.errors import ConfigError, DataError
from seqgen.types import PAD_ID

_log = logging.getLogger("seqgen.shortlists")
FILE_NAME = "shortlist.npz"


def open_shortlist(
    size: int,
    folder: pathlib.Path,
    tokenizers: Tokenizers,
    *,
    prepare: Callable[[], TextData],
) -> Shortlist | None:
    """The `size` likeliest translations of each source token and the most frequent tokens.

    Where both sides have one vocabulary, a source token is also its own translation: names are
    copied.

    Args:
      size: at most `MOST_TRANSLATIONS`; 0 = None, the whole vocabulary.
      folder: the run directory.
      tokenizers: the run's.
      prepare: opens the corpus that the run was trained on; called where nothing is kept yet.

    Raises:
      ConfigError: `size` is out of its range.
      DataError: what was kept belongs to other tokenizers, or the corpus is not there.
      StorageError: the run cannot be written.
    """
    if not 0 <= size <= MOST_TRANSLATIONS:
        raise ConfigError(
            f"bad shortlist: {size}",
            details=[f"it takes       0 (off) to {MOST_TRANSLATIONS} translations a token"],
        )
    if size == 0:
        return None
    path = folder / FILE_NAME
    kept = path.exists()
    lexicon = load_lexicon(path, tokenizers) if kept else _learn(path, tokenizers, prepare)
    table = lexicon.likeliest[:, :size]
    if tokenizers.joint:
        own = np.arange(len(table), dtype=np.int32)
        table = np.concatenate([own[:, None], table], axis=1)
        table[PAD_ID] = PAD_ID
    return Shortlist(table, lexicon.frequent, tokenizers.target.vocab_size)


def _learn(path: pathlib.Path, tokenizers: Tokenizers, prepare: Callable[[], TextData]) -> Lexicon:
    try:
        text = prepare()
        ids = text.tokenized("train")
    except DataError as error:
        raise DataError(
            "the shortlist is learnt from the training pairs, which are not there",
            details=[
                error.cause,
                *error.details,
                f"tell where     seqgen evaluate --workdir={path.parent} --shortlist=N "
                "--data_dir=DIR",
            ],
        ) from error
    _log.warning("learning %s from %d training pairs, once", path, len(ids))
    lexicon = learn_lexicon(ids, text.cfg, tokenizers)
    save_lexicon(lexicon, path)
    return lexicon
