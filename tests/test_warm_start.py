"""New runs that begin with the parameters of others."""

import json
import shutil
import types
from typing import Any

import jax
import numpy as np
import pytest

from seqgen import config, experiment, runs
from seqgen.cli.main import main
from seqgen.errors import ConfigError
from seqgen.models.config import (
    ModelConfig,
    NoEncoderConfig,
    TransformerDecoderConfig,
    TransformerEncoderConfig,
)
from seqgen.named_parts import parts_of
from seqgen.nn.low_rank import LowRankDefinition
from seqgen.training.state import flatten, state_digest
from seqgen.warm_start_report import Findings

GPT = "configs/language_model/shakespeare_char.py:tiny"
BERT = "configs/masked_lm/bert_small.py:tiny"
TEXT = "What light through yonder window breaks?\nIt is the east.\n\nArise, fair sun.\n"


def words_of(folder, *words):
    return [
        *(f"--config.data.dir={folder}", "--config.train.tensorboard=false"),
        *("--config.train.compute_dtype=float32", "--config.train.async_checkpoints=false"),
        *(f"--config.{word}" for word in words),
    ]


def train(root, folder, name, *words, file=GPT):
    """Without steps a run holds its first parameters, and nothing is compiled but their drawing."""
    options = words_of(folder, "train.num_steps=0", "tokenizer.kind=word", *words)
    workdir = folder / name
    outcome = experiment.train(config.load(str(root / file), options), workdir)
    return workdir, outcome.state


def listed(workdir):
    run = runs.Run.open(workdir)
    return {name: part.value for name, part in parts_of(run.definition, run.params()).items()}


def assert_same(parts, others, names):
    assert names
    for name in names:
        np.testing.assert_array_equal(parts[name], others[name])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("warm")
    (folder / "train.txt").write_text(TEXT * 9)  # no val: nothing is evaluated
    return folder


@pytest.fixture(scope="module")
def pretrained(root, folder):
    return train(root, folder, "gpt", "train.seed=7", "model.decoder.num_layers=2")[0]


def from_run(pretrained, *words):
    return (f"init.runs={pretrained}", "tokenizer.kind=run", "model.decoder.num_layers=2", *words)


def test_a_whole_run_is_taken_over_with_its_tokenizer(root, folder, pretrained):
    narrow = "model.decoder.attention_window=4"
    new, _ = train(root, folder, "whole", *from_run(pretrained, narrow))
    ours, theirs = listed(new), listed(pretrained)
    assert_same(ours, theirs, list(theirs))
    assert set(ours) == set(theirs)
    tokenizers = [runs.Run.open(path).tokenizers.target.fingerprint for path in (new, pretrained)]
    assert tokenizers[0] == tokenizers[1]
    stored = config.read_json(new / "config.json")
    assert stored.init.runs == (f"0={pretrained}",) and stored.tokenizer.path == str(pretrained)
    events = [json.loads(line) for line in (new / "events.jsonl").read_text().splitlines()]
    (event,) = [row for row in events if row["event"] == "initialised"]
    assert event["runs"][0]["path"] == str(pretrained) and event["runs"][0]["steps"] == [0]
    assert event["fresh"] == event["unused"] == []
    assert event["differences"] == [f"{narrow}, and None in {pretrained}"]


def test_stacked_layers_come_from_listed_ones_and_partly(root, folder, pretrained):
    words = from_run(
        pretrained,
        *("model.decoder.scan_layers=true", "model.decoder.num_layers=3"),
        "init.fresh=decoder/layers/2/.*",
    )
    new, state = train(root, folder, "stacked", *words)
    ours, theirs = listed(new), listed(pretrained)
    assert_same(ours, theirs, list(theirs))
    kernel = np.asarray(flatten(state.params)["decoder/layers/feed_forward/up/kernel"])
    assert kernel.shape[0] == 3 and (kernel[2] != kernel[1]).any() and kernel[2].std() > 0


def told(root, folder, *words, file=GPT):
    with pytest.raises(ConfigError) as caught:
        train(root, folder, "refused", *words, file=file)
    shutil.rmtree(folder / "refused", ignore_errors=True)
    lines = [caught.value.cause, *caught.value.details]
    assert len(lines) <= 8, "one screen"
    return "\n".join(lines)


