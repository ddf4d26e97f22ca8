"""The state that a recurrent language model carries from batch to batch of contiguous streams.

Row r of a batch goes on where row r of the batch before ended; a row whose first token stands at
position 0 begins its stream, from zeros. Batches say this themselves, so a step stays a pure
function of state and batch. Zaremba et al., "Recurrent neural network regularization", 2014,
section 4.1 (the last states of a batch are the first of the next).
"""

from typing import Any

import jax
import jax.numpy as jnp

from seqgen.nn.parameters import Definition
from seqgen.types import Array, PyTree


def abstract_carry(definition: Definition, num_rows: int) -> PyTree:
    """Shapes of the carry of a model that keeps the contract `models.base.Carrying`.

    Raises:
      ConfigError: the model carries no state.
    """
    return jax.eval_shape(
        lambda params: definition.bind(params).init_carry(num_rows), definition.abstract
    )


def enter(carry: PyTree, batch: Any) -> PyTree:
    """The states that the rows of `batch` begin with: zeros where a stream begins."""
    if carry is None:
        return None
    begins = batch.target.positions[:, 0] == 0
    return jax.tree.map(
        lambda leaf: jnp.where(jnp.expand_dims(begins, range(1, leaf.ndim)), 0, leaf), carry
    )


def leave(good: Array, after: PyTree, entered: PyTree) -> PyTree:
    """What the next batch goes on from: the states after a step, if it is good and they are finite.

    Otherwise those it was entered with. They are finite, and belong to the same streams, a block
    earlier; those of the state before the step might belong to the end of the last epoch.
    """
    if after is None:
        return entered
    for leaf in jax.tree.leaves(after):
        good = good & jnp.isfinite(leaf).all()
    return jax.tree.map(lambda new, old: jnp.where(good, new, old), after, entered)
