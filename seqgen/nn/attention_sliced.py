"""Plain attention, a few rows of the batch at a time; scores are formed again for the gradient.

What one slice needs fits into a processor's cache, and no scores are kept between the passes: the
backward pass does the first product and the softmax once more, which costs less than to write the
scores of a whole batch to memory and to read them back. The idea is that of Chen et al. 2016,
"Training deep nets with sublinear memory cost", with the slice as the segment.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
from jax import lax

from seqgen.nn.attention_plain import KeyValues, attend, row_words
from seqgen.nn.masks import AttentionMask
from seqgen.nn.position_bias import DistanceBias
from seqgen.types import Array

SLICE_SCORES = 512 * 1024  # 2 MiB


def rows_in_slice(batch: int, row_scores: int, most: int = SLICE_SCORES) -> int:
    """Rows of a slice: the greatest divisor of the batch that fits, at least 1.

    Args:
      batch: rows.
      row_scores: of one row, N * T * S.
      most: scores of a slice.
    """
    room = max(1, min(batch, most // row_scores))
    return max(rows for rows in range(1, room + 1) if batch % rows == 0)


def suits_slices(batch: int, row_scores: int) -> bool:
    """Whether slices are worth a loop: there are at least four, each at least a quarter full.

    Args:
      batch: rows.
      row_scores: of one row, N * T * S.
    """
    scores = rows_in_slice(batch, row_scores) * row_scores
    return SLICE_SCORES // 4 <= scores <= SLICE_SCORES and batch * row_scores >= 4 * SLICE_SCORES


def attend_sliced(
    query: Array,
    memory: KeyValues,
    mask: AttentionMask,
    *,
    bias: DistanceBias | None = None,
    dropout_rate: float = 0.0,
    key: Any = None,
    compute_dtype: str = "float32",
    slice_scores: int = SLICE_SCORES,
) -> Array:
    """Softmax-weighted values; the numbers and the dropout bits are the plain kernel's.

    Args:
      query: [B, N, T, H].
      memory: keys and values [B, G, S, H] where G divides N.
      mask: what each query may see.
      bias: added to the scores, or None.
      dropout_rate, key: dropout on the weights; key None = evaluation.
      compute_dtype: operands of the two products (on CPU they are float32 in any case).
      slice_scores: most scores at a time, but for a single row.

    Returns:
      float32 [B, N, T, H]. A row that may see nothing gives the mean of the values.
    """
    batch, num_heads, query_len, _ = query.shape
    key_len = memory.keys.shape[2]
    slices = batch // rows_in_slice(batch, num_heads * query_len * key_len, slice_scores)
    whole = None if bias is None else bias.dense(query_len, key_len)
    options: dict[str, Any] = {"dropout_rate": dropout_rate, "compute_dtype": compute_dtype}
    # An array that all rows share stays outside the loop.
    by_row = {
        name: array
        for name in ("query_segments", "key_segments", "allowed")
        if (array := getattr(mask, name)) is not None and array.shape[0] == batch
    }

    def cut(x: Array) -> Array:
        return x.reshape(slices, batch // slices, *x.shape[1:])

    @partial(jax.checkpoint, prevent_cse=False)  # in a loop's body there is nothing to merge with
    def attend_slice(part: Any) -> Array:
        query, memory, by_row, words = part
        seen = dataclasses.replace(mask, **by_row).dense(query_len, key_len)
        return attend(query, memory, seen, bias=whole, key=words, **options)[0]

    parts = query, memory, by_row, row_words(key, batch)
    return lax.map(attend_slice, jax.tree.map(cut, parts)).reshape(query.shape)
