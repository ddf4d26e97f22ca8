import pathlib

import pytest

from seqgen import config, config_schema
from seqgen.errors import ConfigError

ROOT = pathlib.Path(__file__).resolve().parent.parent
SHIPPED = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "configs").rglob("*.py"))
BASE = {
    "model": {"embed_dim": 64, "encoder": {"kind": "transformer", "num_layers": 2, "num_heads": 4}},
    "train": {"num_steps": 40},
}


def told(call, *args, **kwargs) -> str:
    """The words of a ConfigError, as the command line prints them."""
    with pytest.raises(ConfigError) as caught:
        call(*args, **kwargs)
    error = caught.value
    lines = [f"error: {error.cause}", *(f"  {line}" for line in error.details)]
    assert len(lines) <= 8, "errors fit one screen"
    return "\n".join(lines)


# ---- files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHIPPED)
@pytest.mark.parametrize("argument", ["", ":tiny"])
def test_shipped_configs_load_and_survive_json(name, argument, monkeypatch):
    monkeypatch.chdir(ROOT)
    cfg = config.load(name + argument)
    assert config.from_json(config.to_json(cfg)) == cfg
    doc = (ROOT / name).read_text(encoding="utf-8").split('"""')[1]
    assert f"seqgen train --config={name}" in doc, "the docstring holds the command"


def write(path: pathlib.Path, body: str) -> str:
    path.write_text(f"from ml_collections import ConfigDict\n{body}\n", encoding="utf-8")
    return str(path)


def test_file_argument_reaches_get_config_and_tiny_is_called(tmp_path):
    body = (
        "def get_config(arg=''):\n    return ConfigDict({'name': 'got ' + arg})\n"
        "def tiny():\n    return ConfigDict({'name': 'small'})"
    )
    file = write(tmp_path / "c.py", body)
    assert [config.load(file + end).name for end in ("", ":x", ":tiny")] == [
        "got ",
        "got x",
        "small",
    ]


def test_an_argument_that_nobody_reads_is_an_error(tmp_path):
    body = "def get_config():\n    return ConfigDict()\ndef tiny():\n    return ConfigDict()"
    file = write(tmp_path / "c.py", body)
    text = told(config.load, file + ":tyni")
    assert "takes no argument 'tyni' (tiny is one)" in text


def test_file_runs_without_leaving_bytecode(tmp_path):
    config.load(write(tmp_path / "c.py", "def get_config():\n    return ConfigDict()"))
    assert [path.name for path in tmp_path.iterdir()] == ["c.py"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("def get_config():\n    return 1 / 0", "line 3: ZeroDivisionError: division by zero"),
        ("def get_config(:", "line 2: SyntaxError"),
        ("x = 1", "it has no function get_config()"),
        ("def get_config():\n    return [1]", "returned list, not a ConfigDict"),
        ("def get_config():\n    return None", "returned NoneType, not a ConfigDict"),
        ("import nowhere_to_be_found", "ModuleNotFoundError"),
    ],
)
def test_broken_files_are_told_with_their_line(tmp_path, body, words):
    assert words in told(config.load, write(tmp_path / "c.py", body))


def test_misspelt_file_names_the_nearest(tmp_path):
    write(tmp_path / "quickstart.py", "")
    text = told(config.load, str(tmp_path / "quikstart.py"))
    assert f"did you mean   {tmp_path / 'quickstart.py'}" in text


def test_unknown_key_in_a_file_names_the_file(tmp_path):
    file = write(tmp_path / "c.py", "def get_config():\n    return {'train': {'num_step': 3}}")
    text = told(config.load, file)
    assert f"written in     {file}" in text
    assert "did you mean   train.num_steps   (int, at least 0, now 1000)" in text


# ---- overrides -----------------------------------------------------------------------------------


