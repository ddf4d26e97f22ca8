"""Cells really measured, in this process; how a worker says that it cannot."""

import json

import pytest

from seqgen.benchmarking import machine, worker
from seqgen.benchmarking.cells import Cell

TINY = {"model": "gru", "parameters": 1232, "vocab": 20, "length": 4, "tokens": 8}


@pytest.mark.parametrize("what", ["train", "decode", "memory"])
def test_a_tiny_cell_is_measured(what):
    row = worker.measure_cell(Cell(what, **TINY), repeats=5)
    assert row["width"] == 8 and row["batch"] == 2
    assert row["parameters"] == 1232
    assert row["flops"] > 0 and row["compile_seconds"] > 0
    assert row["peak_rss_bytes"] >= row["start_rss_bytes"] > 0
    assert row["temp_bytes"] > 0
    if what == "memory":
        assert "seconds" not in row
        assert row["flops"] == row["program_flops"]  # the formula, and the traced program
        return
    seconds = row["seconds"]
    assert len(seconds["samples"]) == 5
    assert 0 < seconds["min"] <= seconds["median"] <= seconds["max"]
    assert row["tokens_per_second"] == pytest.approx(8 / seconds["median"])
    assert ("first_token_seconds" in row) == (what == "decode")


def test_the_rate_of_products_is_that_of_the_best_size():
    row = machine.measure_gemm("float32", repeats=5, sizes=(8, 16))
    assert row["size"] in (8, 16) and row["flops"] == 2 * row["size"] ** 3
    assert row["flops_per_second"] == pytest.approx(row["flops"] / row["seconds"]["median"])


def test_short_calls_are_bundled_and_slow_ones_refused():
    calls = []
    timing = machine.measure(lambda: calls.append(1), repeats=5)
    assert timing.calls > 1 and len(calls) == 2 + 5 * timing.calls
    with pytest.raises(machine.TooSlow, match="5 repeats would pass the limit"):
        machine.measure(lambda: None, repeats=5, deadline=0.0)


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ({"what": "train", "model": "grv"}, "ConfigError: a cell has no model 'grv'"),
        ({"what": "sing"}, "ConfigError: a cell has no what 'sing'"),
    ],
)
def test_what_goes_wrong_is_the_row(capsys, cell, said):
    assert worker.main([json.dumps({"cell": cell, "repeats": 5})]) == 1
    assert json.loads(capsys.readouterr().out)["error"] == said


def test_a_search_runs_on_one_device():
    with pytest.raises(worker.ConfigError, match="a search runs on one device"):
        worker.measure_cell(Cell("decode", **TINY, devices=2), repeats=5)
