"""Every family learns a small task to at least 99 % of what it never saw."""

import pytest

from seqgen import config, experiment
from seqgen.training.progress import Progress

TRANSFORMER = {
    "kind": "transformer",
    "num_layers": 1,
    "num_heads": 2,
    "ff_dim": 64,
    "norm_position": "pre",
    "dropout_rate": 0.0,
    "attention_dropout_rate": 0.0,
}


def recurrent(kind, hidden_dim, **options):
    return {
        "kind": kind,
        "num_layers": 1,
        "hidden_dim": hidden_dim,
        "dropout_rate": 0.0,
        **options,
    }


FAMILIES = {
    "transformer": (TRANSFORMER, TRANSFORMER),
    "gru with attention": (recurrent("gru", 32), recurrent("gru", 64, attention="bahdanau")),
    "lstm without attention": (recurrent("lstm", 32), recurrent("lstm", 64, attention="none")),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_learns_to_reverse_strings_it_never_saw(family, tmp_path):
    encoder, decoder = FAMILIES[family]
    cfg = config.from_dict(
        {
            "data": {
                "source": "reverse",
                "num_symbols": 6,
                "min_length": 2,
                "max_length": 4,
                "num_examples": 2_000,
                "val_examples": 200,
                "test_examples": 1,
                "tokens_per_batch": 640,
                "num_buckets": 1,
                "cache_dir": str(tmp_path / "cache"),
            },
            "tokenizer": {"kind": "word"},
            "model": {
                "embed_dim": 32,
                "dropout_rate": 0.0,
                "encoder": encoder,
                "decoder": decoder,
            },
            "optimizer": {"learning_rate": 4e-3, "schedule": "cosine", "warmup_steps": 20},
            "train": {
                "num_steps": 400,
                "log_every_steps": 100,
                "eval_every_steps": 400,
                "checkpoint_every_steps": 0,
                "best_metric": "eval/exact_match",
                "compute_dtype": "float32",
                "tensorboard": False,
            },
            "evaluation": {"metrics": ("exact_match",)},
        }
    )
    outcome = experiment.train(cfg, tmp_path / "run", progress=Progress())
    assert outcome.host.best["value"] >= 0.99
