"""A killed training is the same training: final bits and loss stream, dropout on.

Every attempt is a process of its own with its own JAX, killed by SIGKILL. A parent that has only
imported the program forks them, before it starts a backend or a thread, because importing takes
longer than the training itself.
"""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import pytest

from seqgen.training.writers import read_rows

PARENT = """
import json, os, pathlib, sys
os.environ.pop("SEQGEN_FAULT", None)
import numpy as np
from orbax.checkpoint import v1  # imported late by the program; once for all children here
from seqgen import config, experiment
from seqgen.training import checkpoint, host_record, state

def drop_position():
    read = host_record.HostRecord.from_json.__func__
    def forget(cls, values):
        return read(cls, {**values, "batches": 0})
    host_record.HostRecord.from_json = classmethod(forget)

def drop_key():
    read = checkpoint.from_groups
    def forget(abstract, groups):
        return read(abstract, {**groups, "rest": {**groups["rest"], "key": np.uint32(0)}})
    checkpoint.from_groups = forget

def attempt(job):
    log = open(job["workdir"] + ".log", "a", buffering=1)
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    if job["fault"]:
        os.environ["SEQGEN_FAULT"] = job["fault"]
    if job["sabotage"]:
        {"position": drop_position, "key": drop_key}[job["sabotage"]]()
    outcome = experiment.train(config.load(job["config"], job["overrides"]), job["workdir"])
    digest = state.state_digest(outcome.state)
    pathlib.Path(job["workdir"], "digest").write_text(digest)

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            attempt(json.loads(line))
            code = 0
        finally:
            os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

NUM_STEPS = 10
OVERRIDES = [
    f"--config.train.num_steps={NUM_STEPS}",
    "--config.train.checkpoint_every_steps=4",
    "--config.train.eval_every_steps=6",
    "--config.train.keep_checkpoints=3",
    "--config.train.ema_decay=0.9",
    "--config.train.best_metric=eval/loss",
    "--config.train.compute_dtype=float32",
    "--config.model.dropout_rate=0.2",
    "--config.train.tensorboard=False",
    "--config.evaluation.metrics=()",
    "--config.evaluation.num_samples=0",
]
# In the order in which one run meets them, each attempt killed at one. Steps 4 and 8 are saved.
MOMENTS = [
    "loop.batch@step=2:kill",  # nothing is saved yet
    "ckpt.arrays_written@step=4:kill",  # inside the first save
    "loop.step_done@step=6:kill",  # between two saves
    "loop.eval@step=6:kill",  # in an evaluation
    "ckpt.manifest_written@step=8:kill",  # inside a save, all but committed
]
ENCODER = "--config.model.encoder.dropout_rate=0.2"
DECODER = "--config.model.decoder.dropout_rate=0.2"
MODELS = {  # config file, further overrides
    "rnn": ("reverse.py:gru,gru,bahdanau,tiny", [ENCODER, DECODER]),
    "transformer": ("reverse.py:transformer,transformer,tiny", [ENCODER, DECODER]),
    "language_model": ("language_model/shakespeare_char.py:tiny", [DECODER]),
    "masked_lm": ("masked_lm/bert_small.py:tiny", [ENCODER, "--config.tokenizer.kind=byte"]),
    "streams": ("language_model/wikitext2_lstm.py:tiny", []),
}
PLAIN_TEXT = ("language_model", "masked_lm", "streams")
TEXT = "What light through yonder window breaks?\nIt is the east.\n\n"


class Trainer:
    """Runs attempts one after another."""

    def __init__(self, root: pathlib.Path, folder: pathlib.Path):
        self.configs = root / "configs"
        self.folder = folder
        for split, times in (("train", 9), ("val", 2)):
            (folder / f"{split}.txt").write_text(TEXT * times)
        self.process = subprocess.Popen(
            [sys.executable, "-c", PARENT],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Compiled as users do, not as tests (see conftest).
            env=os.environ | {"PYTHONPATH": str(root), "XLA_FLAGS": ""},
        )

    def attempt(self, name: str, model: str, *, fault: str = "", sabotage: str = "") -> int:
        config, overrides = MODELS[model]
        if model in PLAIN_TEXT:
            overrides = [*overrides, f"--config.data.dir={self.folder}"]
        job = {
            "workdir": str(self.folder / name),
            "config": str(self.configs / config),
            "overrides": OVERRIDES + overrides,
            "fault": fault,
            "sabotage": sabotage,
        }
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()[-3000:]

    def result(self, name: str):
        """The digest of the final state and (step, loss, batches) of every row."""
        rows = read_rows(self.folder / name / "metrics.jsonl")
        stream = [(row["step"], row["loss_hex"], row["batch_hash"]) for row in rows]
        return (self.folder / name / "digest").read_text(), stream

    def finish(self, name: str, model: str, **options):
        code = self.attempt(name, model, **options)
        assert code == 0, self.log(name)
        return self.result(name)


@pytest.fixture(scope="module")
def trainer(root, tmp_path_factory):
    trainer = Trainer(root, tmp_path_factory.mktemp("resume"))
    yield trainer
    trainer.process.communicate()


@pytest.fixture(scope="module")
def uninterrupted(trainer):
    """Final digest and loss stream of each model, never stopped."""
    return {model: trainer.finish(f"whole-{model}", model) for model in MODELS}


@pytest.mark.parametrize("model", MODELS)
def test_five_kills_change_no_bit(trainer, uninterrupted, model):
    name = f"killed-{model}"
    for moment in MOMENTS:
        code = trainer.attempt(name, model, fault=moment)
        assert code == -signal.SIGKILL, f"{moment}\n{trainer.log(name)}"
    digest, stream = trainer.finish(name, model)
    assert [row[0] for row in stream] == list(range(1, NUM_STEPS + 1))
    assert stream == uninterrupted[model][1]
    assert digest == uninterrupted[model][0]


@pytest.fixture(scope="module")
def killed_after_a_save(trainer):
    """The folder of a run that died just after step 4 was committed."""
    assert trainer.attempt("victim", "rnn", fault="ckpt.done@step=4:kill") == -signal.SIGKILL
    return trainer.folder / "victim"


@pytest.mark.parametrize("lost", ["key", "position"])
def test_the_comparison_notices_what_was_not_saved(
    trainer, uninterrupted, killed_after_a_save, lost
):
    """Without the saved key (or data position) the same kill gives other bits."""
    shutil.copytree(killed_after_a_save, trainer.folder / lost)
    digest, stream = trainer.finish(lost, "rnn", sabotage=lost)
    assert digest != uninterrupted["rnn"][0]
    assert stream != uninterrupted["rnn"][1]
    assert stream[:4] == uninterrupted["rnn"][1][:4], "up to the checkpoint nothing differs"
