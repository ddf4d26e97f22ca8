"""What the suite does with measurements: keeps them, resumes, and survives what fails."""

import dataclasses
import signal

import pytest
import rows

from seqgen.benchmarking import suite
from seqgen.benchmarking.cells import SMOKE, Cell
from seqgen.benchmarking.results import Results

ONE = dataclasses.replace(SMOKE, models=("gru",))


@pytest.fixture
def asked(monkeypatch):
    """Orders that a worker would have got; `failing` models die."""
    orders, failing = [], set()

    def ask(order, *, seconds, grace=0.0, devices=1):
        del seconds, grace, devices
        cell = Cell.from_dict(order["cell"])
        orders.append(cell)
        if cell.model in failing:
            return {"error": "killed by SIGKILL (out of memory?): it said nothing"}
        return {**rows.answer(cell), "environment": dict(rows.ENVIRONMENT)}

    monkeypatch.setattr(suite, "ask_worker", ask)
    return orders, failing


def make(folder, *, seconds=60.0, repeats=5):
    said = []
    results = Results(folder, command="seqgen bench")
    options = {"repeats": repeats, "dtype": "float32", "seconds": seconds, "say": said.append}
    return suite.Suite(results, **options), results, said


def test_a_row_says_what_was_measured_and_where(asked, tmp_path):
    work, results, _ = make(tmp_path)
    work.measure(ONE, "train")
    gemm, row = results.rows.values()
    assert gemm["flops_per_second"] == 1e9
    assert row["utilisation"] == pytest.approx(1e6 / 0.01 / 1e9)
    assert row["repeats"] == 5 and row["code"] == "abc"
    assert results.environment["processor"] == "made up"


def test_the_same_command_measures_nothing_twice(asked, tmp_path):
    orders, _ = asked
    make(tmp_path)[0].measure(ONE, "train")
    assert [cell.what for cell in orders] == ["gemm", "train"]
    make(tmp_path)[0].measure(ONE, "train")
    assert len(orders) == 2
    make(tmp_path)[0].measure(ONE, "memory")
    assert [cell.what for cell in orders[2:]] == ["memory"]
    make(tmp_path, repeats=7)[0].measure(ONE, "train")  # more repeats are another measurement
    assert [cell.what for cell in orders[3:]] == ["gemm", "train"]


def test_a_cell_that_fails_is_a_row_and_is_tried_again(asked, tmp_path):
    orders, failing = asked
    failing.add("gru")
    plan = dataclasses.replace(SMOKE, models=("gru", "lstm"))
    work, results, said = make(tmp_path)
    work.measure(plan, "train")
    _, broken, whole = results.rows.values()
    assert broken["error"].startswith("killed by SIGKILL") and broken["cell"]["model"] == "gru"
    assert "seconds" in whole and any("failed: killed" in line for line in said)
    failing.clear()
    again, results, _ = make(tmp_path)
    again.measure(plan, "train")
    assert [cell.model for cell in orders[3:]] == ["gru"]
    assert not any("error" in row for row in results.rows.values())


def test_when_the_time_is_over_what_is_there_stays(asked, tmp_path):
    make(tmp_path)[0].measure(ONE, "train")
    work, results, _ = make(tmp_path, seconds=0.0)
    with pytest.raises(suite.Interrupted):
        work.measure(ONE, "memory")
    assert len(Results(tmp_path, command="").rows) == len(results.rows) == 2


def test_a_worker_that_takes_too_long_is_ended():
    row = suite.ask_worker({"cell": {"what": "gemm"}, "repeats": 5}, seconds=0.1)
    assert row == {"error": "took longer than 0 s"}


def test_a_worker_that_cannot_is_heard():
    order = {"cell": {"what": "train", "model": "grv"}, "repeats": 5}
    assert suite.ask_worker(order, seconds=120.0) == {
        "error": "ConfigError: a cell has no model 'grv'"
    }


@pytest.fixture
def interruptible():
    """Python's own handler of SIGINT: a shell's background jobs start with the signal ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_worker_and_is_told(monkeypatch, number):
    children = []

    class Child(suite.subprocess.Popen):
        def communicate(self, input=None, timeout=None):
            if not children:
                children.append(self)
                signal.raise_signal(number)
            return super().communicate(input, timeout)

    monkeypatch.setattr(suite.subprocess, "Popen", Child)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(suite.Interrupted):
        suite.ask_worker({"cell": {"what": "gemm"}, "repeats": 5}, seconds=60.0)
    assert children[0].returncode in (-signal.SIGTERM, -signal.SIGKILL)
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(
    ("code", "talk", "said"),
    [
        (-signal.SIGKILL, "", "killed by SIGKILL (out of memory?): it said nothing"),
        (-signal.SIGSEGV, "a\nb\n", "killed by SIGSEGV: b"),
        (3, "Traceback\nTypeError: x", "ended with 3: TypeError: x"),
    ],
)
def test_last_words(code, talk, said):
    assert suite._last_words(code, talk) == said
