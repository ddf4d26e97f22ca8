import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from seqgen.errors import ConfigError
from seqgen.training import run_directory
from seqgen.training.run_directory import RunDirectory
from seqgen.training.writers import JsonlWriter, TensorBoardWriter, encode_row, read_rows

HOLDER = """
import sys, time
from seqgen.training import run_directory
from seqgen.training.run_directory import RunDirectory
with RunDirectory(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def test_two_runs_never_share_a_directory_and_a_killed_holder_does_not_block(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match=f'"pid": {holder.pid}') as caught:
            RunDirectory(tmp_path).acquire()
        assert caught.value.exit_code == 2
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.communicate()
    assert str(holder.pid) in (tmp_path / "LOCK").read_text()
    with RunDirectory(tmp_path):
        assert json.loads((tmp_path / "LOCK").read_text())["pid"] == os.getpid()
    assert (tmp_path / "LOCK").read_text() == ""


def test_one_process_cannot_hold_it_twice(tmp_path):
    with RunDirectory(tmp_path), pytest.raises(ConfigError, match="another training"):
        RunDirectory(tmp_path).acquire()
    with RunDirectory(tmp_path):
        pass


def test_a_file_system_without_locks_goes_by_the_process(tmp_path, monkeypatch):
    def refuse(file, how):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(run_directory.fcntl, "flock", refuse)
    with RunDirectory(tmp_path), pytest.raises(ConfigError, match="another training"):
        RunDirectory(tmp_path).acquire()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    holder = {"pid": dead.pid, "host": socket.gethostname()}
    (tmp_path / "LOCK").write_text(json.dumps(holder))
    with RunDirectory(tmp_path):
        pass
    (tmp_path / "LOCK").write_text(json.dumps(holder | {"host": "elsewhere"}))
    with pytest.raises(ConfigError, match="elsewhere"):
        RunDirectory(tmp_path).acquire()


def test_config_and_environment_are_strict_json(tmp_path):
    run = RunDirectory(tmp_path)
    assert run.read_config() is None
    run.write_config({"train": {"seed": 1}}, overrides=["--config.train.seed=1"])
    assert run.read_config() == {"train": {"seed": 1}}
    assert (tmp_path / "overrides.txt").read_text() == "--config.train.seed=1\n"
    with pytest.raises(ValueError, match="JSON compliant"):
        run.write_config({"rate": float("nan")})
    assert run.read_config() == {"train": {"seed": 1}}, "a refused write leaves the old file"
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError):
        run.read_config()


def test_a_changed_environment_is_told(tmp_path):
    run = RunDirectory(tmp_path)
    assert run.write_environment() == []
    assert run.write_environment() == []
    stored = json.loads((tmp_path / "env.json").read_text())
    (tmp_path / "env.json").write_text(json.dumps(stored | {"jax": "0.0.1"}))
    assert run.write_environment() == [f"jax was '0.0.1', is {stored['jax']!r}"]


def test_status_tells_of_failures(tmp_path):
    run = RunDirectory(tmp_path)
    assert run.status() is None
    run.set_status("running", step=3)
    assert run.status()["step"] == 3
    with pytest.raises(KeyError), run.failure_status():
        raise KeyError("lost")
    assert run.status()["state"] == "failed"
    assert "lost" in run.status()["cause"]


def old_run(path):
    run = RunDirectory(path)
    run.log("a line")
    run.write_config({"old": True})
    (path / "checkpoints" / "3").mkdir(parents=True)
    (path / "notes.txt").write_text("mine")
    return run


def names(path):
    return sorted(entry.name for entry in path.iterdir())


def test_starting_over_removes_what_a_run_wrote_and_nothing_else(tmp_path):
    run = old_run(tmp_path)
    with run.starting_over():
        assert "checkpoints" not in names(tmp_path)
        run.write_config({"old": False})
    assert names(tmp_path) == ["config.json", "notes.txt", "overrides.txt"]
    assert run.read_config() == {"old": False}


def test_a_start_that_fails_brings_the_old_run_back(tmp_path):
    run = old_run(tmp_path)
    before = names(tmp_path)
    with pytest.raises(KeyboardInterrupt), run.starting_over():
        run.write_config({"old": False})
        (tmp_path / "tokenizer").mkdir()
        raise KeyboardInterrupt
    assert names(tmp_path) == before
    assert (tmp_path / "checkpoints" / "3").is_dir()
    assert run.read_config() == {"old": True}


def test_starting_over_spares_folders_that_hold_no_run(tmp_path):
    (tmp_path / "samples").mkdir()
    with pytest.raises(ConfigError, match="samples"), RunDirectory(tmp_path).starting_over():
        raise AssertionError
    assert names(tmp_path) == ["samples"]


def test_rows_join_and_are_cut(tmp_path):
    path = tmp_path / "metrics.jsonl"
    writer = JsonlWriter(path, last_step=0)
    for step in (2, 4, 6):
        writer.write(step, {"train/loss": step / 2})
        if step == 4:
            writer.write(step, {"eval/bleu": 30.5})
    writer.close()
    assert read_rows(path) == [
        {"step": 2, "train/loss": 1.0},
        {"step": 4, "train/loss": 2.0, "eval/bleu": 30.5},
        {"step": 6, "train/loss": 3.0},
    ]
    with path.open("a") as file:
        file.write('{"step": 7, "train')
    writer = JsonlWriter(path, last_step=4)
    assert [row["step"] for row in read_rows(path)] == [2, 4]
    writer.write(4, {"eval/chrf": 50.0})
    writer.write(5, {"train/loss": 9.0})
    writer.close()
    assert [row["step"] for row in read_rows(path)] == [2, 4, 5]
    assert read_rows(path)[1] == {
        "step": 4,
        "train/loss": 2.0,
        "eval/bleu": 30.5,
        "eval/chrf": 50.0,
    }


def test_non_finite_values_are_null_with_a_flag():
    line = encode_row({"step": 1, "a": float("inf"), "b": 1.5, "c": float("nan")})
    assert json.loads(line) == {
        "step": 1,
        "a": None,
        "a_nonfinite": "inf",
        "b": 1.5,
        "c": None,
        "c_nonfinite": "nan",
    }


def test_rows_wait_in_memory_while_the_disk_refuses(tmp_path):
    class Full:
        def __init__(self, file):
            self.file, self.full = file, False

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, content):
            if self.full:
                self.file.write(content[:5])
                raise OSError(28, "No space left on device")
            return self.file.write(content)

    lines = []
    path = tmp_path / "metrics.jsonl"
    writer = JsonlWriter(path, last_step=0, report=lines.append)
    disk = writer._file = Full(writer._file)
    writer.write(1, {"a": 1})
    disk.full = True
    writer.write(2, {"a": 2})
    writer.write(2, {"b": 2})
    assert read_rows(path)[:1] in ([{"step": 1, "a": 1}], [])
    disk.full = False
    writer.write(3, {"a": 3})
    writer.close()
    assert read_rows(path) == [
        {"step": 1, "a": 1},
        {"step": 2, "a": 2, "b": 2},
        {"step": 3, "a": 3},
    ]
    assert len(lines) == 2


def test_tensorboard_events_are_written(tmp_path):
    writer = TensorBoardWriter(tmp_path, last_step=0)
    writer.write(3, {"train/loss": 1.5, "loss_hex": "0x1p0", "bad": float("nan")})
    writer.close()
    (events,) = tmp_path.iterdir()
    assert b"train/loss" in events.read_bytes()