def test_nothing_is_left_random_without_a_word(root, folder, pretrained):
    text = told(root, folder, *from_run(pretrained, "model.decoder.num_layers=3"))
    assert "parameters of the new model have no source" in text and "more" in text
    assert "decoder/layers/2/" in text and "(nearest: decoder/layers/" in text
    text = told(root, folder, *from_run(pretrained, "model.decoder.ff_dim=24"))
    assert "another shape" in text and "in the run, now" in text
    text = told(root, folder, *from_run(pretrained, "init.fresh=decoder/layer/.*"))
    assert "fits the whole name of no parameter" in text and "decoder/layers/" in text
    text = told(root, folder, *from_run(pretrained, "init.map=body/ -> decoder/"))
    assert "begins no name" in text
    text = told(root, folder, *from_run(pretrained, "init.map=decoder/ -> big:decoder/"))
    assert "no run is called 'big'" in text
    words = ("init.use_all=true", "init.fresh=decoder/.*")
    assert "would not be used" in told(root, folder, *from_run(pretrained, *words))


def test_another_vocabulary_is_refused_with_the_fix(root, folder, pretrained, capsys):
    other = folder / "other"
    other.mkdir()
    (other / "train.txt").write_text("Much ado about nothing at all\n" * 40)
    words = words_of(
        other,
        *("train.num_steps=0", "tokenizer.kind=word", f"init.runs={pretrained}"),
        "model.decoder.num_layers=2",
    )
    command = ["train", f"--config={root / GPT}", f"--workdir={other / 'run'}", *words]
    assert main(command) == 2
    said = capsys.readouterr().err
    assert "vocabulary is not that of" in said and "tokenizer.kind=run" in said
    assert main([*command, "--config.tokenizer.kind=run"]) == 0, "in the same directory"
    assert_same(listed(other / "run"), listed(pretrained), ["target_embedding/table"])


def test_control_tokens_are_told_apart_by_name(root, folder, pretrained):
    """A masked language model has a mask that a causal one lacks."""
    small = ("data.objective.pairs=none", "model.decoder.next_sentence=false")
    width = runs.Run.open(pretrained).config.model.embed_dim
    sizes = (f"model.embed_dim={width}", "data.objective.unit=token")
    words = (
        *(f"init.runs={pretrained}", "tokenizer.kind=run", *small, *sizes),
        "init.map=embedding/ -> target_embedding/",
    )
    rest = "(encoder|token_|embedding_norm|output_bias)/?.*"
    text = told(root, folder, *words, f"init.fresh={rest}", file=BERT)
    assert "1 parameters" in text and "embedding/table[mask]" in text
    patterns = repr((rest, r"embedding/table\[mask\]"))
    new, _ = train(root, folder, "bert", *words, f"init.fresh={patterns}", file=BERT)
    ours, theirs = listed(new)["embedding/table"], listed(pretrained)["target_embedding/table"]
    assert len(ours) == len(theirs) + 1
    np.testing.assert_array_equal(ours[:-1], theirs)
    assert ours[-1].std() > 0


def test_a_resumed_run_needs_its_source_no_more(root, folder, pretrained):
    """Frozen layers, rates by depth and dropout on: the same bits, source there or gone."""
    gone = folder / "gone"
    shutil.copytree(pretrained, gone)
    words = from_run(
        gone,
        *("optimizer.freeze=decoder/layers/0/.*", "optimizer.layer_decay=0.5"),
        *("optimizer.schedule=constant", "optimizer.final_learning_rate_fraction=0"),
        *("model.decoder.dropout_rate=0.2", "train.checkpoint_every_steps=2"),
    )
    _, whole = train(root, folder, "once", *words, "train.num_steps=4")
    train(root, folder, "twice", *words, "train.num_steps=2")
    shutil.rmtree(gone)
    _, resumed = train(root, folder, "twice", *words, "train.num_steps=4")
    assert state_digest(resumed) == state_digest(whole)
    frozen = "decoder/layers/0/feed_forward/up/kernel"
    assert_same(flatten(whole.params), listed(pretrained), [frozen])
    assert not [name for name in flatten(whole.opt_state) if "/layers/0/" in name]
    with pytest.raises(ConfigError, match="another experiment"):
        train(root, folder, "twice", *words, "optimizer.freeze=()", "train.num_steps=5")


