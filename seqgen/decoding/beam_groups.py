"""Diverse beam search: groups of beams, each of which keeps off what the earlier ones chose.

Vijayakumar et al. 2016, "Diverse Beam Search", arXiv:1610.02424, algorithm 1 with Hamming
diversity. A group is a beam search of its own over the same sentences; at a step the groups move
one after the other, and a token costs more the more beams of earlier groups have just taken it,
those that ended with it too.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from seqgen.decoding.beam_search import answers_of, continuations_of
from seqgen.decoding.beam_step import BeamState, advance, keep_finished, mark_done, start_state
from seqgen.decoding.config import SearchShape, SearchValues
from seqgen.decoding.coverage import add_attention
from seqgen.decoding.hypotheses import Hypotheses
from seqgen.decoding.penalties import count_choices
from seqgen.decoding.prompts import Prompt
from seqgen.decoding.shrinking import run_shrinking
from seqgen.decoding.stepping import next_logits
from seqgen.models.base import Decodable
from seqgen.types import Array, Encoded, PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GroupsState:
    """The loop's state.

    Attributes:
      position: int32 scalar, tokens generated so far.
      groups: of each group, leaves [G, B, ...]; `position` and `model` are None there.
      model: the decoder's own state of all K beams, group by group.
    """

    position: Array
    groups: BeamState
    model: PyTree


def diverse_beam_search(
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
    """N answers of G = `shape.num_beam_groups` groups of K / G beams; arguments of `beam_search`.

    Each group keeps its N / G best (rounded up); the N best of all these are returned. So with
    N = G, each answer is the best of another group.
    """
    num_groups, answers = shape.num_beam_groups, shape.num_return_sequences
    beams = shape.num_beams // num_groups
    inner = dataclasses.replace(
        shape, num_beams=beams, num_return_sequences=-(-answers // num_groups)
    )
    one = start_state(
        limits,
        shape=inner,
        values=values,
        max_len=max_len,
        prompt=prompt,
        source_mask=source_mask,
    )
    one = dataclasses.replace(one, position=None)
    start = GroupsState(
        position=jnp.int32(0),
        groups=jax.tree.map(lambda leaf: jnp.stack([leaf] * num_groups), one),
        model=model.init_decode(encoded, max_len=max_len, num_beams=shape.num_beams),
    )
    expand = continuations_of(values)

    def of_beams(leaf: Array) -> Array:
        """[G, B, K / G, ...] as [B, K, ...]."""
        leaf = leaf.swapaxes(0, 1)
        return leaf.reshape(leaf.shape[0], shape.num_beams, *leaf.shape[3:])

    def of_groups(leaf: Array) -> Array:
        """The inverse."""
        return leaf.reshape(-1, num_groups, beams, *leaf.shape[2:]).swapaxes(0, 1)

    def step(state: GroupsState) -> GroupsState:
        ids = of_beams(state.groups.live_ids)
        first_ids = state.groups.first_ids[0]
        logits, attention, model_state = next_logits(
            model, state.model, ids, state.position, first_ids
        )
        if attention is not None:
            attention = of_groups(attention.reshape(*ids.shape[:2], -1))

        def move(taken: Array, part: tuple[BeamState, Array, Array | None]):
            group, logits, attention = part
            group = dataclasses.replace(group, position=state.position, taken=taken)
            group = add_attention(group, attention)
            searching = ~group.done
            found = expand(logits, group, values, prompt)
            group = keep_finished(group, found, inner, values)
            group, parents = advance(group, found)
            newest = jax.lax.dynamic_index_in_dim(
                group.live_ids, state.position, axis=2, keepdims=False
            )
            ended = found.ends[:, :beams] & jnp.isfinite(found.log_probs[:, :beams])
            chosen = jnp.concatenate([newest, found.tokens[:, :beams]], axis=1)
            counts = jnp.concatenate([jnp.isfinite(group.live_log_probs), ended], axis=1)
            counts &= searching[:, None]
            taken = taken + count_choices(chosen, counts, logits.shape[-1])
            group = mark_done(group, inner, values)
            return taken, (dataclasses.replace(group, position=None, taken=None), parents)

        nothing = jnp.zeros((ids.shape[0], logits.shape[-1]))
        _, (groups, parents) = jax.lax.scan(
            move, nothing, (state.groups, of_groups(logits), attention)
        )
        first_beams = beams * jnp.arange(num_groups)[:, None, None]
        model_state = model.reorder(model_state, of_beams(parents + first_beams))
        return GroupsState(state.position + 1, groups, model_state)

    def select(state: GroupsState, rows: Array) -> GroupsState:
        groups = jax.tree.map(lambda leaf: leaf[:, rows], state.groups)
        return GroupsState(state.position, groups, model.select(state.model, rows))

    found, final = run(
        start,
        step=step,
        is_done=lambda state: jnp.all(state.groups.done, axis=0),
        select=select,
        outputs=lambda state: {
            name: leaf.swapaxes(0, 1) for name, leaf in answers_of(state.groups).items()
        },
    )
    return Hypotheses(**_best(found, answers), num_steps=final.position)


def _best(found: dict[str, Array], answers: int) -> dict[str, Array]:
    """The `answers` best of all groups: leaves [B, G, n, ...] -> [B, N, ...]."""
    flat = {name: leaf.reshape(leaf.shape[0], -1, *leaf.shape[3:]) for name, leaf in found.items()}
    _, places = jax.lax.top_k(flat["scores"], answers)
    return {
        name: jnp.take_along_axis(leaf, places.reshape(places.shape + (1,) * (leaf.ndim - 2)), 1)
        for name, leaf in flat.items()
    }
