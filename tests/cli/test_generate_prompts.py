"""`seqgen generate` on a language model: prompts in, how they go on out."""

import jax
import numpy as np
import pytest
from cli.calls import call, stdin

import seqgen
from seqgen import config, config_schema, data
from seqgen.building import build_definition
from seqgen.cli.main import main
from seqgen.cli.text_files import escape
from seqgen.data.tokenizer import TableTokenizer
from seqgen.data.tokenizer_store import save_tokenizers
from seqgen.training.checkpoint import CheckpointStore
from seqgen.training.run_directory import RunDirectory
from seqgen.training.state import TrainState

PROMPTS = ["ab", "", "a\nb\\"]


@pytest.fixture(scope="module")
def language_model(tmp_path_factory):
    """A run directory whose checkpoint holds the parameters a training would begin with."""
    workdir = tmp_path_factory.mktemp("lm") / "run"
    cfg = config.from_dict(
        {
            "name": "lm",
            "model": {
                "embed_dim": 16,
                "tie_embeddings": "none",
                "encoder": {"kind": "none"},
                "decoder": {"num_layers": 1, "num_heads": 2, "ff_dim": 16},
            },
            "decode": {"max_new_tokens": 8},
        }
    )
    letters = TableTokenizer([*"abc\n\\ "], kind="char", byte_fallback=False)
    tokenizers = data.Tokenizers(letters, letters)
    params = build_definition(cfg, tokenizers, compute_dtype="float32").init(jax.random.key(0))
    params["output"]["table"] = params["output"]["table"] * 6
    state = TrainState(
        step=np.asarray(1, np.int32),
        params=params,
        opt_state={},
        key=np.asarray(0, np.uint32),
        ema=None,
        counters={},
    )
    with RunDirectory(workdir) as run:
        run.write_config(config_schema.to_dict(cfg))
    (workdir / "tokenizer").mkdir()
    save_tokenizers(tokenizers, workdir / "tokenizer", made_from="letters")
    CheckpointStore(workdir, asynchronous=False).save(1, state, {})
    return workdir


def test_prompts_come_and_go_on_lines(language_model, capsys):
    """What is printed, escaped, is what the library gives for the prompts that were escaped."""
    options = {"do_sample": True, "num_return_sequences": 2, "seed": 3, "stop": ["\n"]}
    words = ["--do_sample", "--num_return_sequences=2", "--seed=3", r"--stop=\n"]
    with stdin(b"ab\n\na\\nb\\\\\n"):
        out = call(capsys, "generate", f"--workdir={language_model}", *words)
    model = seqgen.load(language_model)
    wanted = [answer for found in model.generate(PROMPTS, **options) for answer in found]
    assert out == "".join(escape(answer.text) + "\n" for answer in wanted)
    assert len({answer.text for answer in wanted}) >= 3
    assert "\n" not in "".join(answer.text for answer in wanted)


def test_one_prompt_prints_the_text_as_it_is(language_model, capsys):
    words = ["--do_sample", "--seed=1", "--num_return_sequences=4", r"--prompt=a\nb\\"]
    out = call(capsys, "generate", f"--workdir={language_model}", *words)
    model = seqgen.load(language_model)
    options = {"do_sample": True, "seed": 1, "num_return_sequences": 4}
    (answers,) = model.generate(["a\nb\\"], **options)
    assert out == "\n".join(answer.text + "\n" for answer in answers)
    assert any("\n" in answer.text for answer in answers)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--max_length=4"], "max_length: read only by models of pairs"),
        (["--prompt=a", "--input=file"], "--prompt is one prompt"),
        (["--stop="], "stop: ('',)"),
    ],
)
def test_generate_refuses_what_would_not_be_read(language_model, capsys, words, expected):
    assert main(["generate", f"--workdir={language_model}", *words]) == 2
    captured = capsys.readouterr()
    assert expected in captured.err and captured.out == ""
