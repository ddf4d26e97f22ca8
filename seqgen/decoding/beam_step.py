"""The moves of a step of beam search: continue, keep what ended, let the best live on, stop."""

import dataclasses

import jax
import jax.numpy as jnp

from seqgen.decoding.config import SearchShape, SearchValues
from seqgen.decoding.constraints import token_rules
from seqgen.decoding.coverage import coverage_penalty
from seqgen.decoding.length_penalty import best_attainable_score, length_penalty
from seqgen.decoding.prompts import Prompt, end_by_prompt
from seqgen.decoding.rules import (
    apply_rules,
    ends_answer,
    has_penalties,
    num_stop_tokens,
    own_log_probs,
    own_normalizers,
)
from seqgen.decoding.stepping import write_tokens
from seqgen.decoding.top_tokens import top_tokens
from seqgen.types import BOS_ID, PAD_ID, Array, PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BeamState:
    """The loop's state. K live hypotheses and the N best finished ones of each sentence.

    Attributes:
      position: int32 scalar, tokens generated so far.
      live_ids: int32 [B, K, T].
      live_log_probs: float32 [B, K], of penalised logits, best first; -inf marks a beam that holds
        nothing.
      live_own_log_probs: float32 [B, K], the model's own; None where nothing is penalised, so that
        `live_log_probs` are.
      ids: int32 [B, N, T] of finished hypotheses, best first.
      scores: float32 [B, N]; -inf marks an empty place.
      log_probs: float32 [B, N], the model's own.
      lengths: int32 [B, N].
      num_finished: int32 [B], finished hypotheses met so far.
      done: bool [B], nothing more is searched for this sentence.
      limits: int32 [B], most tokens of an answer.
      first_ids: int32 [B], what the first step reads.
      stop_states: int32 [B, K] of `stops.follow`; None without a prompt.
      model: the decoder's own state.
      word_states: int32 [B, K] of `required_words.RequiredWords`; None where none are required.
      coverage: float32 [B, K, S], attention that each source token has had; None where no answer is
        ranked by it.
      source_mask: bool [B, S], real source tokens; None where `coverage` is.
      taken: float32 [B, V], how many beams of earlier groups have just gone on with a token; None
        without groups.
    """

    position: Array
    live_ids: Array
    live_log_probs: Array
    live_own_log_probs: Array | None
    ids: Array
    scores: Array
    log_probs: Array
    lengths: Array
    num_finished: Array
    done: Array
    limits: Array
    first_ids: Array
    stop_states: Array | None
    model: PyTree
    word_states: Array | None = None
    coverage: Array | None = None
    source_mask: Array | None = None
    taken: Array | None = None


def start_state(
    limits: Array,
    *,
    shape: SearchShape,
    values: SearchValues,
    max_len: int,
    prompt: Prompt | None,
    source_mask: Array | None = None,
) -> BeamState:
    """The state before the first token, without a decoder's; see `beam_search`."""
    batch, beams = limits.shape[0], shape.num_beams
    answers = shape.num_return_sequences
    state = BeamState(
        position=jnp.int32(0),
        live_ids=jnp.full((batch, beams, max_len), PAD_ID, jnp.int32),
        live_log_probs=jnp.full((batch, beams), -jnp.inf).at[:, 0].set(0.0),
        live_own_log_probs=None,
        ids=jnp.full((batch, answers, max_len), PAD_ID, jnp.int32),
        scores=jnp.full((batch, answers), -jnp.inf),
        log_probs=jnp.full((batch, answers), -jnp.inf),
        lengths=jnp.zeros((batch, answers), jnp.int32),
        num_finished=jnp.zeros((batch,), jnp.int32),
        done=jnp.zeros((batch,), bool),
        limits=limits,
        first_ids=jnp.full((batch,), BOS_ID) if prompt is None else prompt.first_ids,
        stop_states=None if prompt is None else jnp.zeros((batch, beams), jnp.int32),
        model=None,
    )
    if has_penalties(values):
        state = dataclasses.replace(state, live_own_log_probs=state.live_log_probs)
    if values.required_words is not None:
        state = dataclasses.replace(state, word_states=jnp.zeros((batch, beams), jnp.int32))
    if values.coverage_penalty is not None:
        assert source_mask is not None, "the search knows its sources"
        coverage = jnp.zeros((batch, beams, source_mask.shape[1]))
        state = dataclasses.replace(state, coverage=coverage, source_mask=source_mask)
    return state


