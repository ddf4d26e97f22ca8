"""Greedy search and sampling inside one program, for any `Decodable` model."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from seqgen.decoding.config import SearchShape, SearchValues
from seqgen.decoding.constraints import token_rules
from seqgen.decoding.filters import keep_min_p, keep_top_k, keep_top_p, keep_typical
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
from seqgen.decoding.stepping import next_logits, write_tokens
from seqgen.decoding.top_tokens import top_tokens
from seqgen.models.base import Decodable
from seqgen.types import BOS_ID, EOS_ID, PAD_ID, Array, Encoded, PyTree


def make_row_keys(seed: int | Array, lines: Array) -> Array:
    """Typed PRNG keys [B], one for each line number [B] of the input, whatever its batch."""
    return jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.asarray(lines))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SampleState:
    """The loop's state: N independent answers of each sentence.

    Attributes:
      position: int32 scalar, tokens generated so far.
      ids: int32 [B, N, T].
      log_probs: float32 [B, N], the model's own.
      ruled_log_probs: float32 [B, N], of penalised logits; None where nothing is penalised.
      lengths: int32 [B, N]; final where `done`.
      done: bool [B, N].
      limits: int32 [B], most tokens of an answer.
      first_ids: int32 [B], what the first step reads.
      stop_states: int32 [B, N] of `stops.follow`; None without a prompt.
      keys: typed PRNG keys [B, N], or None where nothing is drawn.
      model: the decoder's own state.
    """

    position: Array
    ids: Array
    log_probs: Array
    ruled_log_probs: Array | None
    lengths: Array
    done: Array
    limits: Array
    first_ids: Array
    stop_states: Array | None
    keys: Array | None
    model: PyTree


def sample(
    model: Decodable,
    encoded: Encoded,
    limits: Array,
    row_keys: Array,
    *,
    shape: SearchShape,
    values: SearchValues,
    max_len: int,
    prompt: Prompt | None = None,
    run: Any = run_shrinking,
) -> Hypotheses:
    """N answers a sentence, token by token: the likeliest token, or one drawn.

    Args:
      model: the decoder.
      encoded: B sentences.
      limits: int32 [B] most tokens of an answer.
      row_keys: typed PRNG keys [B]; sample n at position t draws from the key folded with n and t,
        so neither neighbours nor the number of samples matter. Unused without `do_sample`.
      shape: kinds and sizes.
      values: numbers.
      max_len: T, room for the tokens of one answer; at least every limit.
      prompt: what the answers go on from; without one they begin behind BOS and end with EOS.
      run: repeats the steps, as `run_shrinking` does.
    """
    batch, answers = limits.shape[0], shape.num_return_sequences
    fold = jax.vmap(jax.vmap(jax.random.fold_in, (None, 0)), (0, None))
    keys = fold(row_keys, jnp.arange(answers)) if shape.do_sample else None
    start = SampleState(
        position=jnp.int32(0),
        ids=jnp.full((batch, answers, max_len), PAD_ID, jnp.int32),
        log_probs=jnp.zeros((batch, answers)),
        ruled_log_probs=jnp.zeros((batch, answers)) if has_penalties(values) else None,
        lengths=jnp.zeros((batch, answers), jnp.int32),
        done=jnp.zeros((batch, answers), bool),
        limits=limits,
        first_ids=jnp.full((batch,), BOS_ID) if prompt is None else prompt.first_ids,
        stop_states=None if prompt is None else jnp.zeros((batch, answers), jnp.int32),
        keys=keys,
        model=model.init_decode(encoded, max_len=max_len, num_beams=answers),
    )

    def step(state: SampleState) -> SampleState:
        logits, _, model_state = next_logits(
            model, state.model, state.ids, state.position, state.first_ids
        )
        constrain = token_rules(state, values)
        ruled = apply_rules(logits, state.ids, state, values=values)
        normalizers = own_normalizers(logits, ruled)
        if state.keys is None:
            best, likeliest = top_tokens(ruled, 1, constrain, normalizers)
            gains, tokens = best[:, :, 0], likeliest[:, :, 0]
        else:
            allowed = constrain(ruled, jnp.arange(logits.shape[-1]))
            tokens = draw_tokens(allowed, _fold_position(state.keys, state.position), values)
            chosen = jnp.take_along_axis(allowed, tokens[:, :, None], axis=-1)[:, :, 0]
            gains = jnp.minimum(chosen - jax.nn.logsumexp(logits, axis=-1), 0.0)
        # No token is possible where the logits are not numbers: the answer ends there.
        lost = ~jnp.isfinite(gains)
        tokens = jnp.where(lost, EOS_ID, tokens).astype(jnp.int32)
        gains = jnp.where(lost, -jnp.inf, gains)
        ends = ends_answer(tokens, values)
        ends, stop_states = end_by_prompt(prompt, ends, state.stop_states, tokens, state)
        written = jnp.where(state.done, PAD_ID, tokens)
        ruled_log_probs = state.ruled_log_probs
        if ruled_log_probs is not None:
            ruled_log_probs = jnp.where(state.done, ruled_log_probs, ruled_log_probs + gains)
            own = own_log_probs(logits, tokens[:, :, None], normalizers)[:, :, 0]
            gains = jnp.where(lost, -jnp.inf, own)
        return dataclasses.replace(
            state,
            position=state.position + 1,
            ids=write_tokens(state.ids, written, state.position),
            log_probs=jnp.where(state.done, state.log_probs, state.log_probs + gains),
            ruled_log_probs=ruled_log_probs,
            lengths=jnp.where(state.done, state.lengths, state.position + 1),
            done=state.done | ends,
            stop_states=stop_states,
            model=model_state,
        )

    found, final = run(
        start,
        step=step,
        is_done=lambda state: jnp.all(state.done, axis=1),
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
        scores=(log_probs if ruled_log_probs is None else ruled_log_probs) / penalty,
        num_steps=final.position,
    )


def draw_tokens(logits: Array, keys: Array, values: SearchValues) -> Array:
    """One id a row from softmax(logits / temperature) cut to top-k, top-p, min-p, typical ones.

    A filter sees what those before it left, in that order (Hugging Face's).

    Args:
      logits: float32 [B, N, V]; -inf is never drawn.
      keys: typed PRNG keys [B, N].
      values: those of `filter_logits`.

    Returns:
      int32 [B, N].
    """
    logits = filter_logits(logits, values)
    weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
    heights = jnp.cumsum(weights, axis=-1)
    draw = jax.vmap(jax.vmap(jax.random.uniform))(keys)[:, :, None] * heights[:, :, -1:]
    return _first_reached(weights, heights, draw)


def draw_ids(weights: Array, uniforms: Array) -> Array:
    """One id a row by inverting the running sum of weights [..., V] at `uniforms` [...]."""
    heights = jnp.cumsum(weights, axis=-1)
    return _first_reached(weights, heights, uniforms[..., None] * heights[..., -1:])


def filter_logits(logits: Array, values: SearchValues) -> Array:
    """Logits [..., V] over the temperature, -inf for tokens that the filters leave out.

    Args:
      logits: float32.
      values: `temperature`, `top_k`, `top_p`, `min_p`, `typical_p`.
    """
    logits = logits / values.temperature
    logits = jax.lax.cond(
        values.top_k > 0, lambda x: keep_top_k(x, values.top_k), lambda x: x, logits
    )
    logits = jax.lax.cond(
        values.top_p < 1.0, lambda x: keep_top_p(x, values.top_p), lambda x: x, logits
    )
    if values.min_p is not None:
        logits = keep_min_p(logits, values.min_p)
    if values.typical_p is not None:
        logits = keep_typical(logits, values.typical_p)
    return logits


def _first_reached(weights: Array, heights: Array, draw: Array) -> Array:
    """Where the running sums `heights` [..., V] of `weights` first exceed `draw` [..., 1]."""
    # Rounding in the running sum may make a token of weight 0 look reached: it is never taken.
    reached = (heights > draw) & (weights > 0)
    fallback = jnp.argmax(weights, axis=-1)
    return jnp.where(jnp.any(reached, axis=-1), jnp.argmax(reached, axis=-1), fallback)


def _fold_position(keys: Array, position: Array) -> Array:
    return jax.vmap(jax.vmap(jax.random.fold_in, (0, None)), (0, None))(keys, position)
