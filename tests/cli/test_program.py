"""The program around the verbs: help, errors, exit codes, interruptions."""

import json
import os
import subprocess
import sys

import pytest

from seqgen.cli import doctor
from seqgen.cli.arguments import split_config_words
from seqgen.cli.main import VERBS, main

QUICK = """
import resource, sys
from seqgen.cli.main import main
try:
    main({words})
except SystemExit:
    pass
used = resource.getrusage(resource.RUSAGE_SELF)
heavy = sorted({{"jax", "numpy", "flax", "sacrebleu", "ml_collections"}} & set(sys.modules))
print(f"{{used.ru_utime + used.ru_stime:.3f}}", *heavy, file=sys.stderr)
"""


@pytest.mark.parametrize("words", [["--help"], *([verb, "--help"] for verb in VERBS)], ids=str)
def test_help_answers_at_once(words):
    # CPU time, because other programs share the machine; the best of three, for a cold disk.
    code = [sys.executable, "-c", QUICK.format(words=words)]
    seconds = []
    for _ in range(3):
        done = subprocess.run(code, capture_output=True, text=True, check=True)
        used, *heavy = done.stderr.split()
        assert not heavy, "help imports heavy packages"
        assert done.stdout.startswith(("examples:\n  ", "usage: seqgen data"))
        seconds.append(float(used))
        if seconds[-1] < 0.3:
            return
    pytest.fail(f"help took {min(seconds)} s of CPU time")


def stderr_of(capsys, *words: str, code: int = 2) -> str:
    capsys.readouterr()
    assert main(list(words)) == code
    captured = capsys.readouterr()
    assert captured.out == "" and "Traceback" not in captured.err
    assert len(captured.err.splitlines()) <= 10
    return captured.err


GOLDEN = {
    "shw": """\
error: unknown verb 'shw'
  did you mean   seqgen show
  verbs          train, evaluate, generate, chat, fill, compare, show, bench, data, doctor
""",
    "train --workdr=x": """\
error: unknown option  --workdr
  you typed      --workdr=x
  did you mean   --workdir=x
  see            seqgen train --help
""",
    "train --workdir=x --confg.train.seed=3": """\
error: unknown option  --confg.train.seed
  you typed      --confg.train.seed=3
  did you mean   --config.train.seed=3
  see            seqgen train --help
""",
    "train": """\
error: seqgen train: the following arguments are required: --workdir
  see            seqgen train --help
""",
    "train --workdir=/nowhere/run": """\
error: seqgen train needs --config=FILE.py
  /nowhere/run holds no earlier run whose config could be used
  try            seqgen train --config=configs/quickstart.py --workdir=/nowhere/run
""",
    "evaluate --workdir=/nowhere/run": """\
error: /nowhere/run does not exist
  make one       seqgen train --config=FILE.py --workdir=DIR
""",
    "generate --workdir=x --config.train.seed=1": """\
error: seqgen generate takes no config overrides
  you typed      --config.train.seed=1
  a finished run keeps its config; overrides are for seqgen train and seqgen show
""",
    "generate extra --workdir=x": """\
error: seqgen generate takes no further argument: extra
  see            seqgen generate --help
""",
    "show": """\
error: seqgen show needs --config=FILE.py or --workdir=RUN, and not both
  try            seqgen show --config=configs/quickstart.py
""",
}


@pytest.mark.parametrize("line", GOLDEN)
def test_error_texts(line, capsys):
    assert stderr_of(capsys, *line.split()) == GOLDEN[line]


def test_misspelt_run_directory_names_the_nearest(tmp_path, capsys):
    (tmp_path / "quickstart").mkdir()
    (tmp_path / "quickstart" / "config.json").write_text("{}")
    said = stderr_of(capsys, "generate", f"--workdir={tmp_path}/quickstrat")
    assert f"did you mean   --workdir={tmp_path}/quickstart" in said


def test_version_and_bare_command(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("seqgen ")
    assert main([]) == 2
    assert "seqgen train --config=" in capsys.readouterr().err


def test_two_vs_show_the_traceback(capsys):
    assert main(["-vv", "evaluate", "--workdir=/nowhere"]) == 2
    assert "Traceback" in capsys.readouterr().err
    assert main(["evaluate", "--workdir=/nowhere", "-vv"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.fixture
def broken_doctor(monkeypatch):
    def install(error: BaseException) -> None:
        def fail(args):
            raise error

        monkeypatch.setattr(doctor, "run", fail)

    return install


def test_bugs_end_with_1_and_leave_a_traceback(broken_doctor, tmp_path, capsys):
    broken_doctor(RuntimeError("first line\nsecond line"))
    said = stderr_of(capsys, "doctor", f"--workdir={tmp_path}", code=1)
    assert said.startswith("error: unexpected RuntimeError: first line\n  traceback      ")
    (kept,) = (tmp_path / "debug").iterdir()
    assert str(kept) in said
    assert "second line" in kept.read_text() and "Traceback" in kept.read_text()


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (OSError(28, "No space left on device"), 5, "storage"),
        (MemoryError(), 6, "out of memory"),
        (RuntimeError("RESOURCE_EXHAUSTED: 3 TiB"), 6, "lower data.tokens_per_batch"),
        (KeyboardInterrupt(), 130, "aborted"),
    ],
)
def test_exit_codes_by_kind(broken_doctor, capsys, tmp_path, error, code, words):
    broken_doctor(error)
    assert words in stderr_of(capsys, "doctor", f"--workdir={tmp_path}", code=code)


def test_a_reader_that_stops_reading_is_no_error(root):
    code = "import sys; from seqgen.cli.main import main; sys.exit(main(sys.argv[1:]))"
    words = [sys.executable, "-c", code, "show", f"--config={root}/configs/quickstart.py"]
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("words", "overrides", "rest"),
    [
        (["train", "--config=f"], [], ["train", "--config=f"]),
        (["--config.a=1", "--workdir=w"], ["--config.a=1"], ["--workdir=w"]),
        (["--config.a", "1", "x"], ["--config.a=1"], ["x"]),
        (["--config.a", "-1.5"], ["--config.a=-1.5"], []),
        (["--config.a", "--b"], ["--config.a"], ["--b"]),
        (["--noconfig.a", "x"], ["--noconfig.a"], ["x"]),
        (["-config.a=b=c"], ["-config.a=b=c"], []),
        (["--config.a="], ["--config.a="], []),
        (["--", "--config.a=1"], [], ["--", "--config.a=1"]),
    ],
)
def test_overrides_are_parted_from_the_rest(words, overrides, rest):
    assert split_config_words(words) == (overrides, rest)


