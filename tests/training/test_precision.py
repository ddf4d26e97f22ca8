import numpy as np
import pytest

from seqgen.training import precision
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
