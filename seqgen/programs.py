"""The compiled programs behind a model that answers text."""

import functools
from typing import Any

import jax

from seqgen.decoding.config import SearchShape, SearchValues
from seqgen.decoding.generate import search
from seqgen.decoding.hypotheses import Hypotheses
from seqgen.decoding.prompts import Prompt
from seqgen.decoding.rescoring import target_choices, target_log_probs
from seqgen.decoding.sampling import make_row_keys
from seqgen.decoding.shortlist import Candidates
from seqgen.decoding.shrinking import run_shrinking
from seqgen.decoding.slices import Slice
from seqgen.types import Array, Params, Sequences


class Programs:
    """Functions of parameters and arrays, compiled at their first use for each set of shapes.

    Args:
      definition: gives a `Decodable` model by `bind(params)`.
      draft: the same of a smaller model that proposes tokens, or None.

    Attributes:
      search: what `decoding.generate.search` finds, given parameters and seed.
      search_slice: the next step of a search; see `_search_slice`. Its state is donated.
      target_log_probs, target_choices: those of `decoding.rescoring`.
    """

    def __init__(self, definition: Any, draft: Any = None):
        sizes = ("shape", "max_len")
        self.search = jax.jit(
            functools.partial(_search, definition, draft=draft), static_argnames=sizes
        )
        self.search_slice = jax.jit(
            functools.partial(_search_slice, definition, draft=draft),
            static_argnames=sizes,
            donate_argnames="state",
        )
        self.target_log_probs = jax.jit(functools.partial(_target_log_probs, definition))
        self.target_choices = jax.jit(
            functools.partial(_target_choices, definition), static_argnames="top_k"
        )


def _search(
    definition: Any,
    params: Params,
    source: Sequences,
    lines: Array,
    seed: Array,
    values: SearchValues,
    prompt: Prompt | None,
    candidates: Candidates | None,
    draft_params: Params | None = None,
    *,
    shape: SearchShape,
    max_len: int,
    draft: Any = None,
    run: Any = run_shrinking,
) -> Hypotheses:
    return search(
        definition.bind(params),
        source,
        make_row_keys(seed, lines),
        shape=shape,
        values=values,
        max_len=max_len,
        prompt=prompt,
        candidates=candidates,
        draft=None if draft is None else draft.bind(draft_params),
        run=run,
    )


def _search_slice(
    definition: Any, params: Params, state: Any, *arguments: Any, **options: Any
) -> tuple[Hypotheses, Any, Array]:
    """What `_search` has found a step after `state` (None = its first), its state, its end."""
    run = Slice(state)
    found = _search(definition, params, *arguments, **options, run=run)
    return found, run.state, run.done


def _target_log_probs(
    definition: Any,
    params: Params,
    source: Sequences,
    labels: Array,
    lengths: Array,
    first_ids: Array | None,
) -> Array:
    model = definition.bind(params)
    return target_log_probs(model, source, labels, lengths, first_ids=first_ids)


def _target_choices(
    definition: Any,
    params: Params,
    source: Sequences,
    labels: Array,
    lengths: Array,
    first_ids: Array | None,
    *,
    top_k: int,
) -> tuple[Array, Array, Array]:
    model = definition.bind(params)
    return target_choices(model, source, labels, lengths, top_k=top_k, first_ids=first_ids)
