"""Beam search inside one program, for any model that keeps the `Decodable` contract."""

import dataclasses

import jax
import jax.numpy as jnp

from seqgen.decoding.config import SearchShape, SearchValues
from seqgen.decoding.constraints import token_rules
from seqgen.decoding.hypotheses import Hypotheses
from seqgen.decoding.length_penalty import best_attainable_score, length_penalty
from seqgen.decoding.prompts import Prompt
from seqgen.decoding.shrinking import run_shrinking, take_sentences
from seqgen.decoding.stepping import next_logits, write_tokens
from seqgen.decoding.stops import follow
from seqgen.decoding.top_tokens import top_tokens
from seqgen.models.base import Decodable
from seqgen.types import BOS_ID, EOS_ID, PAD_ID, Array, Encoded, PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BeamState:
    """The loop's state. K live hypotheses and the N best finished ones of each sentence.

    Attributes:
      position: int32 scalar, tokens generated so far.
      live_ids: int32 [B, K, T].
      live_log_probs: float32 [B, K], best first; -inf marks a beam that holds nothing.
      ids: int32 [B, N, T] of finished hypotheses, best first.
      scores: float32 [B, N]; -inf marks an empty place.
      log_probs: float32 [B, N].
      lengths: int32 [B, N].
      num_finished: int32 [B], finished hypotheses met so far.
      done: bool [B], nothing more is searched for this sentence.
      limits: int32 [B], most tokens of an answer.
      first_ids: int32 [B], what the first step reads.
      stop_states: int32 [B, K] of `stops.follow`; None without a prompt.
      model: the decoder's own state.
    """

    position: Array
    live_ids: Array
    live_log_probs: Array
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


def beam_search(
    model: Decodable,
    encoded: Encoded,
    limits: Array,
    *,
    shape: SearchShape,
    values: SearchValues,
    max_len: int,
    prompt: Prompt | None = None,
) -> Hypotheses:
    """The N best hypotheses of a beam of K, by log-probability over length penalty.

    A hypothesis that ends is kept only if its EOS ranks among the K best continuations (as Hugging
    Face and fairseq do), so that a beam of one is greedy search.

    Args:
      model: the decoder.
      encoded: B sentences.
      limits: int32 [B] most tokens of an answer.
      shape: kinds and sizes.
      values: numbers.
      max_len: T, room for the tokens of one hypothesis; at least every limit.
      prompt: what the answers go on from; without one they begin behind BOS and end with EOS.
    """
    batch, beams = limits.shape[0], shape.num_beams
    answers = shape.num_return_sequences
    start = BeamState(
        position=jnp.int32(0),
        live_ids=jnp.full((batch, beams, max_len), PAD_ID, jnp.int32),
        live_log_probs=jnp.full((batch, beams), -jnp.inf).at[:, 0].set(0.0),
        ids=jnp.full((batch, answers, max_len), PAD_ID, jnp.int32),
        scores=jnp.full((batch, answers), -jnp.inf),
        log_probs=jnp.full((batch, answers), -jnp.inf),
        lengths=jnp.zeros((batch, answers), jnp.int32),
        num_finished=jnp.zeros((batch,), jnp.int32),
        done=jnp.zeros((batch,), bool),
        limits=limits,
        first_ids=jnp.full((batch,), BOS_ID) if prompt is None else prompt.first_ids,
        stop_states=None if prompt is None else jnp.zeros((batch, beams), jnp.int32),
        model=model.init_decode(encoded, max_len=max_len, num_beams=beams),
    )

    def step(state: BeamState) -> BeamState:
        logits, model_state = next_logits(
            model, state.model, state.live_ids, state.position, state.first_ids
        )
        log_probs, parents, tokens = _best_continuations(logits, state, values)
        ends, stop_states = tokens == EOS_ID, None
        if prompt is not None:
            assert state.stop_states is not None
            begun = jnp.take_along_axis(state.stop_states, parents, axis=1)
            stop_states, stopped = follow(prompt.stops, begun, tokens)
            ends = ends | stopped | (state.position + 1 >= state.limits)[:, None]
        state = _keep_finished(state, log_probs, parents, tokens, ends, shape, values)
        continuations = log_probs, parents, tokens, stop_states
        state = _advance(state, continuations, ends, model, model_state)
        return _mark_done(state, shape, values)

    found, final = run_shrinking(
        start,
        step=step,
        is_done=lambda state: state.done,
        select=lambda state, rows: take_sentences(state, rows, model=model),
        outputs=lambda state: {
            name: getattr(state, name) for name in ("ids", "lengths", "log_probs", "scores")
        },
    )
    return Hypotheses(**found, num_steps=final.position)


