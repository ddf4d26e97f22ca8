"""The one door to Orbax: named groups of nested dicts of arrays, written to and read from a folder.

Compression is off: it gains a few per cent on float weights and costs the cores that train. Orbax
does not notice a flipped bit in what it reads; `seqgen.training.manifest` does.
"""

import logging
import pathlib
import warnings
from typing import Any

import jax
import numpy as np

from seqgen.types import PyTree

logging.getLogger("absl").setLevel(logging.ERROR)  # Orbax tells every save in a dozen lines


def save_arrays(folder: pathlib.Path, groups: dict[str, PyTree]) -> None:
    """Write each group ({name: nested dicts of numpy arrays}); `folder` must not exist."""
    from orbax.checkpoint import v1 as ocp

    context = ocp.Context()
    context.array.saving.use_compression = False
    with warnings.catch_warnings(), context:
        warnings.simplefilter("ignore")
        ocp.save_checkpointables(
            str(folder.absolute()),
            {name: jax.tree.map(np.asarray, tree) for name, tree in groups.items()},
        )


def load_arrays(folder: pathlib.Path, groups: dict[str, PyTree]) -> dict[str, Any]:
    """Read the leaves of the named groups as numpy arrays with the shapes and types of `groups`.

    There may be more in the folder.
    """
    from orbax.checkpoint import v1 as ocp

    context = ocp.Context()
    context.pytree.loading.partial_load = True
    wanted = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), groups)
    with warnings.catch_warnings(), context:
        warnings.simplefilter("ignore")
        return ocp.load_checkpointables(str(folder.absolute()), wanted)