def test_overrides_reach_leaves_that_the_file_does_not_mention():
    cfg = config.override(
        BASE,
        [
            "--config.train.seed=7",
            "--config.optimizer.learning_rate=1",
            "--config.data.dir=/tmp/a b=c",
            "--noconfig.model.scale_embeddings",
            "--config.model.output_bias",
            "--config.model.encoder.num_kv_heads=2",
            "--config.evaluation.metrics=('bleu', 'ter')",
            "--config.train.num_steps=5",
            "--config.train.num_steps=6",
        ],
    )
    assert (cfg.train.seed, cfg.train.num_steps, cfg.data.dir) == (7, 6, "/tmp/a b=c")
    assert cfg.optimizer.learning_rate == 1.0 and type(cfg.optimizer.learning_rate) is float
    assert cfg.model.scale_embeddings is False and cfg.model.output_bias is True
    assert cfg.model.encoder.num_kv_heads == 2
    assert cfg.evaluation.metrics == ("bleu", "ter")


@pytest.mark.parametrize(
    ("text", "metrics"),
    [
        ("bleu,ter", ("bleu", "ter")),
        ("('bleu', 'ter')", ("bleu", "ter")),
        ("bleu", ("bleu",)),
        ("['bleu']", ("bleu",)),
        ("", ()),
        ("()", ()),
    ],
)
def test_tuples_in_every_spelling(text, metrics):
    cfg = config.override(BASE, [f"--config.evaluation.metrics={text}"])
    assert cfg.evaluation.metrics == metrics
    shown = config_schema.show(metrics)
    again = config.override(BASE, [f"--config.evaluation.metrics={shown}"])
    assert again == cfg, "what show prints can be typed"


def test_none_is_for_optional_fields_only():
    data = {"model": {"encoder": {"num_kv_heads": 2}}}
    cfg = config.override(data, ["--config.model.encoder.num_kv_heads=none"])
    assert cfg.model.encoder.num_kv_heads is None
    assert "bad value for  train.seed: none" in told(
        config.override, BASE, ["--config.train.seed=none"]
    )


GOLDEN = {
    "--config.model.encoder.num_layer=4": """\
error: unknown config key  model.encoder.num_layer
  you typed      --config.model.encoder.num_layer=4
  did you mean   model.encoder.num_layers   (int, 1..256, now 2)
  see them all   seqgen show --config=FILE""",
    "--config.model.num_layer=4": """\
error: unknown config key  model.num_layer
  you typed      --config.model.num_layer=4
  did you mean   model.encoder.num_layers   (int, 1..256, now 2)
  see them all   seqgen show --config=FILE""",
    "--config.trane.seed=4": """\
error: unknown config key  trane.seed
  you typed      --config.trane.seed=4
  did you mean   train.seed   (int, 0..2147483647, now 0)
  see them all   seqgen show --config=FILE""",
    "--config.train.num_steps=many": """\
error: bad value for  train.num_steps: many
  you typed      --config.train.num_steps=many
  it takes       int, at least 0   (now 40)""",
    "--config.train.num_steps=-1": """\
error: bad value for  train.num_steps: -1
  you typed      --config.train.num_steps=-1
  it takes       int, at least 0   (now 40)""",
    "--config.model.encoder.num_layers=2.5": """\
error: bad value for  model.encoder.num_layers: 2.5
  you typed      --config.model.encoder.num_layers=2.5
  it takes       int, 1..256   (now 2)""",
    "--config.model.dropout_rate=nan": """\
error: bad value for  model.dropout_rate: nan
  you typed      --config.model.dropout_rate=nan
  it takes       float, 0.0..0.95   (now 0.1)""",
    "--config.model.encoder.norm=layer_norm": """\
error: bad value for  model.encoder.norm: layer_norm
  you typed      --config.model.encoder.norm=layer_norm
  it takes       one of layernorm, rmsnorm   (now layernorm)
  did you mean   layernorm""",
    "--config.model.encoder.kind=lstn": """\
error: bad value for  model.encoder.kind: lstn
  you typed      --config.model.encoder.kind=lstn
  did you mean   lstm
  it takes       one of transformer, simple, lstm, gru, mingru, minlstm, sru, ssru, none""",
    "--config.evaluation.metrics=bleu,rouge": """\
error: bad value for  evaluation.metrics: bleu,rouge
  you typed      --config.evaluation.metrics=bleu,rouge
  it takes       comma-separated, of bleu, chrf, ter, exact_match, rouge1, rouge2, rougeL, \
rougeLsum, copied1, copied2, copied3, copied4, novel1, novel2, novel3, novel4, repetition1, \
repetition2, repetition3, repetition4, distinct1, distinct2, length_ratio or module:name   \
(now bleu,chrf,exact_match)
  did you mean   rougeL""",
    "--config.model=tiny": """\
error: model holds further keys; to replace it whole, give them as a dict
  you typed      --config.model=tiny
  the form is    --config.model="{'key': value}\"""",
    "--config.model.encoder.num_heads=3": """\
error: model.encoder.num_heads=3 does not divide model.embed_dim=64
  choose         one of 1, 2, 4, 8, 16, 32, 64""",
    "--config.train.best_metric=eval/blue": """\
error: train.best_metric=eval/blue is measured by no evaluation
  did you mean   eval/bleu
  measured are   eval/loss, eval/perplexity, eval/token_accuracy, eval/bleu, eval/chrf, \
eval/exact_match
  scores: set    evaluation.metrics""",
}


