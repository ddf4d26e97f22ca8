"""Language models on plain text, end to end: trained, scored, and what the scores mean."""

import json
import math

import jax
import numpy as np
import pytest

import seqgen
from seqgen import config, experiment, run_evaluation, runs
from seqgen.cli.main import main
from seqgen.errors import ConfigError
from seqgen.types import BOS_ID, PAD_ID, Batch, Sequences

PATTERN = "abcdéfgh\n"  # each character tells the next
FILE = "configs/language_model/shakespeare_char.py:tiny"


def load(root, *words):
    return config.load(str(root / FILE), ["--config.train.tensorboard=false", *words])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pattern")
    for split, times in (("train", 60), ("val", 11)):
        (folder / f"{split}.txt").write_text(PATTERN * times, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def trained(root, corpus, tmp_path_factory):
    """A run of 60 steps, which are enough for the pattern."""
    workdir = tmp_path_factory.mktemp("lm")
    words = [
        *(f"--config.data.dir={corpus}", "--config.train.num_steps=60"),
        *("--config.train.eval_every_steps=30", "--config.train.checkpoint_every_steps=30"),
        *("--config.optimizer.learning_rate=0.02", "--config.train.compute_dtype=float32"),
    ]
    outcome = experiment.train(load(root, *words), workdir)
    assert outcome.status == "finished"
    return workdir


@pytest.fixture(scope="module")
def report(trained):
    return run_evaluation.evaluate(trained, split="val")[0]


def test_a_pattern_is_learnt(trained, report):
    assert report["token_accuracy"] > 0.95 and report["perplexity"] < 1.5
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert rows[29]["eval/bits_per_byte"] > rows[59]["eval/bits_per_byte"]
    assert rows[59]["eval/bits_per_char"] == pytest.approx(report["bits_per_char"], rel=1e-4)


def test_bits_are_those_of_the_text_scored_token_by_token(trained, corpus, report):
    """The second way: log-probabilities of each block by itself, summed over the bytes."""
    run = runs.Run.open(trained)
    text = (corpus / "val.txt").read_text(encoding="utf-8")
    ids = run.tokenizers.target.encode(text)
    assert len(ids) == len(text) and len(text) % 16
    model = run.definition.bind(run.params("best"))
    before = [BOS_ID, *ids]
    nats = 0.0
    for start in range(0, len(ids), 16):
        labels = ids[start : start + 16]
        inputs = np.array([before[start : start + len(labels)]], np.int32)
        rows = Sequences(inputs, np.ones_like(inputs), np.arange(len(labels))[None])
        hidden = model(Batch(None, rows, inputs, np.ones_like(inputs)))
        log_probs = jax.nn.log_softmax(model.output_logits(hidden))[0]
        nats -= sum(float(log_probs[i, label]) for i, label in enumerate(labels))
    bits = nats / math.log(2)
    assert report["bits_per_byte"] == pytest.approx(bits / len(text.encode()), rel=1e-4)
    assert report["bits_per_char"] == pytest.approx(bits / len(text), rel=1e-4)
    assert report["loss"] == pytest.approx(nats / len(ids), rel=1e-4)
    assert report["perplexity"] == pytest.approx(math.exp(report["loss"]))
    assert (report["tokens"], report["unknown_tokens"]) == (len(ids), 0)
    assert (report["characters"], report["bytes"]) == (len(text), len(text.encode()))


def test_evaluate_as_a_command(trained, report, capsys):
    assert main(["evaluate", f"--workdir={trained}", "--split=val", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert {name: said[name] for name in report} == report
    assert said["run"] == "shakespeare_char"
    assert not {"bleu", "exact_match", "num_beams"} & set(said)
    assert main(["evaluate", f"--workdir={trained}"]) == 0  # there is no test split
    assert f"bits_per_byte   {report['bits_per_byte']:.4f}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "word",
    [
        *("--num_beams=2", "--output=x.txt", "--by_length", "--quantize=int8"),
        *("--metrics=rouge1", "--shortlist=5", "--draft=SELF"),
    ],
)
def test_evaluate_refuses_what_is_about_answers(trained, word, capsys):
    word = word.replace("SELF", str(trained))
    assert main(["evaluate", f"--workdir={trained}", "--split=val", word]) == 2
    assert "nothing is decoded" in capsys.readouterr().err


def test_so_does_the_library(trained):
    with pytest.raises(ConfigError, match=r"num_beams, metrics: .* nothing is decoded"):
        run_evaluation.evaluate(trained, overrides={"num_beams": 2}, metrics=["rouge1"])


def test_compare_refuses_runs_without_answers(trained, capsys):
    assert main(["compare", str(trained), str(trained)]) == 2
    assert "text without sources" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "cause"),
    [
        ("data.batching=buckets", "plain_text has none"),
        ("data.source=copy", "gives pairs"),
        ("model.encoder={'kind': 'transformer'}", "nothing to read"),
        ("tokenizer.joint=false", "one vocabulary"),
        ("mesh.data=3", "does not divide"),
        ("evaluation.metrics=bleu", "text without sources has none"),
        ("train.best_metric=eval/bleu", "measured by no evaluation"),
    ],
)
def test_settings_that_do_not_fit_text_are_refused(root, word, cause):
    no_table = "--config.model.decoder.positions=rotary"  # nor its own complaint
    with pytest.raises(ConfigError, match=cause):
        load(root, no_table, f"--config.{word}")


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (["data.batching=streams"], "model.decoder.kind=transformer has none"),
        (["train.accumulation_steps=2"], "makes an update of every batch"),
        (["model.decoder.kind=mingru"], "this cell has none"),
        (["data.objective.name=prefix"], "reads a text from left to right"),
    ],
)
def test_what_tears_streams_is_refused(root, words, cause):
    streams = FILE.replace("shakespeare_char", "wikitext2_lstm")
    name = FILE if "data.batching=streams" in words else streams
    with pytest.raises(ConfigError, match=cause):
        config.load(str(root / name), [f"--config.{word}" for word in words])


