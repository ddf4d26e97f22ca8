import dataclasses
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seqgen import config, config_checks, config_schema
from seqgen.errors import ConfigError, SeqgenError


def told(call, *args, **kwargs) -> str:
    """Cause and details of the ConfigError that a call raises."""
    with pytest.raises(ConfigError) as caught:
        call(*args, **kwargs)
    return str(caught.value)


# ---- JSON ----------------------------------------------------------------------------------------


def test_json_fills_missing_keys_and_refuses_unknown_ones():
    assert config.from_json("{}") == config.Config()
    text = told(config.from_json, '{"train": {"sed": 1}}', place="runs/x/config.json")
    assert "written in     runs/x/config.json" in text and "train.seed" in text


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"train": {"seed": NaN}}', "nul", '{"model": 3}', "[" * 100_000]
)
def test_bad_json_gives_a_typed_error(text):
    with pytest.raises(ConfigError):
        config.from_json(text)


def test_json_keeps_types():
    true_rate = '{"optimizer": {"learning_rate": true}}'
    assert "bad value for  optimizer.learning_rate: true" in told(config.from_json, true_rate)
    assert "bad value for  train.seed: 1.0" in told(config.from_json, '{"train": {"seed": 1.0}}')
    assert "bad value for  train.seed: true" in told(config.from_json, '{"train": {"seed": true}}')
    cfg = config.from_json(
        '{"optimizer": {"learning_rate": 1}, "evaluation": {"metrics": ["ter"]}}'
    )
    assert type(cfg.optimizer.learning_rate) is float
    assert cfg.evaluation.metrics == ("ter",)


def test_digest_follows_values_only():
    one, other = config.Config(), config.override({}, ["--config.train.seed=1"])
    assert config.digest(one) == config.digest(config.from_json(config.to_json(one)))
    assert config.digest(one) != config.digest(other)
    assert config.digest(one.model) == config.digest(other.model)


_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=4),
    st.lists(st.integers()),
)
_PATHS = st.sampled_from([path for path, _, _ in config_schema.leaves(config.Config())])


@settings(max_examples=150, deadline=None, database=None)
@given(path=_PATHS, value=_VALUES)
def test_any_value_is_taken_whole_or_refused_politely(path, value):
    data = value
    for name in reversed(path.split(".")):
        data = {name: data}
    try:
        cfg = config.from_dict(data)
    except SeqgenError as error:
        assert error.exit_code == 2
        return
    taken = config_schema.value_at(cfg, path)
    assert taken == (tuple(value) if isinstance(value, list) else value)
    assert config.from_json(config.to_json(cfg)) == cfg


@settings(max_examples=80, deadline=None, database=None)
@given(path=_PATHS, text=st.text(max_size=6))
def test_any_override_text_is_taken_or_refused_politely(path, text):
    try:
        config.override({}, [f"--config.{path}={text}"])
    except SeqgenError as error:
        assert error.exit_code == 2


# ---- rules between fields ------------------------------------------------------------------------

RECURRENT = {"encoder": {"kind": "lstm", "bidirectional": False}, "decoder": {"kind": "lstm"}}


def recurrent(encoder=None, decoder=None, **sections):
    parts = {"encoder": {**RECURRENT["encoder"], **(encoder or {})}}
    parts["decoder"] = {**RECURRENT["decoder"], **(decoder or {})}
    return {"model": parts, **sections}


def alone(source_prefix=False, *, decoder=None, tie_embeddings="target_output", **sections):
    encoder = {"kind": "none", "source_prefix": source_prefix}
    model = {"encoder": encoder, "decoder": decoder or {}, "tie_embeddings": tie_embeddings}
    return {"model": model, **sections}


