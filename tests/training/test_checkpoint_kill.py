"""SIGKILL at every named point of the save protocol: step 20 or 30 comes back whole, never less."""

import json
import os
import pathlib
import subprocess
import sys

import pytest
from checkpoint_toy import small_state

from seqgen.training.checkpoint import CheckpointStore
from seqgen.training.faults import CHECKPOINT_POINTS
from seqgen.training.state import state_digest

# One process imports everything, then forks a child for each trial before it starts any thread.
# Only the child, which saves, is killed.
ZYGOTE = """
import json, os, pathlib, sys
import checkpoint_toy
from orbax.checkpoint import v1
root, trials = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])
signals = []
for index, (point, asynchronous) in enumerate(trials):
    child = os.fork()
    if child == 0:
        os.environ["LATER_FAULT"] = f"{point}@step=30:kill"
        checkpoint_toy.save_three(root / str(index), asynchronous=asynchronous)
        os._exit(0)
    signals.append(os.WTERMSIG(os.waitpid(child, 0)[1]))
print(json.dumps(signals))
"""
COMMITTED_AFTER = CHECKPOINT_POINTS.index("ckpt.after_rename")


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    root = tmp_path_factory.mktemp("killed")
    trials = [(point, bool(i % 2)) for i, point in enumerate(CHECKPOINT_POINTS)]
    here = pathlib.Path(__file__).resolve().parent
    result = subprocess.run(
        [sys.executable, "-c", ZYGOTE, str(root), json.dumps(trials)],
        env=os.environ | {"PYTHONPATH": str(here)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(result.stdout) == [9] * len(trials), "every child was killed at its point"
    return root


def test_there_are_enough_points():
    assert len(set(CHECKPOINT_POINTS)) >= 12


@pytest.mark.parametrize("index", range(len(CHECKPOINT_POINTS)), ids=CHECKPOINT_POINTS)
def test_the_newest_complete_step_comes_back(killed, index):
    path = killed / str(index)
    lines = []
    store = CheckpointStore(path, keep_last=2, asynchronous=False, report=lines.append)
    store.clean()
    expected = 30 if index >= COMMITTED_AFTER else 20
    state, _ = store.restore(small_state(0))
    assert state_digest(state) == state_digest(small_state(expected))
    assert lines == [], "a kill damages nothing"
    assert not list((path / "checkpoints").glob(".tmp-*"))
    store.save(40, state, {})
    assert store.steps()[-1] == 40
