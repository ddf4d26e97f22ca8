"""Two tiny trained runs that the tests of the verbs share."""

import pathlib

import pytest

from seqgen.cli.main import main

CONFIG = '''
"""A reversal of few symbols, learnt a little: scores that are neither 0 nor 1."""

from ml_collections import ConfigDict


def get_config(arg=""):
    config = ConfigDict()
    config.name = arg
    config.data = dict(
        source="reverse", num_symbols=3, min_length=2, max_length=9, num_examples=600,
        val_examples=30, test_examples=40, tokens_per_batch=512, num_buckets=1,
    )
    config.tokenizer = dict(kind="char")
    config.model = dict(
        embed_dim=16, dropout_rate=0.0,
        encoder=dict(kind="gru", num_layers=1, hidden_dim=16, dropout_rate=0.0),
        decoder=dict(kind="gru", num_layers=1, hidden_dim=32, attention="none", dropout_rate=0.0),
    )
    config.optimizer = dict(learning_rate=1e-2, schedule="constant")
    config.train = dict(
        num_steps=60, log_every_steps=20, eval_every_steps=30, checkpoint_every_steps=30,
        compute_dtype="float32", async_checkpoints=False, tensorboard=False,
    )
    config.evaluation = dict(metrics=("bleu", "chrf", "ter", "exact_match"))
    return config
'''


@pytest.fixture(scope="session")
def recipe(tmp_path_factory) -> pathlib.Path:
    """A config file; its argument becomes the run's name."""
    path = tmp_path_factory.mktemp("recipe") / "recipe.py"
    path.write_text(CONFIG, encoding="utf-8")
    return path


def train(recipe: pathlib.Path, workdir: pathlib.Path, *words: str) -> None:
    assert main(["train", f"--config={recipe}:{workdir.name}", f"--workdir={workdir}", *words]) == 0


@pytest.fixture(scope="session")
def run_a(recipe, tmp_path_factory) -> pathlib.Path:
    workdir = tmp_path_factory.mktemp("runs") / "a"
    train(recipe, workdir)
    return workdir


@pytest.fixture(scope="session")
def run_b(recipe, run_a) -> pathlib.Path:
    workdir = run_a.parent / "b"
    train(recipe, workdir, "--config.train.num_steps=240", "--config.train.seed=1")
    return workdir
