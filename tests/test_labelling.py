"""Runs that tell labels, end to end: trained, scored, asked."""

import json
from typing import Any

import numpy as np
import pytest

import seqgen
from seqgen import config, experiment, loading, run_evaluation, runs
from seqgen.cli.main import main
from seqgen.errors import ConfigError
from seqgen.named_parts import parts_of

FILE = "configs/classification/toxicity.py:tiny"
WORDS = ("sun", "rain", "snow", "wind", "hail", "fog", "heat", "cold")
WARM = ("sun", "heat")


def texts(count, seed):
    random = np.random.default_rng(seed)
    return [list(random.choice(WORDS, random.integers(2, 7))) for _ in range(count)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A text is 'hot' if it has one of two words; a word is 'W' if it is one of them."""
    folder = tmp_path_factory.mktemp("labels")
    for split, count in (("train", 400), ("val", 60)):
        rows = []
        for words in texts(count, len(split)):
            tags = ["W" if word in WARM else "O" for word in words]
            row = {"text": " ".join(words), "label": "hot" if "W" in tags else "not"}
            rows.append(json.dumps(row | {"tags": " ".join(tags)}) + "\n")
        (folder / f"{split}.jsonl").write_text("".join(rows))
    (folder / "train.txt").write_text("\n".join(" ".join(words) for words in texts(200, 1)))
    return folder


def words_of(folder, *words):
    return [
        f"--config.{word}"
        for word in (
            *(f"data.dir={folder}", "train.tensorboard=false", "train.compute_dtype=float32"),
            *("tokenizer.kind=word", "train.async_checkpoints=false", "data.tokens_per_batch=512"),
            *("train.num_steps=60", "train.eval_every_steps=60", "train.checkpoint_every_steps=60"),
            *("optimizer.learning_rate=0.02", "model.dropout_rate=0", "model.head.dropout_rate=0"),
            *("model.encoder.dropout_rate=0", *words),
        )
    ]


def test_a_classifier_learns_and_tells(root, folder, tmp_path, capsys):
    gru = "model.encoder={'kind': 'gru', 'num_layers': 1, 'hidden_dim': 16}"
    cfg = config.load(str(root / FILE), words_of(folder, gru))
    assert experiment.train(cfg, tmp_path / "run").status == "finished"
    capsys.readouterr()
    assert main(["evaluate", f"--workdir={tmp_path / 'run'}", "--split=val", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["accuracy"] > 0.95 and report["macro_f1"] > 0.95 and report["loss"] < 0.3
    assert set(report["f1"]) == {"hot", "not"} and sum(report["support"].values()) == 60
    rows = [json.loads(x) for x in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    for name in ("loss", "accuracy", "macro_f1"):
        assert rows[-1][f"eval/{name}"] == pytest.approx(report[name], abs=1e-5)
    output = tmp_path / "labels.txt"
    words = [f"--output={output}", "--split=val"]
    assert main(["evaluate", f"--workdir={tmp_path / 'run'}", *words]) == 0
    said = capsys.readouterr().out
    assert "macro_f1" in said and "f1 hot" in said
    model = seqgen.load_labeller(tmp_path / "run")
    told = model.classify(["rain sun", "rain", "rain rain snow cold fog heat wind", ""])
    assert [one.label for one in told[:3]] == ["hot", "not", "hot"]
    assert all(sum(one.probabilities.values()) == pytest.approx(1, abs=1e-5) for one in told)
    lines = [json.loads(line)["text"] for line in (folder / "val.jsonl").read_text().splitlines()]
    assert [one.label for one in model.classify(lines)] == output.read_text().splitlines()
    with pytest.raises(ConfigError, match="use classify"):
        model.tag(["rain"])
    with pytest.raises(ConfigError, match="this run tells labels, and cannot generate"):
        model.generate(["rain"])
    _says_what_to_do_instead(tmp_path / "run", capsys)


def _says_what_to_do_instead(run, capsys):
    """Whatever wants text of a run that tells labels."""
    with pytest.raises(ConfigError, match="tells labels, and cannot write or fill text") as raised:
        seqgen.load(run)
    assert "load_labeller" in "".join(raised.value.details)
    with pytest.raises(ConfigError, match="tells labels, and cannot"):
        seqgen.load([run, run])
    answering: Any = None
    with pytest.raises(ConfigError, match="tells labels, and cannot"):
        loading.add_draft(answering, *[runs.Run.open(run)] * 2, "none")
    with pytest.raises(ConfigError, match=r"num_beams, draft, ensemble: .* nothing is decoded"):
        run_evaluation.evaluate([run, run], overrides={"num_beams": 2}, draft=run)
    capsys.readouterr()
    for verb, *words in (("generate", "--prompt=x"), ("chat", "-p", "x"), ("fill", "--text=x")):
        assert main([verb, f"--workdir={run}", *words]) == 2
        assert "load_labeller" in capsys.readouterr().err
    options = ["--num_beams=2", "--metrics=bleu", f"--ensemble={run}", "--by_length"]
    assert main(["evaluate", f"--workdir={run}", *options]) == 2
    error = capsys.readouterr().err
    assert "--num_beams, --by_length, --metrics, --ensemble: the run tells labels" in error
    assert main(["compare", str(run), str(run)]) == 2
    assert "tells labels: there are no answers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "cause"),
    [
        ("data.targets=text", "data.targets=text and model.head.kind=classifier do not fit"),
        ("data.batching=packing", "choose +data.batching=buckets"),
        ("tokenizer.joint=false", "choose +tokenizer.joint=true"),
        ("evaluation.metrics=bleu", "labels are counted"),
        ("train.best_metric=eval/bleu", "measured are +eval/loss, eval/accuracy, eval/macro_f1"),
        ("model.encoder={'kind': 'none', 'source_prefix': True}", "reads one text a row"),
        ("model.encoder.max_positions=31", "less than data.max_source_len . 1=32"),
    ],
)
def test_configs_that_contradict_labels_are_refused(root, word, cause):
    words = ["--config.data.dir=x", f"--config.{word}"]
    if "source_prefix" in word:
        words += ["--config.model.decoder={'kind': 'transformer'}"]
    with pytest.raises(ConfigError, match=cause):
        config.load(str(root / FILE), words)


def test_a_tagger_learns_and_tells(root, folder, tmp_path):
    words = words_of(
        folder,
        *("model.head={'kind': 'tagger', 'dropout_rate': 0.0}", "data.targets=tags"),
        *("data.target_field=tags", "model.encoder.attention_dropout_rate=0"),
    )
    experiment.train(config.load(str(root / FILE), words), tmp_path / "run")
    report, examples, hypotheses = run_evaluation.evaluate(tmp_path / "run", split="val")
    assert report["accuracy"] > 0.98 and report["f1"]["W"] > 0.95
    assert len(hypotheses[0].split()) == len(examples[0]["source"].split())
    (told,) = seqgen.load_labeller(tmp_path / "run").tag(["rain  sun heat"])
    assert [(one.word, one.label) for one in told] == [("rain", "O"), ("sun", "W"), ("heat", "W")]


def test_a_language_model_becomes_a_classifier(root, folder, tmp_path):
    """Its decoder and vocabulary are taken over; only the head starts random."""
    plain = ["train.num_steps=0", "tokenizer.kind=word", f"data.dir={folder}"]
    words = [f"--config.{word}" for word in (*plain, "train.compute_dtype=float32")]
    (folder / "text").mkdir()
    (folder / "train.txt").rename(folder / "text/train.txt")
    words.append(f"--config.data.dir={folder / 'text'}")
    gpt = config.load(str(root / "configs/language_model/wikitext2_gpt.py:tiny"), words)
    experiment.train(gpt, tmp_path / "gpt")
    decoder = "{'kind': 'transformer', 'num_layers': 1, 'num_heads': 2, 'ff_dim': 32, "
    decoder += "'norm_position': 'pre', 'activation': 'gelu_tanh', 'positions': 'learned', "
    decoder += "'max_positions': 32}"
    words = words_of(
        folder,
        *("tokenizer.kind=run", f"init.runs={tmp_path / 'gpt'}", "init.fresh=head/.*"),
        *("train.num_steps=2", "optimizer.freeze=(?!head/).*", f"model.decoder={decoder}"),
        "evaluation.max_examples=4",
    )
    words = [word for word in words if "encoder" not in word]
    words.append("--config.model.encoder={'kind': 'none'}")
    cfg = config.load(str(root / FILE), words)
    experiment.train(cfg, tmp_path / "run")
    ours, theirs = (
        {n: p.value for n, p in parts_of(run.definition, run.params()).items()}
        for run in (runs.Run.open(tmp_path / "run"), runs.Run.open(tmp_path / "gpt"))
    )
    assert set(ours) - set(theirs) == {"head/table", "head/bias"}
    for name in set(theirs):
        np.testing.assert_array_equal(ours[name], theirs[name])
