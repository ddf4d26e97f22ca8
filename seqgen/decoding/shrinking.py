"""A search loop whose batch shrinks as its sentences finish, so that finished ones cost nothing."""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from seqgen.models.base import Decodable
from seqgen.types import Array, PyTree

State = TypeVar("State")

# Each size is compiled apart. On real text a quarter of a batch, once, gains as much as any finer
# steps (1.26 times the speed on Multi30k: benchmarks/results/shrinking_batch).
_FACTOR = 4
_FEWEST = 16


def batch_sizes(batch: int) -> tuple[int, ...]:
    """The sizes that a batch shrinks through, itself first: 256 -> 256, 64, 16."""
    sizes = [batch]
    while sizes[-1] >= _FACTOR * _FEWEST:
        sizes.append(sizes[-1] // _FACTOR)
    return tuple(sizes)


def run_shrinking(
    start: State,
    *,
    step: Callable[[State], State],
    is_done: Callable[[State], Array],
    select: Callable[[State, Array], State],
    outputs: Callable[[State], PyTree],
) -> tuple[PyTree, State]:
    """Repeat `step` until every sentence is done; traceable.

    As soon as the unfinished sentences fit into the next smaller batch of `batch_sizes` they go on
    in it alone. What each of them gives does not depend on that, up to rounding.

    Args:
      start: the state of B sentences.
      step: advances a state of any number of sentences; a sentence that is done must keep its
        `outputs`.
      is_done: bool [B']; every sentence must be done after finitely many steps.
      select: (state, int32 [B'] places) -> the state of these sentences alone.
      outputs: arrays [B', ...] that are wanted of each sentence.

    Returns:
      `outputs` of all B sentences in their order, and the state that the loop ended with.
    """
    results = outputs(start)
    batch = is_done(start).shape[0]
    places = jnp.arange(batch)
    sizes = batch_sizes(batch)
    state: Any = start
    for following in (*sizes[1:], 0):

        def crowded(state: State, following: int = following) -> Array:
            return jnp.sum(~is_done(state)) > following

        state = jax.lax.while_loop(crowded, step, state)
        results = jax.tree.map(
            lambda whole, part, at=places: whole.at[at].set(part), results, outputs(state)
        )
        if following:
            kept = jnp.argsort(is_done(state), stable=True)[:following]
            state, places = select(state, kept), places[kept]
    return results, state


def take_sentences(state: Any, rows: Array, *, model: Decodable) -> Any:
    """A search's state with the sentences `rows` (int32 [B']) alone.

    Args:
      state: a dataclass with `position` (of all sentences), `model` (the decoder's own state) and
        fields that have sentences on axis 0.
      rows: places of sentences.
      model: the decoder.
    """
    names = [field.name for field in dataclasses.fields(state)]
    fields = {name: getattr(state, name) for name in names if name not in ("position", "model")}
    chosen = jax.tree.map(lambda leaf: leaf[rows], fields)
    return dataclasses.replace(state, **chosen, model=model.select(state.model, rows))
