"""Contrastive search: the likely token whose state is least like those before it.

Su et al. 2022, "A contrastive framework for neural text generation", arXiv:2202.06417, section 4.
Each of the k likeliest tokens is read in a beam of its own, so a step is one pass over k rows; the
chosen one's state then goes on in all of them.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from seqgen.decoding.config import SearchShape, SearchValues
from seqgen.decoding.constraints import token_rules
from seqgen.decoding.hypotheses import Hypotheses
from seqgen.decoding.length_penalty import length_penalty
from seqgen.decoding.prompts import Prompt, end_by_prompt
from seqgen.decoding.rules import (
    apply_rules,
    ends_answer,
    has_penalties,
    own_log_probs,
    own_normalizers,
)
from seqgen.decoding.shrinking import run_shrinking, take_sentences
from seqgen.decoding.stepping import write_tokens
from seqgen.decoding.top_tokens import top_tokens
from seqgen.errors import refuse
from seqgen.models.base import Decodable
from seqgen.types import BOS_ID, EOS_ID, PAD_ID, Array, PyTree, Sequences, no_source


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ContrastiveState:
    """The loop's state, one answer a sentence.

    Attributes:
      position: int32 scalar, tokens generated so far.
      ids: int32 [B, 1, T].
      logits: float32 [B, 1, V] of the next token.
      history: float32 [B, H, E], `compared_states` of what was read, each of length 1.
      seen: bool [B, H], those that are there.
      log_probs: float32 [B, 1], the model's own.
      ruled_log_probs: float32 [B, 1], of penalised logits.
      lengths: int32 [B, 1]; final where `done`.
      done: bool [B, 1].
      limits: int32 [B], most tokens of an answer.
      stop_states: int32 [B, 1] of `stops.follow`; None without a prompt.
      model: the decoder's own state of k equal beams.
    """

    position: Array
    ids: Array
    logits: Array
    history: Array
    seen: Array
    log_probs: Array
    ruled_log_probs: Array
    lengths: Array
    done: Array
    limits: Array
    stop_states: Array | None
    model: PyTree


def contrastive_search(
    model: Decodable,
    source: Sequences,
    limits: Array,
    *,
    shape: SearchShape,
    values: SearchValues,
    max_len: int,
    prompt: Prompt | None = None,
    run: Any = run_shrinking,
) -> Hypotheses:
    """One answer a sentence.

    Args:
      model: a bound model.
      source: B sentences; where there is a prompt, all of it but its last token, whose hidden
        states are part of the history.
      limits: int32 [B] most tokens of an answer.
      shape: kinds and sizes; `contrastive_k` is k.
      values: numbers.
      max_len: T, room for the tokens of one answer; at least every limit.
      prompt: what the answers go on from; without one they begin behind BOS and end with EOS.
      run: repeats the steps, as `run_shrinking` does.
    """
    batch, k = limits.shape[0], shape.contrastive_k
    first_ids = jnp.full((batch,), BOS_ID) if prompt is None else prompt.first_ids
    state, history, seen = _read_prompt(model, source, prompt, k, max_len + 1)

    def compared(hidden: Array) -> Array:
        return unit(model.compared_states(hidden))

    def read(state: PyTree, tokens: Array) -> tuple[Array, PyTree]:
        """Hidden states [B, k, D] of tokens [B, k], one a beam."""
        rows = tokens.reshape(-1, 1)
        output, state = model.extend(state, rows, jnp.ones(rows.shape[:1], jnp.int32))
        return output.hidden.reshape(*tokens.shape, -1), state

    hidden, state = read(state, jnp.broadcast_to(first_ids[:, None], (batch, k)))
    hidden = hidden[:, :1]
    first = compared(hidden)
    room = jnp.zeros((batch, max_len, first.shape[-1]))
    history = [] if history is None else [compared(history)]
    start = ContrastiveState(
        position=jnp.int32(0),
        ids=jnp.full((batch, 1, max_len), PAD_ID, jnp.int32),
        logits=model.output_logits(hidden).astype(jnp.float32),
        history=jnp.concatenate([*history, first, room], axis=1),
        seen=jnp.concatenate([seen, jnp.arange(max_len + 1) < jnp.ones((batch, 1))], axis=1),
        log_probs=jnp.zeros((batch, 1)),
        ruled_log_probs=jnp.zeros((batch, 1)),
        lengths=jnp.zeros((batch, 1), jnp.int32),
        done=jnp.zeros((batch, 1), bool),
        limits=limits,
        stop_states=None if prompt is None else jnp.zeros((batch, 1), jnp.int32),
        model=state,
    )
    begun = start.history.shape[1] - max_len

    def step(state: ContrastiveState) -> ContrastiveState:
        ruled = apply_rules(state.logits, state.ids, state, values=values)
        normalizers = own_normalizers(state.logits, ruled)
        gains, candidates = top_tokens(ruled, k, token_rules(state, values), normalizers)
        hidden, model_state = read(state.model, candidates[:, 0])
        directions = compared(hidden)
        scores = contrastive_scores(
            jnp.exp(gains[:, 0]), directions, state.history, state.seen, values.penalty_alpha
        )
        scores = jnp.where(jnp.isfinite(gains[:, 0]), scores, -jnp.inf)
        best = jnp.argmax(scores, axis=-1)[:, None]

        def chosen(values: Array) -> Array:
            return jnp.take_along_axis(values, best, axis=1)

        tokens, gains = chosen(candidates[:, 0]), chosen(gains[:, 0])
        own = gains
        if normalizers is not None:
            own = own_log_probs(state.logits, tokens[:, :, None], normalizers)[:, :, 0]
        # No token is possible where the logits are not numbers: the answer ends there.
        lost = ~jnp.isfinite(gains)
        tokens = jnp.where(lost, EOS_ID, tokens).astype(jnp.int32)
        gains, own = (jnp.where(lost, -jnp.inf, x) for x in (gains, own))
        ends = ends_answer(tokens, values)
        ends, stop_states = end_by_prompt(prompt, ends, state.stop_states, tokens, state)
        hidden = jnp.take_along_axis(hidden, best[:, :, None], axis=1)
        place = begun + state.position
        direction = jnp.take_along_axis(directions, best[:, :, None], axis=1)
        history = jax.lax.dynamic_update_slice_in_dim(state.history, direction, place, axis=1)
        return dataclasses.replace(
            state,
            position=state.position + 1,
            ids=write_tokens(state.ids, jnp.where(state.done, PAD_ID, tokens), state.position),
            logits=model.output_logits(hidden).astype(jnp.float32),
            history=history,
            seen=state.seen | (jnp.arange(history.shape[1]) == place),
            log_probs=jnp.where(state.done, state.log_probs, state.log_probs + own),
            ruled_log_probs=jnp.where(
                state.done, state.ruled_log_probs, state.ruled_log_probs + gains
            ),
            lengths=jnp.where(state.done, state.lengths, state.position + 1),
            done=state.done | ends,
            stop_states=stop_states,
            model=model.reorder(model_state, jnp.broadcast_to(best, candidates[:, 0].shape)),
        )

    found, final = run(
        start,
        step=step,
        is_done=lambda state: state.done[:, 0],
        select=lambda state, rows: take_sentences(state, rows, model=model),
        outputs=lambda state: (state.ids, state.log_probs, state.ruled_log_probs, state.lengths),
    )
    ids, log_probs, ruled_log_probs, lengths = found
    lost = log_probs == -jnp.inf
    lengths = jnp.where(lost, 0, lengths)
    penalty = length_penalty(lengths, values.length_penalty, kind=shape.length_penalty_kind)
    return Hypotheses(
        ids=jnp.where(lost[:, :, None], PAD_ID, ids),
        lengths=lengths,
        log_probs=log_probs,
        scores=(ruled_log_probs if has_penalties(values) else log_probs) / penalty,
        num_steps=final.position,
    )


def contrastive_scores(
    probs: Array, hidden: Array, history: Array, seen: Array, alpha: Array
) -> Array:
    """(1 - alpha) * p - alpha * max of cosines with the history, float32 [B, k]; equation 5.

    Args:
      probs: float32 [B, k], the model's of each candidate.
      hidden: float32 [B, k, D] of `unit`, states after reading each one.
      history: float32 [B, H, D] of `unit`.
      seen: bool [B, H], the states of the history that are there, at least one.
      alpha: float32 scalar in [0, 1].
    """
    cosines = jnp.einsum("bkd,bhd->bkh", hidden, history, precision="highest")
    nearest = jnp.max(jnp.where(seen[:, None], cosines, -jnp.inf), axis=-1)
    return (1.0 - alpha) * probs - alpha * nearest


def unit(vectors: Array) -> Array:
    """float32 vectors [..., D] of length 1; one of zeros stays as it is."""
    vectors = vectors.astype(jnp.float32)
    length = jnp.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / jnp.where(length > 0, length, 1.0)


def _read_prompt(
    model: Decodable, source: Sequences, prompt: Prompt | None, k: int, max_len: int
) -> tuple[PyTree, Array | None, Array]:
    """Decode state of k equal beams, hidden states [B, W, D] of a prompt, and where they are."""
    batch, width = source.ids.shape
    if prompt is None:
        state = model.init_decode(model.encode(source), max_len=max_len, num_beams=k)
        return state, None, jnp.zeros((batch, 0), bool)
    if getattr(model, "sees_whole_prefix", False):
        refuse(
            "contrastive_k: reads a prompt as an answer is read, and this model "
            "(model.encoder.prefix_attention=full) reads prompts as a whole",
            ("choose", "another search"),
        )
    # What a prompt is encoded to does not tell its hidden states: it is read as an answer is.
    nothing = model.encode(no_source(batch))
    state = model.init_decode(nothing, max_len=width + max_len, num_beams=k)
    seen = source.segments > 0
    lengths = jnp.sum(seen, axis=1, dtype=jnp.int32)
    output, state = model.extend(
        state, jnp.repeat(source.ids, k, axis=0), jnp.repeat(lengths, k, axis=0)
    )
    return state, output.hidden[::k], seen
