"""Speculative decoding: a small draft model proposes, the model itself checks several at once.

Leviathan et al. 2023, "Fast inference from Transformers via speculative decoding",
arXiv:2211.17192. The draft writes K tokens one by one; one pass of the model over them gives its
own choice at each of their places and at one more. What the draft got right is kept, the first
wrong token is replaced, and both models forget what they have read beyond it (`rewind`).

Greedy text is the model's own, whatever the draft is. Drawn text has the model's own distribution.

Sentences keep different numbers of tokens, so each is a search of its own: `vmap` runs them side by
side, and no sentence waits for another but at the end.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from seqgen.decoding.config import SearchShape, SearchValues
from seqgen.decoding.constraints import token_rules
from seqgen.decoding.hypotheses import Hypotheses
from seqgen.decoding.length_penalty import length_penalty
from seqgen.decoding.prompts import Prompt
from seqgen.decoding.rules import apply_rules, ends_answer, has_penalties
from seqgen.decoding.sampling import draw_ids, filter_logits
from seqgen.decoding.shrinking import run_shrinking
from seqgen.decoding.stops import follow
from seqgen.models.base import Decodable
from seqgen.types import BOS_ID, EOS_ID, PAD_ID, Array, Encoded, PyTree

_PROPOSE, _ACCEPT, _REPLACE = range(3)  # what a position's random numbers are for


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SpeculativeState:
    """The loop's state, leaves [B, ...]; inside a step that of one sentence, without the B.

    Attributes:
      position: int32 [B], tokens generated so far.
      ids: int32 [B, T + K + 1]; what stands from `position` on means nothing.
      log_probs: float32 [B], the model's own.
      ruled_log_probs: float32 [B], of penalised logits.
      done: bool [B].
      passes: int32 [B], passes of the model that a sentence took.
      limits: int32 [B], most tokens of an answer.
      first_ids: int32 [B], what the first step reads.
      stop_states: int32 [B] of `stops.follow`; None without a prompt.
      keys: typed PRNG keys [B], or None where nothing is drawn.
      model: the model's decode state, of one row for each sentence, [B, 1, ...].
      draft: the draft's.
    """

    position: Array
    ids: Array
    log_probs: Array
    ruled_log_probs: Array
    done: Array
    passes: Array
    limits: Array
    first_ids: Array
    stop_states: Array | None
    keys: Array | None
    model: PyTree
    draft: PyTree


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where rules are applied, as a search's state tells it; `limits` [1]."""

    position: Array
    limits: Array
    stop_states: Array | None


def speculate(
    model: Decodable,
    draft: Decodable,
    encoded: Encoded,
    encoded_draft: Encoded,
    limits: Array,
    row_keys: Array,
    *,
    shape: SearchShape,
    values: SearchValues,
    max_len: int,
    prompt: Prompt | None = None,
    run: Any = run_shrinking,
) -> Hypotheses:
    """One answer a sentence: the greedy one of `model`, or one drawn from it.

    Args:
      model: the decoder whose text it is.
      draft: any decoder of the same vocabulary.
      encoded: B sentences, as `model` encodes them.
      encoded_draft: the same sentences, as `draft` does.
      limits: int32 [B] most tokens of an answer.
      row_keys: typed PRNG keys [B]; a draw depends on a sentence's key and the position alone.
      shape: kinds and sizes; `num_draft_tokens` is K.
      values: numbers.
      max_len: T, room for the tokens of one answer; at least every limit.
      prompt: what the answers go on from; without one they begin behind BOS and end with EOS.
      run: repeats the steps, as `run_shrinking` does.

    Returns:
      `num_steps` is the most passes of the model that a sentence took.
    """
    batch, num_drafts = limits.shape[0], shape.num_draft_tokens
    room = max_len + num_drafts + 1

    def begin(model: Decodable, encoded: Encoded) -> PyTree:
        def one(encoded: Encoded) -> PyTree:
            single = jax.tree.map(lambda leaf: leaf[None], encoded)
            return model.init_decode(single, max_len=room, num_beams=1, rewindable=True)

        return jax.vmap(one)(encoded)

    start = SpeculativeState(
        position=jnp.zeros((batch,), jnp.int32),
        ids=jnp.full((batch, room), PAD_ID, jnp.int32),
        log_probs=jnp.zeros((batch,)),
        ruled_log_probs=jnp.zeros((batch,)),
        done=jnp.zeros((batch,), bool),
        passes=jnp.zeros((batch,), jnp.int32),
        limits=limits,
        first_ids=jnp.full((batch,), BOS_ID) if prompt is None else prompt.first_ids,
        stop_states=None if prompt is None else jnp.zeros((batch,), jnp.int32),
        keys=row_keys if shape.do_sample else None,
        model=begin(model, encoded),
        draft=begin(draft, encoded_draft),
    )
    stops = None if prompt is None else prompt.stops

    def step(state: SpeculativeState) -> SpeculativeState:
        def move(state: SpeculativeState) -> SpeculativeState:
            return _move(state, model, draft, values, stops, num_drafts)

        return jax.vmap(move)(state)

    found, _ = run(
        start,
        step=step,
        is_done=lambda state: state.done,
        select=lambda state, rows: jax.tree.map(lambda leaf: leaf[rows], state),
        outputs=lambda state: (
            *(state.ids[:, :max_len], state.position, state.passes),
            *(state.log_probs, state.ruled_log_probs),
        ),
    )
    ids, lengths, passes, log_probs, ruled_log_probs = found
    lost = log_probs == -jnp.inf
    lengths = jnp.where(lost, 0, lengths)
    penalty = length_penalty(lengths, values.length_penalty, kind=shape.length_penalty_kind)
    scores = (ruled_log_probs if has_penalties(values) else log_probs) / penalty
    written = jnp.arange(max_len) < lengths[:, None]
    return Hypotheses(
        ids=jnp.where(written, ids, PAD_ID)[:, None],
        lengths=lengths[:, None],
        log_probs=log_probs[:, None],
        scores=scores[:, None],
        num_steps=jnp.max(passes),
    )