# ---- show ----------------------------------------------------------------------------------------


def output_of(capsys, *words: str) -> str:
    capsys.readouterr()
    assert main(list(words)) == 0
    return capsys.readouterr().out


def test_show_json_is_the_config_that_training_would_store(capsys, root):
    from seqgen import config

    file = str(root / "configs" / "quickstart.py")
    words = ["--config.train.seed=9", "--config.model.encoder.num_layers", "3"]
    said = output_of(capsys, "show", f"--config={file}", "--json", *words)
    cfg = config.load(file, ["--config.train.seed=9", "--config.model.encoder.num_layers=3"])
    assert config.from_json(said) == cfg


def test_show_marks_what_differs_from_the_default(capsys, root):
    said = output_of(capsys, "show", f"--config={root}/configs/quickstart.py").splitlines()
    (line,) = [line for line in said if " model.embed_dim " in line]
    assert line.startswith("* ") and line.endswith("= 128   (default 512)")
    (line,) = [line for line in said if " train.seed " in line]
    assert line.startswith("  ") and line.endswith("= 0")


def test_show_changed_and_explain(capsys, root):
    words = ["show", f"--config={root}/configs/quickstart.py", "--changed", "--explain"]
    lines = output_of(capsys, *words).splitlines()
    assert "train.seed" not in "\n".join(lines)
    index = next(i for i, line in enumerate(lines) if " model.embed_dim " in line)
    assert "[int, 1..65536]" in lines[index + 1]


def test_twins_differ_in_the_experiment_alone(capsys, root):
    folder = root / "configs" / "number_words"
    words = ["show", f"--config={folder}/lstm.py", f"--diff={folder}/gru.py", "--json"]
    assert set(json.loads(output_of(capsys, *words))) == {
        "name",
        "model.encoder.kind",
        "model.decoder.kind",
    }
    same = output_of(capsys, "show", f"--config={folder}/gru.py", f"--diff={folder}/gru.py")
    assert same == "no difference\n"


def test_show_reads_a_run_and_diffs_it_with_a_file(capsys, root, tmp_path):
    from seqgen import config

    file = f"{root}/configs/quickstart.py"
    cfg = config.load(file, ["--config.train.seed=5"])
    (tmp_path / "config.json").write_text(config.to_json(cfg))
    assert output_of(capsys, "show", f"--workdir={tmp_path}", "--json") == config.to_json(cfg)
    said = output_of(capsys, "show", f"--workdir={tmp_path}", f"--diff={file}")
    assert said.splitlines()[1].split() == ["train.seed", "5", "0"]
    said = output_of(capsys, "show", f"--workdir={tmp_path}", "--json", "--config.train.seed=6")
    assert json.loads(said)["train"]["seed"] == 6


# ---- doctor --------------------------------------------------------------------------------------


def test_doctor_says_eight_lines(capsys, tmp_path):
    lines = output_of(capsys, "doctor", f"--workdir={tmp_path}").splitlines()
    assert len(lines) == 8
    assert all(line.split()[0] in ("ok", "warn") for line in lines)
    said = json.loads(output_of(capsys, "doctor", "--json"))
    assert said["ready"] and len(said["checks"]) == 8


def test_doctor_ends_with_2_where_something_must_be_fixed(monkeypatch, capsys):
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda name: ["jax<0.2,>=0.1"])
    assert main(["doctor"]) == 2
    assert "FIX  packages" in capsys.readouterr().out


def test_doctor_goes_on_past_a_broken_check(monkeypatch, capsys):
    def broken():
        raise RuntimeError("driver lost")

    monkeypatch.setattr(doctor, "_devices", broken)
    assert main(["doctor"]) == 2
    out = capsys.readouterr().out
    assert "FIX  devices        RuntimeError: driver lost" in out and out.count("\n") == 8


def test_doctor_names_a_cache_that_cannot_be_written(monkeypatch, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SEQGEN_CACHE", str(tmp_path / "file"))
    assert main(["doctor"]) == 0
    assert "export SEQGEN_CACHE=DIR" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("version", "bounds", "inside"),
    [
        ("0.10.2", "<0.11,>=0.10", True),
        ("0.11.0", "<0.11,>=0.10", False),
        ("0.9.9", "<0.11,>=0.10", False),
        ("2.13.0+cpu", ">=2.13,<2.14", True),
        ("15.0", ">=13,<16", True),
        ("1", "", True),
    ],
)
def test_doctor_compares_versions_by_number(version, bounds, inside):
    assert doctor._within(version, bounds) is inside
