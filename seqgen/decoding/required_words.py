"""Phrases that every answer must hold: what is still missing, and which tokens may come for it.

The phrases become one automaton over tokens whose states also know which phrases have come: the
longest end of the text that begins a phrase (Aho and Corasick 1975), and a set of phrases. From
each state the fewest tokens that complete all phrases are known exactly, overlaps counted. A token
may come only if what would then be missing has room before the sentence's limit: so every
hypothesis can be completed at every step, and a beam of any width meets all phrases that fit.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from seqgen.decoding.bans import ANY_ID
from seqgen.decoding.id_tables import Encode, power_of_two, written_ids
from seqgen.errors import ConfigError
from seqgen.types import EOS_ID, Array

_FEWEST_STATES, _FEWEST_TOKENS = 64, 16
_MOST_STATES = 1 << 15


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class RequiredWords:
    """An automaton; a hypothesis' state is one number, 0 before its first token.

    Attributes:
      alphabet: int32 [D], different tokens of the phrases, then `ANY_ID`.
      moves: int32 [Q, D + 1], the state after each of them; the last one is for all other tokens.
      missing: int32 [Q], fewest tokens after which all phrases have come; 0 = they have.
    """

    alphabet: Array
    moves: Array
    missing: Array

    def follow(self, states: Array, tokens: Array) -> Array:
        """States after `tokens`; int32 of one shape."""
        known = tokens[..., None] == self.alphabet
        column = jnp.where(known.any(-1), known.argmax(-1), self.alphabet.shape[0])
        return self.moves[states, column]


def require_words(
    logits: Array,
    free: Array,
    states: Array,
    room: Array,
    words: RequiredWords,
    end_ids: Array,
) -> Array:
    """-inf for tokens after which the missing phrases would not fit, and for an early end.

    Where a hypothesis has no tokens to spare, the ones it needs come whatever is banned.

    Args:
      logits: float32 [B, K, V] in which nothing is banned.
      free: float32 [B, K, V] with bans.
      states: int32 [B, K] of `words`.
      room: int32 [B], tokens that fit before the end of an answer, the next one counted.
      words: the automaton.
      end_ids: int32 [n], tokens that end an answer.
    """
    batch, beams, vocab = logits.shape
    missing_then = words.missing[words.moves[states]]  # [B, K, D + 1]
    fits = missing_then < room[:, None, None]
    pressed = ~fits[..., -1:]
    ruled = jnp.where(pressed, -jnp.inf, free)
    rows, columns = jnp.arange(batch)[:, None, None], jnp.arange(beams)[None, :, None]
    place = jnp.where(words.alphabet == ANY_ID, vocab, words.alphabet)
    own = jnp.where(pressed, logits[..., words.alphabet], free[..., words.alphabet])
    own = jnp.where(fits[..., :-1], own, -jnp.inf)
    ruled = ruled.at[rows, columns, place].set(own, mode="drop")
    lacking = (words.missing[states] > 0)[..., None]
    return ruled.at[..., end_ids].set(jnp.where(lacking, -jnp.inf, free[..., end_ids]))


def required_table(
    words: Sequence[str],
    encode: Encode,
    *,
    banned: Sequence[str] = (),
    stop_token_ids: Sequence[int] = (),
) -> RequiredWords | None:
    """The automaton of some phrases, with powers of two as sizes; None without phrases.

    A phrase that is part of another one is met by it; one that is given twice is required once.

    Args:
      words: texts.
      encode: the target tokenizer's.
      banned: texts that no answer may hold.
      stop_token_ids: tokens that end an answer.

    Raises:
      ConfigError: a phrase is empty, cannot be written in the vocabulary, or holds a banned text or
        a stop token; or there are too many.
    """
    phrases = [written_ids("required_words", word, encode) for word in words]
    if not phrases:
        return None
    for text in banned:
        ids = tuple(encode(text))
        for word, phrase in zip(words, phrases):
            if ids and _holds(phrase, ids):
                raise ConfigError(
                    f"required_words {word!r} holds what bad_words forbid: {text!r}",
                    details=["no answer can have both: leave one out"],
                )
    for word, phrase in zip(words, phrases):
        if set(phrase) & set(stop_token_ids):
            raise ConfigError(
                f"required_words {word!r} holds one of stop_token_ids, which end an answer",
                details=[f"its ids are    {', '.join(map(str, phrase))}"],
            )
    kept = [p for p in dict.fromkeys(phrases) if not any(_holds(q, p) for q in phrases if q != p)]
    alphabet = sorted({token for phrase in kept for token in phrase})
    moves, whole = _automaton(kept, alphabet)
    missing = _fewest_tokens(moves, whole)
    states = power_of_two(len(moves), fewest=_FEWEST_STATES)
    tokens = power_of_two(len(alphabet), fewest=_FEWEST_TOKENS)
    table = np.zeros((states, tokens + 1), np.int32)
    table[: len(moves), : len(alphabet)] = moves[:, :-1]
    table[: len(moves), -1] = moves[:, -1]
    padded = np.full(tokens, ANY_ID, np.int32)
    padded[: len(alphabet)] = alphabet
    lacking = np.zeros(states, np.int32)
    lacking[: len(missing)] = missing
    return RequiredWords(jnp.asarray(padded), jnp.asarray(table), jnp.asarray(lacking))


def tokens_needed(words: RequiredWords, prefix: Sequence[int]) -> int:
    """Fewest tokens of an answer that begins with `prefix` and holds all phrases, without EOS."""
    state = jnp.int32(0)
    for token in prefix:
        state = words.follow(state, jnp.int32(token))
    return len(prefix) + int(words.missing[state])


def _holds(phrase: Sequence[int], part: Sequence[int]) -> bool:
    size = len(part)
    return any(phrase[i : i + size] == part for i in range(len(phrase) - size + 1))


def _automaton(
    phrases: Sequence[tuple[int, ...]], alphabet: Sequence[int]
) -> tuple[np.ndarray, list[bool]]:
    """Moves [Q, D + 1] between the states that can be reached, and where no phrase is missing."""
    begun = {phrase[:size] for phrase in phrases for size in range(len(phrase) + 1)}

    def after(text: tuple[int, ...]) -> tuple[int, ...]:
        return next(text[cut:] for cut in range(len(text) + 1) if text[cut:] in begun)

    following = {text: [after((*text, token)) for token in alphabet] + [()] for text in begun}
    ended = {
        text: sum((text[-len(phrase) :] == phrase) << i for i, phrase in enumerate(phrases))
        for text in begun
    }
    everything = (1 << len(phrases)) - 1
    numbers: dict[tuple[tuple[int, ...], int], int] = {((), 0): 0}
    queue: list[tuple[tuple[int, ...], int]] = [((), 0)]
    moves = []
    for text, met in queue:
        row = []
        for text_then in following[text]:
            state = text_then, met | ended[text_then]
            if state not in numbers:
                if len(numbers) == _MOST_STATES:
                    raise ConfigError(
                        f"required_words: {len(phrases)} phrases are too many to be followed at "
                        "once",
                        details=["about ten short ones are possible: leave some out"],
                    )
                numbers[state] = len(numbers)
                queue.append(state)
            row.append(numbers[state])
        moves.append(row)
    return np.asarray(moves, np.int32), [met == everything for _, met in queue]


def _fewest_tokens(moves: np.ndarray, whole: Sequence[bool]) -> np.ndarray:
    """int32 [Q]: length of the shortest way from each state to one where no phrase is missing."""
    far = np.iinfo(np.int32).max - 1
    missing = np.where(np.asarray(whole), 0, far).astype(np.int32)
    while (missing == far).any():
        missing = np.minimum(missing, missing[moves].min(axis=1) + 1)
    return missing


def end_ids(stop_token_ids: Array | None) -> Array:
    """EOS and the stop tokens, int32 [n]."""
    eos = jnp.full((1,), EOS_ID, jnp.int32)
    return eos if stop_token_ids is None else jnp.concatenate([eos, stop_token_ids])