CONTRADICTIONS = {
    "num_kv_heads": {"model": {"encoder": {"num_kv_heads": 3}}},
    "even head width": {
        "model": {"embed_dim": 24, "encoder": {"positions": "rotary", "num_heads": 8}}
    },
    "max_positions": {"model": {"decoder": {"positions": "learned", "max_positions": 8}}},
    "packing is for": recurrent(data={"batching": "packing"}),
    "one vocabulary": {"model": {"tie_embeddings": "all"}, "tokenizer": {"joint": False}},
    "there is no encoder": alone(tie_embeddings="all"),
    "bridge=dense": alone(decoder={"kind": "lstm", "attention": "none"}),
    "vocabulary for both sides": alone(True, tokenizer={"joint": False}),
    "packing has no place": alone(True, data={"batching": "packing"}),
    "max_source_len + data.max_target_len=512": alone(
        True, decoder={"positions": "learned", "max_positions": 511}
    ),
    "exchange tokens of the source": alone(
        True,
        decoder={"kind": "gru", "attention": "none", "bridge": "zero"},
        train={"teacher_forcing_rate": 0.5},
    ),
    "copy=true needs one vocabulary": {
        "model": {"decoder": {"copy": True}},
        "tokenizer": {"joint": False},
    },
    "not built for decoders": recurrent(
        decoder={"copy": True}, train={"teacher_forcing_rate": 0.5}
    ),
    "train.coverage_weight=2 would be ignored": {"train": {"coverage_weight": 2.0}},
    "tokenizer.path": {"tokenizer": {"kind": "given"}},
    "whose vocabulary is taken": {"tokenizer": {"kind": "run"}},
    "adapts a run that is there": {"lora": {"rank": 4}},
    "lora.rank=0": {"lora": {"alpha": 4.0}},
    "init.runs names none": {"init": {"fresh": (".*",)}},
    "two runs are called 'a'": {"init": {"runs": ("a=x", "a=y")}},
    "bad rule in init.map": {"init": {"runs": ("x",), "map": ("encoder/",)}},
    "sampling_alpha": {"tokenizer": {"kind": "byte", "sampling_alpha": 0.1}},
    "same layers": recurrent({"hidden_dim": 8}, {"bridge": "copy"}),
    "sru and ssru have a cell state": recurrent({"kind": "gru"}, {"bridge": "copy"}),
    "one, the encoder has none": recurrent({"kind": "mingru"}, {"kind": "ssru", "bridge": "copy"}),
    "luong_dot": recurrent({"hidden_dim": 8}, {"attention": "luong_dot"}),
    "needs a recurrent encoder": {"model": {"decoder": {"kind": "gru", "bridge": "copy"}}},
    "input_feeding": recurrent(decoder={"attention": "none", "input_feeding": True}),
    "context_every_step": recurrent(decoder={"context_every_step": True}),
    "weight_decay=0.1 would be ignored": {"optimizer": {"weight_decay": 0.1}},
    "momentum=0.9 would be ignored": {"optimizer": {"momentum": 0.9}},
    "b2=0.98 would be ignored": {"optimizer": {"name": "sgd", "b2": 0.98}},
    "decay_steps=9 would be ignored": {"optimizer": {"schedule": "constant", "decay_steps": 9}},
    "decay_steps": {"optimizer": {"schedule": "linear", "warmup_steps": 9, "decay_steps": 9}},
    "teacher_forcing_rate": {"train": {"teacher_forcing_rate": 0.5}},
    "patience": {"train": {"patience": 2, "eval_every_steps": 0}},
    "min_length=9": {"data": {"min_length": 9, "max_length": 8}},
    "leaves no room": {"decode": {"min_length": 9, "max_length": 9}},
    "do_sample": {"decode": {"do_sample": True, "num_beams": 2}},
}


@pytest.mark.parametrize("words", CONTRADICTIONS)
def test_contradictions_are_refused(words):
    assert words in told(config.from_dict, CONTRADICTIONS[words])


def test_their_repaired_twins_are_taken():
    config.from_dict(recurrent({"num_layers": 2}, {"num_layers": 2, "bridge": "copy"}))
    config.from_dict(recurrent({"kind": "simple"}, {"kind": "gru", "bridge": "copy"}))
    config.from_dict(recurrent({"kind": "gru"}, {"kind": "minlstm", "bridge": "copy"}))
    config.from_dict(recurrent({"kind": "lstm"}, {"kind": "sru", "bridge": "copy"}))
    config.from_dict(recurrent({}, {"attention": "luong_dot"}))
    config.from_dict(recurrent(train={"teacher_forcing_rate": 0.5}))
    config.from_dict({"optimizer": {"name": "adamw", "weight_decay": 0.1}})
    config.from_dict({"optimizer": {"name": "my.module:rule", "weight_decay": 0.1}})
    config.from_dict({"data": {"batching": "packing"}})
    config.from_dict({"decode": {"num_beams": 4, "num_beam_groups": 2, "required_words": ("a",)}})
    config.from_dict(alone(data={"batching": "packing"}, tokenizer={"joint": False}))
    config.from_dict(alone(decoder={"kind": "lstm", "attention": "none", "bridge": "zero"}))
    config.from_dict(alone(True, decoder={"positions": "learned", "max_positions": 512}))


def test_a_short_run_of_a_long_recipe_is_a_note_not_an_error():
    cfg = config.override({"optimizer": {"warmup_steps": 500}}, ["--config.train.num_steps=20"])
    assert any("warmup_steps=500 is longer" in note for note in config_checks.notes(cfg))
    assert config_checks.notes(config.Config()) == []


def test_uneven_sharding_is_noted():
    cfg = config.from_dict({"mesh": {"tensor": 3, "fsdp": 3}, "model": {"embed_dim": 512}})
    notes = " ".join(config_checks.notes(cfg))
    assert "num_heads=8 is no multiple of mesh.tensor=3" in notes
    assert "embed_dim=512 is no multiple of mesh.fsdp=3" in notes


def test_configs_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.Config().name = "x"  # type: ignore[misc]
    assert math.isfinite(config.Config().optimizer.learning_rate)
    assert json.loads(config.to_json(config.Config()))["train"]["seed"] == 0
