"""Masked language models and damaged text end to end: trained, scored, asked."""

import json

import pytest

from seqgen import config, experiment, run_evaluation
from seqgen.cli.main import main
from seqgen.errors import ConfigError

FILE = "configs/masked_lm/bert_small.py:tiny"
# Each line tells the next one of its document, and each word the words beside it.
DOCUMENTS = ("a b c d e f g h\n" * 4, "p q r s t u v w\n" * 4)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    for split, times in (("train", 20), ("val", 20)):
        (folder / f"{split}.txt").write_text("\n".join(DOCUMENTS * times), encoding="utf-8")
    return folder


def load(root, *words):
    words = ("--config.train.tensorboard=false", "--config.tokenizer.kind=word", *words)
    return config.load(str(root / FILE), list(words))


@pytest.fixture(scope="module")
def trained(root, corpus, tmp_path_factory):
    """Enough steps to learn the alphabet, and which halves of it belong together."""
    workdir = tmp_path_factory.mktemp("bert") / "run"
    words = [
        *(f"--config.data.dir={corpus}", "--config.train.num_steps=300"),
        *("--config.train.eval_every_steps=300", "--config.train.checkpoint_every_steps=300"),
        *("--config.train.compute_dtype=float32", "--config.optimizer.learning_rate=0.01"),
        *("--config.model.dropout_rate=0", "--config.model.encoder.dropout_rate=0"),
        *("--config.model.encoder.attention_dropout_rate=0", "--config.model.embed_dim=32"),
    ]
    assert experiment.train(load(root, *words), workdir).status == "finished"
    return workdir


def test_a_pattern_and_its_pairs_are_learnt_and_shown_by_name(trained, capsys):
    report = run_evaluation.evaluate(trained, split="val")[0]
    assert report["objective"] == "masked" and report["token_accuracy"] > 0.9
    # Half of the other documents look like the one that goes on: 3 in 4 can be told.
    assert report["next_sentence_accuracy"] > 0.65 and report["next_sentence_loss"] < 0.65
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1]["eval/next_sentence_accuracy"] == pytest.approx(
        report["next_sentence_accuracy"], abs=1e-4
    )
    assert main(["evaluate", f"--workdir={trained}", "--split=val", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert {name: said[name] for name in report} == report
    assert not {"bleu", "bits_per_byte"} & set(said)
    assert main(["evaluate", f"--workdir={trained}", "--split=val"]) == 0
    assert "next_sentence_accuracy" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (["data.objective.name=prefix"], "would be ignored by data.objective.name=prefix"),
        (["data.objective.pairs=none"], "next_sentence=true"),
        (["data.objective.name=causal"], "nothing to read"),
        (["data.objective.mean_span_length=4"], "would be ignored"),
        (
            ["data.batching=buckets", "data.source=copy", "data.max_source_len=32"],
            "learnt of text without sources",
        ),
        (["model.encoder.max_positions=31"], "less than data.block_len=32"),
        (["train.best_metric=eval/bits_per_byte"], "measured by no evaluation"),
    ],
)
def test_settings_that_do_not_fit_are_refused(root, words, cause):
    with pytest.raises(ConfigError, match=cause):
        load(root, *(f"--config.{word}" for word in words))


@pytest.mark.parametrize("name", ["span_corruption", "denoising", "prefix"])
def test_an_encoder_decoder_learns_of_damaged_text(root, corpus, tmp_path, name):
    words = [
        *(f"--config.data.dir={corpus}", "--config.data.objective.pairs=none"),
        *("--config.data.objective.unit=token", f"--config.data.objective.name={name}"),
        "--config.model.decoder={'kind': 'transformer', 'num_layers': 1, 'num_heads': 2, "
        "'ff_dim': 32}",
        *("--config.train.num_steps=40", "--config.train.eval_every_steps=20"),
        *("--config.train.compute_dtype=float32", "--config.optimizer.learning_rate=0.01"),
    ]
    experiment.train(load(root, *words), tmp_path / "run")
    rows = [json.loads(x) for x in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert rows[39]["eval/loss"] < rows[19]["eval/loss"] < rows[0]["train/loss"]