def _move(
    state: SpeculativeState,
    model: Decodable,
    draft: Decodable,
    values: SearchValues,
    stops: Array | None,
    num_drafts: int,
) -> SpeculativeState:
    """Propose, check, keep: one sentence, one pass of the model."""
    first = state.position

    def ruled(logits: Array, ids: Array, position: Array) -> tuple[Array, Array]:
        """Logits [V] under the rules, without and with those on control ids and lengths."""
        place = _Place(position, state.limits[None], state.stop_states)
        free = apply_rules(logits[None, None], ids[None, None], place, values=values)
        return free[0, 0], token_rules(place, values)(free, jnp.arange(logits.shape[-1]))[0, 0]

    newest = jnp.where(first == 0, state.first_ids, state.ids[jnp.maximum(first - 1, 0)])

    def propose(carry: tuple[PyTree, Array, Array], position: Array):
        draft_state, ids, token = carry
        logits, draft_state = _read(draft, draft_state, token[None])
        _, allowed = ruled(logits[0], ids, position)
        if state.keys is None:
            token, probs = jnp.argmax(allowed, axis=-1), jnp.zeros(0)
        else:
            allowed = filter_logits(allowed[None], values)[0]
            probs = jax.nn.softmax(allowed)
            token = draw_ids(probs, _uniform(state.keys, position, _PROPOSE))
        token = token.astype(jnp.int32)
        return (draft_state, ids.at[position].set(token), token), (token, probs)

    # One step more than there are proposals: the draft must have read the last one too.
    places = first + jnp.arange(num_drafts + 1)
    (draft_state, ids, _), (drafts, draft_probs) = jax.lax.scan(
        propose, (state.draft, state.ids, newest), places
    )
    drafts = drafts[:-1]

    logits, model_state = _read(model, state.model, jnp.concatenate([newest[None], drafts]))
    free, allowed = jax.vmap(ruled, (0, None, 0))(logits, ids, places)
    if state.keys is None:
        choices = jnp.argmax(allowed, axis=-1)
        accepted = drafts == choices[:-1]
    else:
        probs = jax.nn.softmax(filter_logits(allowed, values), axis=-1)
        uniforms = jax.vmap(_uniform, (None, 0, None))
        draws = uniforms(state.keys, places[:-1], _ACCEPT)
        accepted = accept_drawn(probs[:-1], draft_probs[:-1], drafts, draws)
        spare = jnp.concatenate([residual(probs[:-1], draft_probs[:-1]), probs[-1:]])
        choices = jax.vmap(draw_ids)(spare, uniforms(state.keys, places, _REPLACE))
    kept = jnp.sum(jnp.cumprod(accepted.astype(jnp.int32)))
    choices = choices.astype(jnp.int32)
    tokens = jnp.where(jnp.arange(num_drafts + 1) < kept, jnp.append(drafts, PAD_ID), choices)

    normalizers = jax.nn.logsumexp(logits, axis=-1)

    def gains_of(logits: Array) -> Array:
        chosen = jnp.take_along_axis(logits, tokens[:, None], axis=-1)[:, 0]
        return jnp.minimum(chosen - normalizers, 0.0)

    gains, own = gains_of(free), gains_of(logits)
    chosen = jnp.take_along_axis(allowed, tokens[:, None], axis=-1)[:, 0]
    # No token is possible where the logits are not numbers: the answer ends there.
    lost = ~jnp.isfinite(gains) | ~jnp.isfinite(chosen)
    tokens = jnp.where(lost, EOS_ID, tokens)
    ends, stop_states = _ends(tokens, places, state, values, stops)
    count = 1 + jnp.minimum(kept, jnp.argmax(ends | (jnp.arange(num_drafts + 1) == num_drafts)))
    counted = jnp.arange(num_drafts + 1) < count

    def total(gains: Array) -> Array:
        return jnp.sum(jnp.where(counted, jnp.where(lost, -jnp.inf, gains), 0.0))

    position = jnp.where(state.done, first, first + count)
    written = jax.lax.dynamic_update_slice(state.ids, tokens, (first,))
    now = jnp.reshape(position, (1,))
    return dataclasses.replace(
        state,
        position=position,
        ids=jnp.where(state.done, state.ids, written),
        log_probs=jnp.where(state.done, state.log_probs, state.log_probs + total(own)),
        ruled_log_probs=jnp.where(
            state.done, state.ruled_log_probs, state.ruled_log_probs + total(gains)
        ),
        done=state.done | ends[count - 1],
        passes=state.passes + ~state.done,
        stop_states=None if stop_states is None else stop_states[count - 1],
        model=model.rewind(model_state, now),
        draft=draft.rewind(draft_state, now),
    )