def _best_continuations(
    logits: Array, state: BeamState, values: SearchValues
) -> tuple[Array, Array, Array]:
    """The 2K best continuations of a sentence, best first: log-probs, parents, tokens [B, 2K].

    One beam adds at most K + 1 of them: K that live on, and its EOS. Ties go to the lowest beam,
    then to the lowest id.
    """
    batch, beams, vocab = logits.shape
    constrain = token_rules(state, values)
    gains, tokens = top_tokens(logits, min(beams + 1, vocab), constrain)
    # One logit that is not a number spoils the sum of all: such a beam has no continuation.
    gains = jnp.where(jnp.isnan(gains), -jnp.inf, gains)
    totals = (state.live_log_probs[:, :, None] + gains).reshape(batch, -1)
    log_probs, places = jax.lax.top_k(totals, 2 * beams)
    parents = places // gains.shape[2]
    return log_probs, parents, jnp.take_along_axis(tokens.reshape(batch, -1), places, axis=1)


def _keep_finished(
    state: BeamState,
    log_probs: Array,
    parents: Array,
    tokens: Array,
    ends: Array,
    shape: SearchShape,
    values: SearchValues,
) -> BeamState:
    """Merge the hypotheses that end now into the N best finished ones."""
    beams = shape.num_beams
    ends = ends[:, :beams] & jnp.isfinite(log_probs[:, :beams]) & ~state.done[:, None]
    length = state.position + 1
    penalty = length_penalty(length, values.length_penalty, kind=shape.length_penalty_kind)
    new_log_probs = jnp.where(ends, log_probs[:, :beams], -jnp.inf)
    new_ids = jnp.take_along_axis(state.live_ids, parents[:, :beams, None], axis=1)
    new_ids = write_tokens(new_ids, tokens[:, :beams], state.position)
    # Old ones stand first, so that a tie keeps the hypothesis that was found first.
    scores, places = jax.lax.top_k(
        jnp.concatenate([state.scores, new_log_probs / penalty], axis=1), state.scores.shape[1]
    )

    def merged(old: Array, new: Array) -> Array:
        both = jnp.concatenate([old, new], axis=1)
        return jnp.take_along_axis(both, places.reshape(places.shape + (1,) * (old.ndim - 2)), 1)

    found = scores > -jnp.inf
    return dataclasses.replace(
        state,
        scores=scores,
        ids=jnp.where(found[:, :, None], merged(state.ids, new_ids), PAD_ID),
        log_probs=merged(state.log_probs, new_log_probs),
        lengths=jnp.where(found, merged(state.lengths, jnp.broadcast_to(length, ends.shape)), 0),
        num_finished=state.num_finished + jnp.sum(ends, axis=1, dtype=jnp.int32),
    )


def _advance(
    state: BeamState,
    continuations: tuple[Array, Array, Array, Array | None],
    ends: Array,
    model: Decodable,
    model_state: PyTree,
) -> BeamState:
    """Let the K best continuations that do not end live on."""
    log_probs, *others = continuations
    beams = state.live_ids.shape[1]
    live_log_probs, places = jax.lax.top_k(jnp.where(ends, -jnp.inf, log_probs), beams)
    parents, tokens, stop_states = jax.tree.map(
        lambda leaf: jnp.take_along_axis(leaf, places, axis=1), others
    )
    live_ids = jnp.take_along_axis(state.live_ids, parents[:, :, None], axis=1)
    return dataclasses.replace(
        state,
        position=state.position + 1,
        live_ids=write_tokens(live_ids, tokens, state.position),
        live_log_probs=live_log_probs,
        stop_states=stop_states,
        model=model.reorder(model_state, parents),
    )


def _mark_done(state: BeamState, shape: SearchShape, values: SearchValues) -> BeamState:
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
