"""The rules that are on, applied to a step's logits in one order; those that are off cost nothing.

A value of `SearchValues` that is None is a rule that is off: it is no part of the compiled program.
"""

from typing import Any

import jax
import jax.numpy as jnp

from seqgen.decoding.bans import ban_repeated_ngrams, ban_tokens, ban_words, force_prefix
from seqgen.decoding.config import SearchValues
from seqgen.decoding.penalties import (
    count_tokens,
    penalise_choices,
    penalise_frequency,
    penalise_presence,
    penalise_repetition,
)
from seqgen.decoding.required_words import end_ids, require_words
from seqgen.types import EOS_ID, Array


def has_penalties(values: SearchValues) -> bool:
    """Whether logits are changed by more than bans, so that scores are not the model's own."""
    return _has_token_penalties(values) or values.diversity_penalty is not None


def _has_token_penalties(values: SearchValues) -> bool:
    penalties = (values.repetition_penalty, values.frequency_penalty, values.presence_penalty)
    return any(penalty is not None for penalty in penalties)


def apply_rules(logits: Array, ids: Array, state: Any, *, values: SearchValues) -> Array:
    """Logits after penalties and bans; the same object where no rule is on.

    Penalties come first, in vLLM's order (repetition, frequency, presence), then that of diverse
    groups, then bans; the tokens of a forced prefix, and those of required words that have no time
    left, come whatever is banned. EOS is banned here only while required words are missing.

    Args:
      logits: float32 [B, K, V], the model's own.
      ids: int32 [B, K, T] tokens generated so far, without the source or the prompt.
      state: a search's, of which `position` and `limits` are read, whether it is of a prompt, and
        what single rules need.
      values: numbers of the rules; None = off.
    """
    position = state.position
    if _has_token_penalties(values):
        counts = count_tokens(ids, position, logits.shape[-1])
        if values.repetition_penalty is not None:
            logits = penalise_repetition(logits, counts, values.repetition_penalty)
        if values.frequency_penalty is not None:
            logits = penalise_frequency(logits, counts, values.frequency_penalty)
        if values.presence_penalty is not None:
            logits = penalise_presence(logits, counts, values.presence_penalty)
    if values.diversity_penalty is not None:
        logits = penalise_choices(logits, state.taken, values.diversity_penalty)
    free = logits
    if values.no_repeat_ngram_size is not None:
        free = ban_repeated_ngrams(free, ids, position, values.no_repeat_ngram_size)
    if values.bad_words is not None:
        free = ban_words(free, ids, position, values.bad_words)
    if values.stop_token_ids is not None:
        free = ban_tokens(free, values.stop_token_ids, position < values.min_length)
    if values.required_words is None and values.forced_prefix is None:
        return free
    # An answer that is cut at its limit needs no last place for EOS.
    room = state.limits if state.stop_states is not None else state.limits - 1
    if values.required_words is not None:
        ends = end_ids(values.stop_token_ids)
        words = values.required_words
        free = require_words(logits, free, state.word_states, room - position, words, ends)
    if values.forced_prefix is None:
        return free
    return force_prefix(logits, free, position, room, values.forced_prefix)


def own_normalizers(logits: Array, ruled: Array) -> Array | None:
    """Logarithms of the sums of exponentials of the model's logits [..., 1], where rules are on."""
    if ruled is logits:
        return None
    return jax.nn.logsumexp(logits, axis=-1, keepdims=True)


def own_log_probs(logits: Array, tokens: Array, normalizers: Array) -> Array:
    """The model's own log-probabilities of `tokens` int32 [B, K, n], without penalties and bans.

    Args:
      logits: float32 [B, K, V], the model's own.
      tokens: ids.
      normalizers: [B, K, 1] of `own_normalizers`.
    """
    return jnp.minimum(jnp.take_along_axis(logits, tokens, axis=-1) - normalizers, 0.0)


def ends_answer(tokens: Array, values: SearchValues) -> Array:
    """Where `tokens` are EOS or one of `stop_token_ids`; bool like `tokens`."""
    ends = tokens == EOS_ID
    if values.stop_token_ids is None:
        return ends
    return ends | jnp.any(tokens[..., None] == values.stop_token_ids, axis=-1)


def num_stop_tokens(values: SearchValues) -> int:
    """Tokens beside EOS that may end an answer, at most."""
    return 0 if values.stop_token_ids is None else values.stop_token_ids.shape[0]
