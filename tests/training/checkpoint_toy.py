"""A small state without a model, for tests of checkpoints."""

import dataclasses
import os
import pathlib

import numpy as np

from seqgen.training.checkpoint import CheckpointStore
from seqgen.training.state import TrainState

HOST = {"batches": 7, "batch_hash": "abc", "best": None}


def small_state(step: int) -> TrainState:
    random = np.random.default_rng(step)

    def draw(*shape):
        return random.standard_normal(shape).astype(np.float32)

    params = {"encoder": {"layers": {"0": {"kernel": draw(40, 30)}}}, "table": draw(50, 8)}
    return TrainState(
        step=np.asarray(step, np.int32),
        params=params,
        opt_state={"0": {"mu": {"table": draw(50, 8)}, "count": np.asarray(step, np.int32)}},
        key=np.asarray(12345, np.uint32),
        ema=None,
        counters={"bad_steps": np.asarray(1, np.int32), "bad_run": np.asarray(0, np.int32)},
    )


def with_ema(state: TrainState) -> TrainState:
    return dataclasses.replace(state, ema={"table": state.params["table"] + 1.0})


def save_three(path: pathlib.Path, *, asynchronous: bool = False) -> None:
    """Steps 10 and 20 are committed before faults count; step 30 is the one that is hit."""
    store = CheckpointStore(path, keep_last=2, asynchronous=asynchronous)
    for step in (10, 20):
        store.save(step, small_state(step), HOST)
    store.wait()
    os.environ["SEQGEN_FAULT"] = os.environ.get("LATER_FAULT", "")
    store.save(30, small_state(30), HOST)
    store.close()
