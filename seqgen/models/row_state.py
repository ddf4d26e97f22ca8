"""The decode state of a recurrent decoder: one record a row, and what the rows of a sentence share.

{'shared': leaves [B, ...], 'rows': leaves [R, ...] with R = B * K, among them 'length', 'history':
the rows' records after each number of consumed tokens, [R, max_len + 1, ...], or None}.
"""

import jax
import jax.numpy as jnp

from seqgen.types import Array, PyTree


def init_state(shared: PyTree, rows: PyTree, *, num_beams: int, max_len: int, history: bool):
    """State of `num_beams` equal rows a sentence; `rows` holds one, [B, ...]."""
    rows = jax.tree.map(lambda leaf: jnp.repeat(leaf, num_beams, axis=0), rows)
    kept = None
    if history:
        kept = jax.tree.map(
            lambda leaf: (
                jnp.zeros((leaf.shape[0], max_len + 1, *leaf.shape[1:]), leaf.dtype)
                .at[:, 0]
                .set(leaf)
            ),
            rows,
        )
    return {"shared": shared, "rows": rows, "history": kept}


def _take(tree: PyTree, indices: Array) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[indices], tree)


def reorder(state: PyTree, parents: Array) -> PyTree:
    """Beam k of sentence b continues beam `parents[b, k]` ([B, K] int32)."""
    first = jnp.arange(parents.shape[0])[:, None] * parents.shape[1]
    per_row = {name: state[name] for name in ("rows", "history")}
    return {"shared": state["shared"], **_take(per_row, (first + parents).reshape(-1))}


def select(state: PyTree, rows: Array) -> PyTree:
    """Keep the sentences `rows` [B'] (int32), all their beams."""
    num_beams = state["rows"]["length"].shape[0] // state["shared"]["mask"].shape[0]
    beams = (rows[:, None] * num_beams + jnp.arange(num_beams)).reshape(-1)
    per_row = {name: state[name] for name in ("rows", "history")}
    return {"shared": _take(state["shared"], rows), **_take(per_row, beams)}


def record(history: PyTree, rows: PyTree) -> PyTree:
    """Note the rows' records at the length that each has now."""
    at = jnp.arange(rows["length"].shape[0]), rows["length"]
    return jax.tree.map(lambda kept, leaf: kept.at[at].set(leaf), history, rows)


def rewind(state: PyTree, lengths: Array) -> PyTree:
    """Forget all but the first `lengths` [R] consumed tokens.

    Without history, a recurrent state knows only its present: rows whose length changes then become
    NaN, so that a wrong use cannot pass for a result.
    """
    rows, history = state["rows"], state["history"]
    if history is not None:
        at = jnp.arange(lengths.shape[0]), lengths
        return {**state, "rows": jax.tree.map(lambda leaf: leaf[at], history)}
    same = (lengths == rows["length"])[:, None]
    kept = jax.tree.map(lambda leaf: jnp.where(same, leaf, jnp.nan), {**rows, "length": None})
    return {**state, "rows": {**kept, "length": lengths}}