def test_two_parts_make_one_model(root, folder, pretrained):
    """A masked language model's encoder and a causal one's decoder, by the program itself."""
    bert, gpt, warm = (folder / f"part-{name}" for name in ("bert", "gpt", "warm"))
    alone = ("data.objective.pairs=none", "model.decoder.next_sentence=false")
    recipes = [
        (bert, BERT, folder, ["tokenizer.vocab_size=290", *alone]),
        (
            gpt,
            "configs/language_model/wikitext2_gpt.py:tiny",
            folder,
            ["tokenizer.kind=run", f"tokenizer.path={bert}"],
        ),
        (
            warm,
            "configs/summarisation/debian_synopsis_warm.py:tiny",
            folder / "pairs",
            [f"init.runs=bert={bert},gpt={gpt}"],
        ),
    ]
    (folder / "pairs").mkdir()
    rows = [{"source": "It is the east and fair", "target": "the sun"}] * 8
    (folder / "pairs/train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for workdir, file, data, words in recipes:
        command = ["train", f"--config={root / file}", f"--workdir={workdir}"]
        assert main([*command, *words_of(data, "train.num_steps=0", *words)]) == 0
    ours, encoder, decoder = listed(warm), listed(bert), listed(gpt)
    shared = [name for name in ours if name.startswith(("encoder/", "token_types", "embedding_"))]
    assert_same(ours, encoder, shared)
    assert "encoder/learned_positions/table" in shared and "embedding_norm/scale" in shared
    below = [name for name in ours if name.startswith("decoder/") and "cross_" not in name]
    assert_same(ours, decoder, below)
    size = len(ours["source_embedding/table"])
    np.testing.assert_array_equal(ours["source_embedding/table"], encoder["embedding/table"][:size])
    np.testing.assert_array_equal(
        ours["target_embedding/table"], decoder["target_embedding/table"][:size]
    )
    events = [json.loads(line) for line in (warm / "events.jsonl").read_text().splitlines()]
    event = next(row for row in events if row["event"] == "initialised")
    assert event["fresh"] and all("cross_" in name for name in event["fresh"])
    assert [run["path"] for run in event["runs"]] == [str(bert), str(gpt)]


def test_low_rank_matrices_are_kept_apart_and_merged_on_loading(
    root, folder, pretrained, monkeypatch
):
    words = from_run(
        pretrained, "lora.rank=2", "lora.targets=.*(query|up)/kernel", "train.num_steps=3"
    )
    merge, evaluated = LowRankDefinition.merge, []

    def spy(self, params):
        found = merge(self, params)
        if not isinstance(params["target_embedding"]["table"], jax.core.Tracer):
            evaluated.append(jax.device_get(found))
        return found

    with monkeypatch.context() as patch:
        patch.setattr(LowRankDefinition, "merge", spy)
        often = ("evaluation.split=train", "train.eval_every_steps=2")
        new, state = train(root, folder, "lora", *words, *often, "optimizer.learning_rate=0.05")
    assert len(evaluated) == 2, "once an evaluation, not once a batch"
    kept = {name: np.asarray(leaf) for name, leaf in flatten(state.params).items()}
    theirs, merged = listed(pretrained), listed(new)
    assert_same(kept, theirs, list(theirs))
    assert set(merged) == set(theirs)
    assert_same(flatten(evaluated[-1]), flatten(runs.Run.open(new).params()), flatten(evaluated[0]))
    for name, leaf in merged.items():
        expected = kept[name]
        if f"lora/{name}/a" in kept:
            a, b = kept[f"lora/{name}/a"], kept[f"lora/{name}/b"]
            assert (b != 0).any()
            expected = expected + 16.0 / 2 * (a @ b)
        np.testing.assert_allclose(leaf, expected, rtol=1e-5, atol=1e-6)
    # A run that begins with it begins with the sum.
    after, _ = train(root, folder, "after", *from_run(new))
    assert_same(listed(after), merged, list(merged))


def test_differences_are_those_of_the_stacks_that_are_taken():
    """An encoder's layers in a decoder are compared with the decoder's options."""
    stack: dict[str, Any] = {"num_layers": 1, "num_heads": 2, "ff_dim": 8}
    encoder = TransformerEncoderConfig(**stack, activation="gelu", dropout_rate=0.3)
    theirs = ModelConfig(embed_dim=8, encoder=encoder, scale_embeddings=True)
    decoder = TransformerDecoderConfig(**stack)
    ours = ModelConfig(
        embed_dim=8, encoder=NoEncoderConfig(), decoder=decoder, scale_embeddings=False
    )
    run: Any = types.SimpleNamespace(path="x", parts={}, used=set(), model=theirs)
    findings = Findings(ours, {"0": run})
    findings.take(run, "decoder/layers/0/norm/scale", "encoder/layers/0/norm/scale")
    assert findings.differences() == ["model.decoder.activation=relu, and gelu in x"]
    findings.take(run, "target_embedding/table", "source_embedding/table")
    assert findings.differences()[1:] == ["model.scale_embeddings=False, and True in x"]
