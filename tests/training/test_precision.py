import json

import numpy as np
import pytest

from seqgen.training import environment, precision
from seqgen.training.averaging import mean_of_params
from seqgen.training.config import TrainConfig, higher_is_better
from seqgen.training.host_record import HostRecord
from seqgen.training.precision import resolve_compute_dtype


def test_a_choice_is_not_measured(monkeypatch):
    monkeypatch.setattr(precision, "measure_dots", lambda: pytest.fail("measured"))
    assert resolve_compute_dtype("float32") == "float32"
    assert resolve_compute_dtype("bfloat16") == "bfloat16"


@pytest.mark.parametrize(("ratio", "expected"), [(3.0, "bfloat16"), (1.05, "float32")])
def test_auto_takes_bfloat16_only_for_a_real_gain(monkeypatch, ratio, expected):
    seconds = {"float32": ratio * 1e-3, "bfloat16": 1e-3}
    monkeypatch.setattr(precision, "measure_dots", lambda: seconds)
    said = []
    assert resolve_compute_dtype("auto", report=said.append) == expected
    assert said[0].startswith(f"compute dtype: {expected} (")


@pytest.fixture
def measured(monkeypatch):
    """Stands for the measurement; the list tells how often it was made."""
    calls = []

    def measure():
        calls.append(None)
        return {"float32": 3e-3, "bfloat16": len(calls) * 1e-3}

    monkeypatch.setattr(precision, "measure_dots", measure)
    return calls


def test_a_second_start_does_not_measure_again(measured, tmp_path):
    said = []
    for _ in range(2):
        options = {"report": said.append, "folder": tmp_path / "cache"}
        assert resolve_compute_dtype("auto", **options) == "bfloat16"
    assert len(measured) == 1
    (kept,) = (tmp_path / "cache").iterdir()
    assert said[0] == "compute dtype: bfloat16 (probe products: float32 3.0 ms, bfloat16 1.0 ms)"
    assert f"kept in {kept}: float32 3.0 ms, bfloat16 1.0 ms)" in said[1]


@pytest.mark.parametrize(
    ("name", "value"),
    [("NPROC", "3"), ("XLA_FLAGS", "--of_another_kind"), ("processor", lambda: "another")],
)
def test_another_machine_is_measured_anew(measured, tmp_path, monkeypatch, name, value):
    resolve_compute_dtype("auto", folder=tmp_path)
    if callable(value):
        monkeypatch.setattr(environment, name, value)
    else:
        monkeypatch.setenv(name, value)
    for _ in range(2):
        resolve_compute_dtype("auto", folder=tmp_path)
    assert len(measured) == 2 and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    "content",
    ["", "{}", "[]", '{"measured": "today", "seconds": {"float32": 1, "bfloat16": NaN}}'],
)
def test_a_damaged_measurement_is_made_again(measured, tmp_path, content):
    resolve_compute_dtype("auto", folder=tmp_path)
    (kept,) = tmp_path.iterdir()
    whole = kept.read_text()
    kept.write_text(content)
    resolve_compute_dtype("auto", folder=tmp_path)
    assert len(measured) == 2 and kept.read_text() != content
    assert set(json.loads(kept.read_text())) == set(json.loads(whole))


def test_a_folder_that_cannot_be_written_is_no_error(measured, tmp_path):
    (tmp_path / "file").write_text("")
    for _ in range(2):
        assert resolve_compute_dtype("auto", folder=tmp_path / "file" / "below")
    assert len(measured) == 2


def test_the_probe_measures_both():
    assert set(precision.measure_dots()) == {"float32", "bfloat16"}


def test_the_mean_is_summed_in_double():
    """Float32 sums of a large and many small numbers would lose the small ones."""
    members = [{"w": np.array([value], np.float32)} for value in (2.0**25, 1.0, 1.0, 1.0, 1.0)]
    mean = mean_of_params(members)["w"]
    assert mean.dtype == np.float32
    assert mean[0] == np.float32((2.0**25 + 4.0) / 5)
    with pytest.raises(ValueError, match="at least one"):
        mean_of_params([])


def test_directions_of_metrics():
    assert higher_is_better("eval/bleu")
    assert not higher_is_better("eval/loss")
    assert not higher_is_better("eval/ter")


def test_the_host_record_judges_and_comes_back():
    host = HostRecord()
    assert host.judge(10, "eval/loss", 2.0)
    assert not host.judge(20, "eval/loss", 2.0), "equal is not better"
    assert not host.judge(30, "eval/loss", float("nan"))
    assert not host.judge(40, "eval/loss", None)
    assert host.evals_without_best == 3
    assert host.best == {"metric": "eval/loss", "value": 2.0, "step": 10}
    assert host.score_at(40, "eval/loss") is None
    assert host.judge(50, "eval/loss", 1.5)
    assert host.score_at(50, "eval/loss") == -1.5
    assert host.evals_without_best == 0
    assert HostRecord.from_json(host.to_json() | {"unknown": 1}) == host


def test_defaults_are_within_their_own_ranges():
    import dataclasses

    for field in dataclasses.fields(TrainConfig):
        low, high = field.metadata["minimum"], field.metadata["maximum"]
        if low is not None:
            assert field.default >= low, field.name
        if high is not None:
            assert field.default <= high, field.name