@pytest.mark.parametrize("word", GOLDEN)
def test_error_texts(word):
    assert told(config.override, BASE, [word]) == GOLDEN[word]


# ---- variants ------------------------------------------------------------------------------------


def test_kind_exchanges_the_variant_and_keeps_shared_fields():
    data = {"model": {"encoder": {"kind": "transformer", "num_layers": 3, "dropout_rate": 0.2}}}
    words = ["--config.model.encoder.hidden_dim=32", "--config.model.encoder.kind=gru"]
    encoder = config.override(data, words).model.encoder
    assert type(encoder).__name__ == "RecurrentEncoderConfig"
    shared = (encoder.kind, encoder.num_layers, encoder.dropout_rate, encoder.hidden_dim)
    assert shared == ("gru", 3, 0.2, 32)


def test_no_encoder_is_a_kind_that_can_be_typed():
    words = ["--config.model.encoder.kind=none", "--config.model.encoder.source_prefix"]
    encoder = config.override({}, words).model.encoder
    assert (type(encoder).__name__, encoder.source_prefix) == ("NoEncoderConfig", True)
    again = config.from_json(config.to_json(config.override({}, words[:1])))
    assert again.model.encoder.kind == "none" and not again.model.encoder.source_prefix


def test_kind_within_one_variant_keeps_everything():
    data = {"model": {"encoder": {"kind": "lstm", "hidden_dim": 48, "residual": True}}}
    encoder = config.override(data, ["--config.model.encoder.kind=simple"]).model.encoder
    assert (encoder.kind, encoder.hidden_dim, encoder.residual) == ("simple", 48, True)


def test_kind_drops_fields_at_their_defaults_and_refuses_others():
    default = {"model": {"encoder": {"num_heads": 8}}}
    assert (
        config.override(default, ["--config.model.encoder.kind=lstm"]).model.encoder.kind == "lstm"
    )
    text = told(config.override, BASE, ["--config.model.encoder.kind=lstm"])
    assert "has no use for what the config file says: num_heads=4" in text
    assert "\"{'kind': 'lstm', 'num_layers': 2}\"" in text


def test_the_remedy_that_the_refusal_names_works():
    word = "--config.model.encoder={'kind': 'lstm', 'num_layers': 2}"
    encoder = config.override(BASE, [word]).model.encoder
    assert (encoder.kind, encoder.num_layers, encoder.hidden_dim) == ("lstm", 2, 256)


def test_unknown_key_of_the_new_variant_is_looked_up_there():
    words = ["--config.model.encoder.kind=gru", "--config.model.encoder.num_kv_heads=2"]
    data = {"model": {"encoder": {"num_layers": 2}}}
    assert "unknown config key  model.encoder.num_kv_heads" in told(config.override, data, words)
