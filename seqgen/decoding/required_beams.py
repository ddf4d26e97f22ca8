"""Beams shared out among hypotheses that have come to hold more or fewer of the required words.

Without that, hypotheses that hold a word would be pushed out by likelier ones that put it off, and
all words would come at the end, where they are forced.
"""

import jax
import jax.numpy as jnp

from seqgen.decoding.bans import ANY_ID
from seqgen.decoding.beam_step import BeamState, Continuations
from seqgen.decoding.config import SearchValues
from seqgen.decoding.constraints import token_rules
from seqgen.decoding.prompts import Prompt, end_by_prompt
from seqgen.decoding.rules import (
    apply_rules,
    ends_answer,
    num_stop_tokens,
    own_log_probs,
    own_normalizers,
)
from seqgen.decoding.top_tokens import top_tokens
from seqgen.types import PAD_ID, Array

_LAST = jnp.iinfo(jnp.int32).max


def constrained_continuations(
    logits: Array, state: BeamState, values: SearchValues, prompt: Prompt | None
) -> Continuations:
    """K continuations that may end their answers, then K that live on; see `share_beams_out`.

    Each beam proposes its likeliest tokens and all that bring it nearer to the required words
    (Hokamp and Liu 2017, arXiv:1704.07138; Post and Vilar 2018, arXiv:1804.06609).
    """
    words = values.required_words
    assert words is not None and state.word_states is not None
    batch, beams, vocab = logits.shape
    constrain = token_rules(state, values)
    ruled = apply_rules(logits, state.live_ids, state, values=values)
    normalizers = own_normalizers(logits, ruled)
    num_likely = min(beams + 1 + num_stop_tokens(values), vocab)
    gains, tokens = top_tokens(ruled, num_likely, constrain, normalizers)

    wanted = jnp.broadcast_to(words.alphabet, (batch, beams, words.alphabet.shape[0]))
    nearer = words.missing[words.moves[state.word_states]][..., :-1]
    useful = (nearer < words.missing[state.word_states][..., None]) & (wanted != ANY_ID)
    known = (wanted[..., None] == tokens[..., None, :]).any(-1)
    wanted = jnp.where(useful & ~known, wanted, PAD_ID)
    wanted_gains = constrain(own_log_probs(ruled, wanted, normalizers), wanted)

    gains = jnp.concatenate([gains, wanted_gains], axis=2)
    gains = jnp.where(jnp.isnan(gains), -jnp.inf, gains)
    tokens = jnp.concatenate([tokens, wanted], axis=2)
    num_each = tokens.shape[2]
    parents = jnp.repeat(jnp.arange(beams), num_each)[None]
    parents = jnp.broadcast_to(parents, (batch, beams * num_each))
    log_probs = (state.live_log_probs[:, :, None] + gains).reshape(batch, -1)
    own_totals = log_probs
    if state.live_own_log_probs is not None:
        own = own_log_probs(logits, tokens, normalizers)
        own_totals = (state.live_own_log_probs[:, :, None] + own).reshape(batch, -1)
    tokens = tokens.reshape(batch, -1)
    begun = state.stop_states
    if begun is not None:
        begun = jnp.take_along_axis(begun, parents, axis=1)
    ends, stop_states = end_by_prompt(prompt, ends_answer(tokens, values), begun, tokens, state)
    word_states = jnp.take_along_axis(state.word_states, parents, axis=1)
    word_states = words.follow(word_states, tokens)

    places = share_beams_out(log_probs, words.missing[word_states], ends, beams)

    def chosen(values: Array) -> Array:
        return jnp.take_along_axis(values, places, axis=1)

    ends = chosen(ends)
    fits = ends == (jnp.arange(2 * beams) < beams)
    return Continuations(
        log_probs=jnp.where(fits, chosen(log_probs), -jnp.inf),
        own_log_probs=chosen(own_totals),
        parents=chosen(parents),
        tokens=chosen(tokens),
        ends=ends,
        stop_states=None if stop_states is None else chosen(stop_states),
        word_states=chosen(word_states),
    )


def share_beams_out(log_probs: Array, missing: Array, ends: Array, num_beams: int) -> Array:
    """Which continuations take the K places of a beam, int32 [B, 2K].

    The places go round in turn: to the likeliest continuation of each group that lacks equally many
    tokens, the group that lacks fewest first, then to the second one of each, and so on. So every
    group has an equal share, and what a small group leaves over goes to the others: the dynamic
    beam allocation of Post and Vilar 2018, section 3.2.

    Args:
      log_probs: float32 [B, n], n at least 2K; -inf takes no place.
      missing: int32 [B, n], required tokens that each one lacks.
      ends: bool [B, n], those that end their answer.
      num_beams: K.

    Returns:
      First the first K of that order, in which those that end count; then the first K of those that
      do not end.
    """
    dead = log_probs == -jnp.inf
    order = jnp.argsort(-log_probs, axis=1, stable=True)
    group = jnp.where(dead, _LAST, missing)

    def then_by(order: Array, key: Array) -> Array:
        """`order` sorted again by `key` [B, n], which stands in its own order."""
        return jnp.take_along_axis(order, jnp.argsort(key, axis=1, stable=True), axis=1)

    order = then_by(order, jnp.take_along_axis(group, order, axis=1))
    group = jnp.take_along_axis(group, order, axis=1)
    places = jnp.arange(group.shape[1])
    begins = jnp.concatenate([jnp.ones_like(dead[:, :1]), group[:, 1:] != group[:, :-1]], axis=1)
    first = jax.lax.cummax(jnp.where(begins, places, 0), axis=1)
    turn = jnp.where(group == _LAST, _LAST, places - first)
    order = then_by(order, turn)
    lives = then_by(order, jnp.take_along_axis(ends | dead, order, axis=1))
    return jnp.concatenate([order[:, :num_beams], lives[:, :num_beams]], axis=1)
