"""A training state as the named groups of arrays that a checkpoint holds, and back."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from seqgen.errors import CheckpointError
from seqgen.training.state import TrainState
from seqgen.types import PyTree


def to_groups(state: TrainState) -> dict[str, PyTree]:
    """{'params', 'opt_state', 'ema', 'rest'}; groups without arrays are left out."""
    rest = {"step": state.step, "key": state.key, "counters": state.counters}
    if state.carry is not None:
        rest["carry"] = state.carry
    groups = {"params": state.params, "opt_state": state.opt_state, "ema": state.ema, "rest": rest}
    return {name: tree for name, tree in groups.items() if jax.tree.leaves(tree)}


def from_groups(abstract: TrainState, groups: dict[str, Any]) -> TrainState:
    """The state, each leaf put where `abstract` says."""
    rest = groups["rest"]
    loaded = TrainState(
        step=rest["step"],
        params=groups["params"],
        opt_state=groups.get("opt_state", {}),
        key=rest["key"],
        ema=groups.get("ema"),
        counters=rest["counters"],
        carry=rest.get("carry"),
    )
    places = jax.tree.map(lambda leaf: getattr(leaf, "sharding", None), abstract)
    return jax.device_put(loaded, places)


def refuse_non_finite(arrays: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError naming the first leaf that holds an infinity or a NaN."""
    for name, leaf in arrays.items():
        if np.issubdtype(leaf.dtype, np.floating) and not np.isfinite(leaf).all():
            raise ValueError(f"{name} holds non-finite values")


def without_frozen_averages(saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """`saved` as it is wanted: older runs kept a moving average of frozen parameters too.

    It is the parameter itself, bit for bit. Both are {path: anything}.
    """
    averaged = any(name.startswith("ema/") for name in wanted)
    return {
        name: facts
        for name, facts in saved.items()
        if name in wanted or not (averaged and name.startswith("ema/"))
    }


def check_arrays(saved: Mapping[str, Any], wanted: Mapping[str, Any], *, where: str) -> None:
    """Compare {path: [type, shape]} of a manifest with the leaves that are wanted.

    Raises:
      CheckpointError: naming the first differences.
    """
    now = {name: [str(leaf.dtype), list(leaf.shape)] for name, leaf in wanted.items()}
    different = [
        f"{name}: saved {saved.get(name, 'nothing')}, wanted {now.get(name, 'nothing')}"
        for name in sorted(set(saved) | set(now))
        if saved.get(name) != now.get(name)
    ]
    if different:
        raise CheckpointError(f"{where} holds another model or optimiser", details=different[:4])
