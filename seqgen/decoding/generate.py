"""One entry to greedy search, beam search and sampling."""

from typing import Any

import jax.numpy as jnp

from seqgen.decoding.beam_groups import diverse_beam_search
from seqgen.decoding.beam_search import beam_search
from seqgen.decoding.config import DecodeConfig, SearchShape, SearchValues
from seqgen.decoding.constraints import length_limits
from seqgen.decoding.contrastive import contrastive_search
from seqgen.decoding.hypotheses import Hypotheses
from seqgen.decoding.prompts import Prompt
from seqgen.decoding.sampling import make_row_keys, sample
from seqgen.decoding.shortlist import Candidates, ShortlistedModel
from seqgen.decoding.shrinking import run_shrinking
from seqgen.decoding.speculative import speculate
from seqgen.errors import ConfigError
from seqgen.models.base import Decodable
from seqgen.types import Array, Sequences


def generate(
    model: Decodable,
    source: Sequences,
    *,
    config: DecodeConfig,
    row_keys: Array | None = None,
    max_len: int | None = None,
) -> Hypotheses:
    """Answers for a batch of source sentences; traceable, one program.

    Args:
      model: a bound model.
      source: B sentences, one a row, ids ending with EOS_ID.
      config: options; of those that are texts (`bad_words`), `search` alone takes what
        `DecodeConfig.values` makes.
      row_keys: typed PRNG keys [B] of `make_row_keys`; by default line numbers are row numbers.
      max_len: room for an answer, EOS included; by default what the options allow for the width of
        `source`. Answers are cut to it.
    """
    if row_keys is None:
        row_keys = make_row_keys(config.seed, jnp.arange(source.ids.shape[0]))
    return search(
        model,
        source,
        row_keys,
        shape=config.shape(),
        values=config.values(),
        max_len=max_len or config.max_len(source.ids.shape[1]),
    )


def search(
    model: Decodable,
    source: Sequences,
    row_keys: Array,
    *,
    shape: SearchShape,
    values: SearchValues,
    max_len: int,
    prompt: Prompt | None = None,
    candidates: Candidates | None = None,
    draft: Decodable | None = None,
    run: Any = run_shrinking,
) -> Hypotheses:
    """`generate` with the options split into what is static and what is traced.

    Args:
      model: a bound model.
      source: B sentences, one a row.
      row_keys: typed PRNG keys [B]; unused unless sampling.
      shape: kinds and sizes (static).
      values: numbers (traced).
      max_len: room for an answer, EOS included (static).
      prompt: for language models, whose `source` is all of a prompt but its last token.
      candidates: the tokens that answers are made of, of `Shortlist.candidates`; None = all.
      draft: a model of the same vocabulary that proposes `shape.num_draft_tokens` tokens at a time,
        for greedy search and single samples.
      run: repeats the steps; a `slices.Slice` gives what is found so far.

    Raises:
      ConfigError: contrastive search among candidates.
    """
    if candidates is not None:
        if shape.contrastive_k:
            raise ConfigError(
                f"contrastive_k={shape.contrastive_k} with candidates",
                details=["it compares hidden states, and a shortlist leaves none"],
            )
        cut = ShortlistedModel(model, candidates)
        found = search(cut, source, row_keys, shape=shape, values=values, max_len=max_len, run=run)
        return cut.in_whole_vocabulary(found)
    if prompt is None:
        source_lengths = jnp.sum(source.segments > 0, axis=1, dtype=jnp.int32)
        limits = length_limits(values, source_lengths, max_len=max_len)
    else:
        limits = prompt.limits
    options: Any = {"shape": shape, "values": values, "max_len": max_len, "prompt": prompt}
    options["run"] = run
    if shape.contrastive_k:  # which reads hidden states besides
        return contrastive_search(model, source, limits, **options)
    encoded = model.encode(source)
    if draft is not None:
        encoded_draft = draft.encode(source)
        return speculate(model, draft, encoded, encoded_draft, limits, row_keys, **options)
    if shape.num_beams > 1:
        by_beams = beam_search if shape.num_beam_groups == 1 else diverse_beam_search
        covers = values.coverage_penalty is not None
        mask = source.segments > 0 if covers else None
        return by_beams(model, encoded, limits, source_mask=mask, **options)
    return sample(model, encoded, limits, row_keys, **options)
