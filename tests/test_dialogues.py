"""A dialogue that follows from its history is learnt, and asked for in JSON or as one turn."""

import json

import pytest

from seqgen import config, experiment, run_evaluation
from seqgen.cli.main import main
from seqgen.data.chat_template import Turn, history_line

DRINKS = ("latte", "mocha", "tea", "cortado")


def turns_of(drink):
    texts = (f"a {drink} please", f"a {drink} ?", "yes", f"your {drink} comes")
    return [Turn(name, text) for name, text in zip(("user", "bot") * 2, texts)]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A decoder alone on four dialogues; the last reply names what only the first turn says."""
    folder = tmp_path_factory.mktemp("dialogues")
    rows = [
        json.dumps({"turns": [{"speaker": t.speaker, "text": t.text} for t in turns_of(drink)]})
        for drink in DRINKS
    ]
    (folder / "train.jsonl").write_text("\n".join(rows * 8), encoding="utf-8")
    (folder / "val.jsonl").write_text("\n".join(rows), encoding="utf-8")
    words = [
        *(f"--config.data.dir={folder}", "--config.data.speakers=user,bot"),
        *("--config.data.reply_speaker=bot", "--config.data.num_buckets=1"),
        *("--config.tokenizer.kind=word", "--config.model.embed_dim=32"),
        *("--config.model.dropout_rate=0", "--config.model.decoder.dropout_rate=0"),
        *("--config.optimizer.learning_rate=0.005", "--config.train.num_steps=500"),
        *("--config.train.eval_every_steps=500", "--config.train.checkpoint_every_steps=500"),
        *("--config.train.compute_dtype=float32", "--config.train.tensorboard=false"),
    ]
    workdir = tmp_path_factory.mktemp("run")
    outcome = experiment.train(config.load("configs/dialogue/coffee_gpt.py:tiny", words), workdir)
    assert outcome.status == "finished"
    return workdir


def test_every_reply_is_learnt_and_scored(trained):
    report, examples, replies = run_evaluation.evaluate(trained, split="val")
    assert replies == [turn.text for d in DRINKS for turn in turns_of(d) if turn.speaker == "bot"]
    assert report["exact_match"] == 1.0 and report["perplexity"] < 1.2 and len(examples) == 8
    assert {"distinct1", "distinct2", "repetition2", "length_ratio"} <= set(report)


def test_generate_takes_a_turn_or_a_history(trained, tmp_path, capsys):
    lines = ["a mocha please", history_line(turns_of("tea")[:3]), history_line(turns_of("tea")[:1])]
    asked = tmp_path / "asked.txt"
    asked.write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert main(["generate", f"--workdir={trained}", f"--input={asked}"]) == 0
    assert capsys.readouterr().out.splitlines() == ["a mocha ?", "your tea comes", "a tea ?"]


def test_generate_names_a_speaker_it_does_not_know(trained, tmp_path, capsys):
    asked = tmp_path / "asked.txt"
    asked.write_text('[{"speaker": "waiter", "text": "hi"}]\n', encoding="utf-8")
    assert main(["generate", f"--workdir={trained}", f"--input={asked}"]) == 2
    assert "the speaker 'waiter', whom the run does not know" in capsys.readouterr().err