@dataclasses.dataclass(frozen=True)
class Continuations:
    """The best continuations of each sentence, best first.

    Attributes:
      log_probs: float32 [B, n], of penalised logits.
      own_log_probs: float32 [B, n], the model's own; the same array where nothing is penalised.
      parents: int32 [B, n], the beam that goes on.
      tokens: int32 [B, n].
      ends: bool [B, n], whether the token ends the answer.
      stop_states: int32 [B, n] of `stops.follow`; None without a prompt.
      word_states: int32 [B, n] of `RequiredWords`; None where none are required.
    """

    log_probs: Array
    own_log_probs: Array
    parents: Array
    tokens: Array
    ends: Array
    stop_states: Array | None
    word_states: Array | None = None


def best_continuations(
    logits: Array, state: BeamState, values: SearchValues, prompt: Prompt | None
) -> Continuations:
    """The 2K best continuations of a sentence, and K more for each stop token beside EOS.

    One beam adds at most K + 1 of them: K that live on, and its EOS; one more for each stop token.
    Ties go to the lowest beam, then to the lowest id.
    """
    batch, beams, vocab = logits.shape
    constrain = token_rules(state, values)
    ruled = apply_rules(logits, state.live_ids, state, values=values)
    normalizers = own_normalizers(logits, ruled)
    num_ends = 1 + num_stop_tokens(values)
    gains, tokens = top_tokens(ruled, min(beams + num_ends, vocab), constrain, normalizers)
    # One logit that is not a number spoils the sum of all: such a beam has no continuation.
    gains = jnp.where(jnp.isnan(gains), -jnp.inf, gains)
    totals = (state.live_log_probs[:, :, None] + gains).reshape(batch, -1)
    log_probs, places = jax.lax.top_k(totals, min((1 + num_ends) * beams, totals.shape[1]))
    parents = places // gains.shape[2]
    own_totals = log_probs
    if state.live_own_log_probs is not None:
        own = own_log_probs(logits, tokens, normalizers)
        own = (state.live_own_log_probs[:, :, None] + own).reshape(batch, -1)
        own_totals = jnp.take_along_axis(own, places, axis=1)
    tokens = jnp.take_along_axis(tokens.reshape(batch, -1), places, axis=1)
    begun = state.stop_states
    if begun is not None:
        begun = jnp.take_along_axis(begun, parents, axis=1)
    ends, stop_states = end_by_prompt(prompt, ends_answer(tokens, values), begun, tokens, state)
    return Continuations(
        log_probs=log_probs,
        own_log_probs=own_totals,
        parents=parents,
        tokens=tokens,
        ends=ends,
        stop_states=stop_states,
    )


