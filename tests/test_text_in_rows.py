"""Packed documents and prefix language models, end to end: trained, scored, asked."""

import json
import shutil

import jax
import numpy as np
import pytest

import seqgen
from seqgen import config, experiment, run_evaluation, runs
from seqgen.errors import ConfigError
from seqgen.types import BOS_ID, Batch, Sequences

GPT = "configs/language_model/shakespeare_char.py:tiny"
LSTM = "configs/language_model/wikitext2_lstm.py:tiny"
DOCUMENTS = ["abcdef\n\n", "fedcba\n\n\n", "a\nb\nc\n\n"]
PATTERN = "abcdefgh\n"
FULL = "model.encoder.prefix_attention=full"


def load(root, *words, file=GPT):
    words = ("train.tensorboard=false", *words)
    return config.load(str(root / file), [f"--config.{word}" for word in words])


def train(root, workdir, text, *words, file=GPT):
    folder = workdir / "text"
    folder.mkdir()
    for split, times in (("train", 40), ("val", 5)):
        (folder / f"{split}.txt").write_text(text * times, encoding="utf-8")
    cfg = load(
        root,
        *(f"data.dir={folder}", "train.num_steps=60", "train.eval_every_steps=30"),
        *("train.checkpoint_every_steps=30", "train.compute_dtype=float32"),
        *("optimizer.learning_rate=0.02", *words),
        file=file,
    )
    outcome = experiment.train(cfg, workdir / "run")
    assert outcome.status == "finished"
    return workdir / "run", cfg, outcome.state


def metrics(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def test_packed_documents_are_learnt_and_scored_as_each_alone(root, tmp_path):
    workdir, cfg, state = train(root, tmp_path, "".join(DOCUMENTS), "data.batching=documents")
    report = run_evaluation.evaluate(workdir, split="val")[0]
    rows = metrics(workdir)
    assert rows[29]["eval/bits_per_byte"] > rows[59]["eval/bits_per_byte"]
    # All but what is drawn: three documents, and how each goes on from 'a' and 'f'.
    assert report["token_accuracy"] > 0.8
    assert report["tokens"] == report["bytes"] == 5 * len("".join(DOCUMENTS))
    scores = seqgen.load(workdir).score(DOCUMENTS, include_eos=False)
    assert report["loss"] == pytest.approx(-5 * sum(scores) / report["tokens"], rel=1e-4)
    # From its first checkpoint on the training is the same again.
    shutil.rmtree(workdir / "checkpoints" / "60")
    again = experiment.train(cfg, workdir).state
    names = ("step", "loss_hex", "batch_hash")
    told = [[[row[name] for name in names] for row in lines] for lines in (rows, metrics(workdir))]
    assert told[0] == told[1]
    jax.tree.map(np.testing.assert_array_equal, again.params, state.params)


@pytest.mark.parametrize("file", [GPT, LSTM])
def test_the_rest_of_a_prefix_is_learnt_and_prompts_are_read_as_prefixes(root, tmp_path, file):
    words = ["data.objective.name=prefix_lm", "data.batching=blocks", "tokenizer.kind=char"]
    still = [f"model.{name}_rate=0" for name in ("dropout", "decoder.dropout")]
    words += [FULL] if file == GPT else [*still, "model.decoder.weight_dropout_rate=0"]
    workdir, _, _ = train(root, tmp_path, PATTERN, *words, file=file)
    report = run_evaluation.evaluate(workdir, split="val")[0]
    assert report["objective"] == "prefix_lm" and report["token_accuracy"] > 0.9
    assert "bits_per_byte" not in report
    model, prompt = seqgen.load(workdir), "efgh\nabcde"
    ((answer,),) = model.generate([prompt], max_new_tokens=6)
    assert answer.text == "fgh\nab"
    if file == LSTM:
        return
    for asked in (model, seqgen.load([workdir, workdir])):
        with pytest.raises(ConfigError, match="reads prompts as a whole"):
            asked.generate([prompt], contrastive_k=3)

    run = runs.Run.open(workdir)
    ids = [BOS_ID, *run.tokenizers.target.encode(prompt)]
    first = np.array([len(ids) - 1])
    rows = np.array([[*ids, *answer.ids]], np.int32)
    text = Sequences(rows, np.ones_like(rows), np.arange(rows.shape[1])[None])
    bound = run.definition.bind(run.params())
    hidden = bound(Batch(None, text, rows, np.ones(rows.shape), prefix_lens=first))
    told = jax.nn.log_softmax(bound.output_logits(hidden))[0, len(ids) - 1 : -1]
    assert answer.log_prob == pytest.approx(
        sum(float(told[at, label]) for at, label in enumerate(answer.ids)), abs=1e-4
    )


@pytest.mark.parametrize(
    ("file", "words", "cause"),
    [
        (GPT, ["data.objective.name=prefix_lm"], "prefixes that see all of themselves"),
        (GPT, [FULL], "training shows no prefix"),
        (GPT, ["data.objective.name=prefix"], "prefix_lm: a decoder alone"),
        (GPT, ["data.objective.rate=0"], "rate=0.0 would be ignored"),
        (
            GPT,
            ["data.batching=documents", "data.objective.name=prefix_lm", FULL],
            "makes rows of its own",
        ),
        (
            GPT,
            ["data.objective.name=prefix_lm", "model.encoder={'kind': 'transformer'}"],
            "nothing to read",
        ),
        (GPT, ["data.objective.name=prefix_lm", FULL, "data.batching=streams"], "left to right"),
        (LSTM, ["data.batching=documents"], "from one document into the next"),
        (
            LSTM,
            ["data.batching=blocks", "data.objective.name=prefix_lm", FULL],
            "a recurrent decoder reads from left to right",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(root, file, words, cause):
    with pytest.raises(ConfigError, match=cause):
        load(root, *words, file=file)
