"""Means of parameters over checkpoints (Vaswani et al., 2017, average the last of a run)."""

from collections.abc import Sequence

import jax
import numpy as np

from seqgen.types import Params


def mean_of_params(members: Sequence[Params]) -> Params:
    """The elementwise mean, summed in float64 on the host, in the type of the first."""
    if not members:
        raise ValueError("a mean needs at least one set of parameters")

    def mean(*leaves: np.ndarray) -> np.ndarray:
        total = np.zeros(leaves[0].shape, np.float64)
        for leaf in leaves:
            total += leaf
        return (total / len(leaves)).astype(leaves[0].dtype)

    return jax.tree.map(mean, *members)
