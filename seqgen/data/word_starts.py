"""Which tokens begin a word, for every kind of tokenizer, read off what it decodes."""

import numpy as np

from seqgen.types import NUM_CONTROL_IDS, Tokenizer


def find_word_starts(tokenizer: Tokenizer) -> np.ndarray:
    """Bool [V]: the token's text inside a line begins with white space (control tokens: never).

    A word has the space before it, as in SentencePiece; a line end is a word by itself.
    """
    texts = piece_texts(tokenizer)
    return np.array([text[:1].isspace() for text in texts], bool)


def piece_texts(tokenizer: Tokenizer) -> list[str]:
    """The text of each id as it stands behind other text; '' for control tokens."""
    anchor = next(
        i
        for i in range(NUM_CONTROL_IDS, tokenizer.vocab_size)
        if (text := tokenizer.decode([i])).strip() and text.isprintable() and "\ufffd" not in text
    )
    before = len(tokenizer.decode([anchor]))
    return [
        "" if i < NUM_CONTROL_IDS else tokenizer.decode([anchor, i])[before:]
        for i in range(tokenizer.vocab_size)
    ]


def starts_of_words(ids: np.ndarray, starts: np.ndarray, *, line_end_id: int) -> np.ndarray:
    """Bool [T] for a row `ids` [T]: where a word begins; what follows a line end begins one."""
    found = starts[ids]
    found[1:] |= ids[:-1] == line_end_id
    return found