def keep_finished(
    state: BeamState, found: Continuations, shape: SearchShape, values: SearchValues
) -> BeamState:
    """Merge the hypotheses that end now into the N best finished ones."""
    beams = shape.num_beams
    log_probs, parents = found.log_probs, found.parents
    ends = found.ends[:, :beams] & jnp.isfinite(log_probs[:, :beams]) & ~state.done[:, None]
    length = state.position + 1
    penalty = length_penalty(length, values.length_penalty, kind=shape.length_penalty_kind)
    new_log_probs = jnp.where(ends, log_probs[:, :beams], -jnp.inf)
    new_ids = jnp.take_along_axis(state.live_ids, parents[:, :beams, None], axis=1)
    new_ids = write_tokens(new_ids, found.tokens[:, :beams], state.position)
    new_scores = new_log_probs / penalty
    if state.coverage is not None:
        covered = jnp.take_along_axis(state.coverage, parents[:, :beams, None], axis=1)
        new_scores += coverage_penalty(covered, state.source_mask, values.coverage_penalty)
    # Old ones stand first, so that a tie keeps the hypothesis that was found first.
    scores, places = jax.lax.top_k(
        jnp.concatenate([state.scores, new_scores], axis=1), state.scores.shape[1]
    )
    if state.live_own_log_probs is not None:
        new_log_probs = jnp.where(ends, found.own_log_probs[:, :beams], -jnp.inf)

    def merged(old: Array, new: Array) -> Array:
        both = jnp.concatenate([old, new], axis=1)
        return jnp.take_along_axis(both, places.reshape(places.shape + (1,) * (old.ndim - 2)), 1)

    kept = scores > -jnp.inf
    return dataclasses.replace(
        state,
        scores=scores,
        ids=jnp.where(kept[:, :, None], merged(state.ids, new_ids), PAD_ID),
        log_probs=merged(state.log_probs, new_log_probs),
        lengths=jnp.where(kept, merged(state.lengths, jnp.broadcast_to(length, ends.shape)), 0),
        num_finished=state.num_finished + jnp.sum(ends, axis=1, dtype=jnp.int32),
    )


def advance(state: BeamState, found: Continuations) -> tuple[BeamState, Array]:
    """Let the K best continuations that do not end live on.

    Returns:
      The state, its decoder's apart, and the beam that each one continues, int32 [B, K].
    """
    beams = state.live_ids.shape[1]
    living = jnp.where(found.ends, -jnp.inf, found.log_probs)
    live_log_probs, places = jax.lax.top_k(living, beams)
    parents = jnp.take_along_axis(found.parents, places, axis=1)
    tokens = jnp.take_along_axis(found.tokens, places, axis=1)
    live_ids = jnp.take_along_axis(state.live_ids, parents[:, :, None], axis=1)

    own, stop_states, word_states = state.live_own_log_probs, found.stop_states, found.word_states
    if own is not None:
        own = jnp.take_along_axis(found.own_log_probs, places, axis=1)
    if stop_states is not None:
        stop_states = jnp.take_along_axis(stop_states, places, axis=1)
    if word_states is not None:
        word_states = jnp.take_along_axis(word_states, places, axis=1)
    coverage = state.coverage
    if coverage is not None:
        coverage = jnp.take_along_axis(coverage, parents[:, :, None], axis=1)
    state = dataclasses.replace(
        state,
        position=state.position + 1,
        live_ids=write_tokens(live_ids, tokens, state.position),
        live_log_probs=live_log_probs,
        live_own_log_probs=own,
        stop_states=stop_states,
        word_states=word_states,
        coverage=coverage,
    )
    return state, parents


def mark_done(state: BeamState, shape: SearchShape, values: SearchValues) -> BeamState:
    """End the sentences for which nothing that can still come would be returned."""
    best_live = state.live_log_probs[:, 0]
    worst_kept = state.scores[:, -1]
    alpha, kind = values.length_penalty, shape.length_penalty_kind
    if shape.early_stopping == "first":
        done = (state.num_finished >= shape.num_beams) | (best_live == -jnp.inf)
    elif shape.early_stopping == "heuristic":
        done = best_live / length_penalty(state.position, alpha, kind=kind) <= worst_kept
    else:
        shortest = jnp.minimum(jnp.maximum(state.position, values.min_length) + 1, state.limits)
        bound = best_attainable_score(best_live, shortest, state.limits, alpha, kind=kind)
        done = bound <= worst_kept
    # At its limit a hypothesis can only end.
    return dataclasses.replace(state, done=state.done | done | (state.position >= state.limits))
