"""Every config file loads, describes itself, and its tiny form trains, resumes and answers."""

import ast
import json
import pathlib
import shutil

import pytest

from seqgen import config, experiment
from seqgen.cli.main import main
from seqgen.errors import ConfigError
from seqgen.training.progress import Progress
from seqgen.training.signals import StopSignals

ROOT = pathlib.Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "configs").rglob("*.py"))
WORDS = ("ein hund", "zwei hunde", "der mann", "die frau", "ein kind", "viele leute")


def spec_of(path: pathlib.Path, arg: str = "") -> str:
    return f"{path}:{arg}" if arg else str(path)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> pathlib.Path:
    """60 training pairs as line-aligned text, plain text, and JSONL with references."""
    folder = tmp_path_factory.mktemp("corpus")
    for split, size in (("train", 60), ("val", 6), ("test", 6)):
        patterns = {"zh": "{a}看到了{b}。", "en": "{a} sees {b} .", "de": "{a} sieht {b} ."}
        for lang, pattern in patterns.items():
            lines = [pattern.format(a=WORDS[i % 6], b=WORDS[(i // 6 + i) % 6]) for i in range(size)]
            (folder / f"{split}.{lang}").write_text("\n".join(lines) + "\n", encoding="utf-8")
        documents = "\n".join([*lines[: size // 2], "", *lines[size // 2 :]])
        (folder / f"{split}.txt").write_text(documents + "\n", encoding="utf-8")
        pairs = ((WORDS[i % 6], WORDS[(i // 6 + i) % 6]) for i in range(size))
        rows = (
            {"source": f"{a} sees {b} .", "target": b, "references": [b, f"{a} and {b}"]}
            | {"text": f"{a} sees {b} .", "label": "person" if "ein" in b else "other"}
            for a, b in pairs
        )
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def dialogues(tmp_path_factory) -> pathlib.Path:
    """40 dialogues of four turns, with the names of each corpus' speakers in turn."""
    folder = tmp_path_factory.mktemp("dialogues")
    for first, second in (("user", "assistant"), ("user", "system"), ("A", "B")):
        (folder / second).mkdir()
        for split, size in (("train", 40), ("dev", 4), ("test", 4)):
            said = ((WORDS[i % 6], WORDS[(i // 6 + i) % 6]) for i in range(size))
            rows = (
                {"turns": [{"speaker": s, "text": t} for s, t in zip((first, second) * 2, texts)]}
                for texts in ((a, f"{a}?", b, f"{b}!") for a, b in said)
            )
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / second / f"{split}.jsonl").write_text(text)
    return folder


# Recipe -> the recipes whose runs it begins with; each may take over the vocabulary of the first.
BEGINNINGS = {
    "toxicity_bert": {"bert": "masked_lm/bert_small"},
    "debian_synopsis_warm": {
        "bert": "masked_lm/bert_small",
        "gpt": "language_model/wikitext2_gpt",
    },
}


def begin_tiny(path: pathlib.Path, corpus: pathlib.Path, folder: pathlib.Path) -> list[str]:
    """Overrides that name the runs that a recipe begins with; they are made, of no steps."""
    runs, text = [], folder / "text"
    text.mkdir(parents=True)
    shutil.copy(corpus / "train.txt", text)  # no val: nothing is evaluated
    for name, other in BEGINNINGS.get(path.stem, {}).items():
        words = ["train.num_steps=0", "train.compute_dtype=float32", f"data.dir={text}"]
        if runs:
            words += ["tokenizer.kind=run", f"tokenizer.path={runs[0].partition('=')[2]}"]
        words = [f"--config.{word}" for word in words]
        cfg = config.load(spec_of(ROOT / f"configs/{other}.py", "tiny"), words)
        experiment.train(cfg, folder / name)
        runs.append(f"{name}={folder / name}")
    return [f"--config.init.runs={','.join(runs)}"] if runs else []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_config_loads_and_says_its_command(path):
    config.load(spec_of(path))
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert text and f"--config={path.relative_to(ROOT)}" in text


def train_tiny(
    path: pathlib.Path, corpora: tuple, workdir: pathlib.Path, *words: str, form: str = "tiny"
):
    corpus, dialogues = corpora
    overrides = ["--config.train.tensorboard=false", "--config.data.num_buckets=1", *words]
    kinds = ("translation", "language_model", "masked_lm", "summarisation", "classification")
    if path.parent.name in kinds:
        overrides.append(f"--config.data.dir={corpus}")
    if path.parent.name == "dialogue":
        speakers = config.load(str(path)).data.speakers
        overrides.append(f"--config.data.dir={dialogues / speakers[-1]}")
    overrides += begin_tiny(path, corpus, workdir / "beginnings")
    cfg = config.load(spec_of(path, form), overrides)
    outcome = experiment.train(cfg, workdir)
    assert (outcome.status, outcome.step) == ("finished", cfg.train.num_steps)
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, cfg.train.num_steps + 1))
    return rows


@pytest.mark.parametrize(
    ("path", "form"),
    [
        *((path, "tiny") for path in FILES),
        (ROOT / "configs/summarisation/scitldr.py", "copying,tiny"),
    ],
    ids=lambda value: getattr(value, "stem", value),
)
def test_tiny_form_trains(path, form, corpus, dialogues, tmp_path):
    silent = ("--config.evaluation.metrics=", "--config.evaluation.num_samples=0")
    words = (*silent, "--config.train.best_metric=eval/loss")
    rows = train_tiny(path, (corpus, dialogues), tmp_path, *words, form=form)
    assert rows[-1]["eval/loss"] > 0


@pytest.mark.parametrize(
    "name",
    [
        *("quickstart", "translation/gru_bahdanau", "number_words/gpt", "summarisation/scitldr"),
        "dialogue/coffee_gpt",
    ],
)
def test_tiny_form_decodes_and_scores(name, corpus, dialogues, tmp_path, capsys):
    rows = train_tiny(ROOT / f"configs/{name}.py", (corpus, dialogues), tmp_path)
    measured = json.loads((tmp_path / "config.json").read_text())["evaluation"]["metrics"]
    assert all(f"eval/{metric}" in rows[-1] for metric in measured)
    capsys.readouterr()
    assert main(["evaluate", f"--workdir={tmp_path}", "--split=test", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["split"] == "test" and report["loss"] > 0 and 0 <= report["exact_match"] <= 1
    assert all(metric in report for metric in measured)


def test_no_step_waits_for_what_evaluations_need(tmp_path, monkeypatch):
    """The model that scores and the texts of the split are made at the first evaluation."""
    made = []
    for name in ("build_definition", "make_eval_step", "make_generator"):
        make = getattr(experiment, name)
        monkeypatch.setattr(
            experiment,
            name,
            lambda *a, _do=make, _name=name, **k: made.append(_name) or _do(*a, **k),
        )
    words = ["--config.train.tensorboard=false", "--config.data.num_buckets=1"]
    cfg = config.load(spec_of(ROOT / "configs/quickstart.py", "tiny"), words)
    stop = StopSignals()

    class Stopping(Progress):
        def tick(self, step, num_steps):
            stop.requested = True

    outcome = experiment.train(cfg, tmp_path, progress=Stopping(), stop=stop)
    assert (outcome.status, outcome.step, made) == ("interrupted", 1, ["build_definition"])
    outcome = experiment.train(cfg, tmp_path)
    assert outcome.status == "finished"
    assert made[1:] == ["build_definition"] * 2 + ["make_eval_step", "make_generator"]


def test_twins_differ_in_the_model_alone():
    twins = [config.load(spec_of(p)) for p in sorted((ROOT / "configs/number_words").glob("*.py"))]
    for twin in twins[1:]:
        for part in ("data", "tokenizer", "train", "optimizer", "mesh", "decode", "evaluation"):
            assert getattr(twin, part) == getattr(twins[0], part), (twin.name, part)
        assert twin.model.embed_dim == twins[0].model.embed_dim


def test_a_language_model_is_not_trained_on_pairs(tmp_path):
    words = ["--config.model.encoder={'kind': 'none'}"]
    cfg = config.load(spec_of(ROOT / "configs/number_words/gpt.py", "tiny"), words)
    with pytest.raises(ConfigError, match="data for language models: text without sources"):
        experiment.train(cfg, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_tatoeba_has_two_directions():
    file = ROOT / "configs/translation/tatoeba_enzh.py"
    cfg = config.load(spec_of(file, "zh-en"))
    assert (cfg.name, cfg.evaluation.tokenize) == ("tatoeba_zhen", "13a")
    assert (cfg.data.source_lang, cfg.data.target_lang) == ("zh", "en")
    assert config.load(str(file)).evaluation.tokenize == "zh"
    with pytest.raises(ConfigError, match="config file") as caught:
        config.load(spec_of(file, "en-de"))
    assert "en-zh or zh-en" in str(caught.value.details)


def test_every_option_that_binds_a_run_has_a_default_for_older_runs():
    """Or the next new option would end the resuming of every run that is there."""
    cfg = config.load("configs/translation/transformer_tiny.py")
    identity, defaults = experiment._identity(cfg), experiment._option_defaults(cfg)
    flat = {
        f"{part}.{path}"
        for part in ("model", "tokenizer", "data")
        for path in _paths(identity[part])
    }
    without = {name for name in flat if name not in defaults}
    assert "model.encoder.attention_kernel" in flat
    assert without <= {"model.encoder.kind", "model.decoder.kind"}


def _paths(values, prefix=""):
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _paths(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


@pytest.mark.parametrize(
    ("name", "verbs"),
    [
        ("quickstart", ["evaluate", "generate"]),
        ("dialogue/coffee_gpt", ["evaluate", "chat"]),
        ("masked_lm/bert_small", ["evaluate", "fill"]),
        ("classification/toxicity", ["evaluate"]),
    ],
)
def test_what_to_do_with_a_run_is_told_by_its_kind(name, verbs):
    assert experiment._next_verbs(config.load(str(ROOT / f"configs/{name}.py"))) == verbs