def _read(model: Decodable, state: PyTree, tokens: Array) -> tuple[Array, PyTree]:
    """float32 logits [n, V] after each of `tokens` [n], and the new state."""
    output, state = model.extend(state, tokens[None], jnp.full((1,), tokens.shape[0], jnp.int32))
    return model.output_logits(output.hidden[0]).astype(jnp.float32), state


def _ends(
    tokens: Array,
    places: Array,
    state: SpeculativeState,
    values: SearchValues,
    stops: Array | None,
) -> tuple[Array, Array | None]:
    """Which of `tokens` [n] at `places` [n] end the answer, and the stop states after each."""
    ends = ends_answer(tokens, values)
    if stops is None:
        return ends, None

    def pass_on(begun: Array, token: Array) -> tuple[Array, tuple[Array, Array]]:
        after, stopped = follow(stops, begun, token)
        return after, (after, stopped)

    _, (stop_states, stopped) = jax.lax.scan(pass_on, state.stop_states, tokens)
    return ends | stopped | (places + 1 >= state.limits), stop_states


def accept_drawn(probs: Array, draft_probs: Array, drafts: Array, draws: Array) -> Array:
    """Bool [K], which proposals stand: each with probability min(1, p / q).

    Args:
      probs: float32 [K, V], p of the model at each place.
      draft_probs: float32 [K, V], q, which `drafts` were drawn from.
      drafts: int32 [K].
      draws: float32 [K], uniform in [0, 1).
    """
    p, q = (jnp.take_along_axis(x, drafts[:, None], axis=-1)[:, 0] for x in (probs, draft_probs))
    return draws * q < p


def residual(probs: Array, draft_probs: Array) -> Array:
    """What a refused proposal is replaced from, float32 [..., V]: max(p - q, 0), normalised.

    min(p, q) + (1 - sum(min(p, q))) * residual = p, so that the text is the model's own. Where p is
    nowhere above q, which only rounding can bring about, it is p.
    """
    spare = jnp.maximum(probs - draft_probs, 0.0)
    total = jnp.sum(spare, axis=-1, keepdims=True)
    return jnp.where(total > 0, spare / jnp.where(total > 0, total, 1.0), probs)


def _uniform(key: Array, position: Array, purpose: int) -> Array:
    fold: Callable[[Array, Array | int], Array] = jax.random.fold_in
    return jax.random.uniform(fold(fold(key, position), purpose))
