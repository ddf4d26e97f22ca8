"""A search in slices: its state is handed out between steps, so that the host sees it grow."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from seqgen.types import Array, PyTree


class Slice:
    """Runs the next step of a search, in place of `run_shrinking`; for one call under one trace.

    A search given it as `run` returns what it has found so far, and the next slice goes on from
    `state`. Steps are the same, of several tokens where a draft proposes them; the batch keeps its
    size.

    Attributes:
      state: of the search. Before the call where the last slice ended (None = nowhere: the search
        begins), after it where this one did.
      done: bool scalar, after the call: every sentence is done.
    """

    def __init__(self, state: Any):
        self.state = state
        self.done: Array = jnp.bool_(False)

    def __call__(
        self,
        start: Any,
        *,
        step: Callable[[Any], Any],
        is_done: Callable[[Any], Array],
        select: Callable[[Any, Array], Any],
        outputs: Callable[[Any], PyTree],
    ) -> tuple[PyTree, Any]:
        """See `shrinking.run_shrinking`."""
        del select
        state = start if self.state is None else self.state
        before = jnp.max(state.position)

        def goes_on(state: Any) -> Array:
            return (jnp.max(state.position) == before) & ~jnp.all(is_done(state))

        # A loop of one turn: as the body of a loop a step is compiled as that of a whole search is.
        self.state = jax.lax.while_loop(goes_on, step, state)
        self.done = jnp.all(is_done(self.state))
        return outputs(self.state), self.state