def test_a_learned_table_must_hold_a_block(root):
    words = ("--config.model.decoder.positions=learned", "--config.model.decoder.max_positions=15")
    with pytest.raises(ConfigError, match=r"max_positions=15 is less than data.block_len=16"):
        load(root, *words)
    load(root, words[0], "--config.model.decoder.max_positions=16")


def test_bits_per_byte_can_choose_the_best_and_falls(root):
    from seqgen.training.config import higher_is_better

    for name in ("bits_per_byte", "bits_per_char"):
        load(root, f"--config.train.best_metric=eval/{name}")
        assert not higher_is_better(f"eval/{name}")


def recomputed(run, params, ids):
    """Log-probabilities [T, V] of what comes behind each of `ids`, in one pass without a cache."""
    rows = Sequences(
        np.array([ids], np.int32), np.ones((1, len(ids)), np.int32), np.arange(len(ids))[None]
    )
    model = run.definition.bind(params)
    hidden = model(Batch(None, rows, rows.ids, np.ones((1, len(ids)))))
    return np.asarray(jax.nn.log_softmax(model.output_logits(hidden))[0])


def test_text_goes_on_from_a_prompt_as_it_was_learnt(trained, capsys):
    """By the program: greedy text is the argmax of passes over all before it, and the pattern."""
    run = runs.Run.open(trained)
    params, tokenizer = run.params("best"), run.tokenizers.target
    prompt = PATTERN + "abcdé"
    ids = [BOS_ID, *tokenizer.encode(prompt)]
    for _ in range(8):
        scores = recomputed(run, params, ids)[-1].copy()
        scores[[PAD_ID, BOS_ID]] = -np.inf
        ids.append(int(scores.argmax()))
    wanted = tokenizer.decode(ids[-8:])
    assert wanted == "fgh\nabcd"
    words = [f"--workdir={trained}", "--max_new_tokens=8"]
    assert main(["generate", *words, rf"--prompt={PATTERN.strip()}\nabcdé"]) == 0
    assert capsys.readouterr().out == wanted + "\n"
    assert main(["generate", *words, r"--prompt=abcdé", r"--stop=\na"]) == 0
    assert capsys.readouterr().out == "fgh\n"
    assert main(["generate", *words, "--prompt=a", "--shortlist=5"]) == 2
    assert "text without sources" in capsys.readouterr().err


def test_rules_hold_for_prompts(trained):
    """Their history is what was generated; a stop token ends an answer, and is no part of it."""
    model = seqgen.load(trained)
    line_end, b = (model.target_tokenizer.encode(text)[0] for text in "\nb")
    (plain,), (begun,) = model.generate(["abcdé", "ab\nab"], stop_token_ids=[line_end, b])
    assert (plain.text, plain.finish_reason) == ("fgh", "stop")
    again = model.score(["abcdé"], [[*plain.ids, line_end]], include_eos=False)
    assert plain.log_prob == pytest.approx(again[0], abs=1e-4)
    ((banned,),) = model.generate(["abc"], no_repeat_ngram_size=1, max_new_tokens=6)
    assert banned.text == "défgh\n"[:6] and begun.text == "cdéfgh"
    ((forced,),) = model.generate(["abc"], forced_prefix="hab", max_new_tokens=3)
    assert (forced.text, forced.finish_reason) == ("hab", "length")
    beams = model.generate(["abcdé"], stop_token_ids=line_end, num_beams=3)
    assert (beams[0][0].ids, beams[0][0].finish_reason) == (plain.ids, "stop")


def test_a_short_text_scores_as_the_evaluation_says(trained, corpus, tmp_path):
    """One block: BOS stands before the text, every token is predicted, and no end."""
    for split, text in (("train", PATTERN * 60), ("val", PATTERN)):
        (tmp_path / f"{split}.txt").write_text(text, encoding="utf-8")
    report = run_evaluation.evaluate(trained, split="val", data_dir=str(tmp_path))[0]
    (score,) = seqgen.load(trained).score([PATTERN], include_eos=False)
    assert report["tokens"] == len(PATTERN)
    assert report["loss"] == pytest.approx(-score / len(PATTERN), rel=1e-4)
