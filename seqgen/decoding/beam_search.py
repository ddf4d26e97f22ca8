"""Beam search inside one program, for any model that keeps the `Decodable` contract."""

import dataclasses
from typing import Any

from seqgen.decoding.beam_step import (
    BeamState,
    advance,
    best_continuations,
    keep_finished,
    mark_done,
    start_state,
)
from seqgen.decoding.config import SearchShape, SearchValues
from seqgen.decoding.coverage import add_attention
from seqgen.decoding.hypotheses import Hypotheses
from seqgen.decoding.prompts import Prompt
from seqgen.decoding.required_beams import constrained_continuations
from seqgen.decoding.shrinking import run_shrinking, take_sentences
from seqgen.decoding.stepping import next_logits
from seqgen.models.base import Decodable
from seqgen.types import Array, Encoded


def beam_search(
    model: Decodable,
    encoded: Encoded,
    limits: Array,
    *,
    shape: SearchShape,
    values: SearchValues,
    max_len: int,
    prompt: Prompt | None = None,
    source_mask: Array | None = None,
    run: Any = run_shrinking,
) -> Hypotheses:
    """The N best hypotheses of a beam of K, by log-probability over length penalty.

    A hypothesis that ends is kept only if its last token ranks among the K best continuations (as
    Hugging Face and fairseq do), so that a beam of one is greedy search.

    Args:
      model: the decoder.
      encoded: B sentences.
      limits: int32 [B] most tokens of an answer.
      shape: kinds and sizes.
      values: numbers.
      max_len: T, room for the tokens of one hypothesis; at least every limit.
      prompt: what the answers go on from; without one they begin behind BOS and end with EOS.
      source_mask: bool [B, S] real source tokens, read by `coverage_penalty` alone.
      run: repeats the steps, as `run_shrinking` does.
    """
    start = start_state(
        limits,
        shape=shape,
        values=values,
        max_len=max_len,
        prompt=prompt,
        source_mask=source_mask,
    )
    state = model.init_decode(encoded, max_len=max_len, num_beams=shape.num_beams)
    start = dataclasses.replace(start, model=state)
    expand = continuations_of(values)

    def step(state: BeamState) -> BeamState:
        logits, attention, model_state = next_logits(
            model, state.model, state.live_ids, state.position, state.first_ids
        )
        state = add_attention(state, attention)
        found = expand(logits, state, values, prompt)
        state = keep_finished(state, found, shape, values)
        state, parents = advance(state, found)
        state = dataclasses.replace(state, model=model.reorder(model_state, parents))
        return mark_done(state, shape, values)

    found, final = run(
        start,
        step=step,
        is_done=lambda state: state.done,
        select=lambda state, rows: take_sentences(state, rows, model=model),
        outputs=answers_of,
    )
    return Hypotheses(**found, num_steps=final.position)


def continuations_of(values: SearchValues):
    """How a step's continuations are chosen."""
    return best_continuations if values.required_words is None else constrained_continuations


def answers_of(state: BeamState) -> dict[str, Array]:
    """The finished hypotheses, as the fields of `Hypotheses` that they become."""
    return {name: getattr(state, name) for name in ("ids", "lengths", "log_probs", "scores")}
