"""Where answers begin and end when a language model goes on with a text that it is given."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from seqgen.decoding.batching import pad_rows
from seqgen.decoding.config import DecodeConfig
from seqgen.decoding.stops import follow
from seqgen.types import Array, Sequences


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Prompt:
    """The part of B prompts that the search itself reads; what stands before is the source.

    Attributes:
      first_ids: int32 [B]; the last token of each prompt, which the first step reads.
      limits: int32 [B]; most tokens of an answer. There it is cut, and does not end with EOS.
      stops: int32 [S, V] of `stops.stop_table`.
    """

    first_ids: Array
    limits: Array
    stops: Array


def end_by_prompt(
    prompt: Prompt | None, ends: Array, begun: Array | None, tokens: Array, state: Any
) -> tuple[Array, Array | None]:
    """Which answers end with `tokens`, and their states in the table of stop strings.

    Args:
      prompt: what the answers go on from; without one nothing else ends them.
      ends: bool [B, n], those that end anyway.
      begun: int32 [B, n], states before `tokens`; None without a prompt.
      tokens: int32 [B, n].
      state: of the search: `position` and `limits`.
    """
    if prompt is None or begun is None:
        return ends, None
    stop_states, stopped = follow(prompt.stops, begun, tokens)
    return ends | stopped | (state.position + 1 >= state.limits)[:, None], stop_states


def pack_prompts(
    prompts: Sequence[Sequence[int]],
    config: DecodeConfig,
    *,
    stops: Array,
    max_positions: int | None,
) -> tuple[Sequences, Prompt]:
    """Prompts as the source that is consumed in one pass, and what the search begins with.

    Args:
      prompts: ids of each, BOS first; at most `max_positions`.
      config: `max_new_tokens`, and what `pad_rows` reads.
      stops: of `stops.stop_table`.
      max_positions: length of the model's position table; None = it has none. A prompt and its
        answer have room in it together (the answer's last token is not read any more).
    """
    source, first_ids = split_prompts(prompts, config, max_positions=max_positions)
    limits = np.full(first_ids.shape, config.max_new_tokens, np.int32)
    if max_positions is not None:
        lengths = np.asarray(source.segments).sum(axis=1, dtype=np.int32)
        limits = np.minimum(limits, max_positions - lengths)
    return source, Prompt(first_ids, limits, stops)


def split_prompts(
    prompts: Sequence[Sequence[int]], config: DecodeConfig, *, max_positions: int | None
) -> tuple[Sequences, Array]:
    """All of each prompt but its last token, as `pad_rows` gives it, and the last, int32 [B]."""
    source = pad_rows([prompt[:-1] for prompt in prompts], config, limit=max_positions)
    last = [prompt[-1] for prompt in prompts]
    last += last[-1:] * (source.ids.shape[0] - len(last))
    return source, np.asarray(last, np.int32)


def prompt_limit(config: DecodeConfig, max_positions: int | None) -> int:
    """Most tokens of a prompt, BOS counted.

    A position table keeps `max_new_tokens` places for the answer, but never more than half of it.
    """
    if max_positions is None:
        return config.max_source_length
    room = max(1, max_positions - min(config.max_new_tokens, max_positions // 2) + 1)
    return min(config.max_source_length, room, max_positions)
