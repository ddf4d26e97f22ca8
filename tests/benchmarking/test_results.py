"""results.json, and what became worse since another one."""

import json

import pytest
import rows

from seqgen.benchmarking.cells import Cell
from seqgen.benchmarking.results import Results, compare, read
from seqgen.errors import ConfigError

CELL = Cell("train", "gru")


def changed(median: float, *, spread: float = 0.05, **other):
    old = {CELL.key: rows.row_of(CELL, seconds=rows.timing(0.010))}
    new = {CELL.key: rows.row_of(CELL, seconds=rows.timing(median, spread=spread), **other)}
    return {change.name: change for change in compare(old, new)}


def test_a_slower_cell_is_named():
    change = changed(0.013)["seconds"]
    assert change.is_worse and not change.is_better
    assert change.line() == f"{CELL.key}: time of a call 10 -> 13 ms (+30%)"


def test_a_faster_cell_is_no_regression():
    change = changed(0.007)["seconds"]
    assert change.is_better and not change.is_worse


@pytest.mark.parametrize(
    ("median", "spread"), [(0.0105, 0.0), (0.013, 0.5)], ids=["within 10 %", "ranges overlap"]
)
def test_small_or_unsure_changes_are_none(median, spread):
    change = changed(median, spread=spread)["seconds"]
    assert not change.is_worse and not change.is_better


def test_memory_is_compared_as_well():
    assert changed(0.010, temp_bytes=2**21)["temp_bytes"].is_worse
    assert not changed(0.010)["temp_bytes"].is_worse


def test_only_equal_and_whole_cells_are_compared():
    other = Cell("train", "lstm")
    old = {CELL.key: {"key": CELL.key, "error": "x"}, "gone": rows.row_of(CELL)}
    new = {CELL.key: rows.row_of(CELL), other.key: rows.row_of(other)}
    assert compare(old, new) == []


def test_rows_of_another_machine_are_refused(tmp_path):
    results = Results(tmp_path, command="")
    results.add(rows.row_of(CELL, environment=dict(rows.ENVIRONMENT)))
    with pytest.raises(ConfigError, match="was measured elsewhere"):
        results.add(rows.row_of(CELL, environment=rows.ENVIRONMENT | {"cpus": 64}))
    results.add(rows.row_of(CELL, environment=rows.ENVIRONMENT | {"code": "def"}))
    assert Results(tmp_path, command="").rows[CELL.key]["code"] == "def"


def test_what_is_measured(tmp_path):
    results = Results(tmp_path, command="")
    assert not results.is_measured(CELL.key, repeats=5)
    results.add(rows.row_of(CELL))
    assert results.is_measured(CELL.key, repeats=5)
    assert not results.is_measured(CELL.key, repeats=6)
    results.add(rows.row_of(CELL, error="x"))
    assert not results.is_measured(CELL.key, repeats=5)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "is not valid JSON"),
        ("[]", "holds no results"),
        ('{"schema": 99, "environment": {}, "rows": []}', "holds no results"),
        ('{"schema": 1, "environment": {}, "rows": [{}]}', "rows without a key"),
    ],
)
def test_other_files_are_refused(tmp_path, text, said):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        read(path)
    with pytest.raises(ConfigError, match="cannot read"):
        read(tmp_path / "none.json")


def test_the_file_is_strict_json(tmp_path):
    results = Results(tmp_path, command="seqgen bench")
    results.add(rows.row_of(CELL))
    content = json.loads(results.path.read_text())
    assert (content["schema"], content["command"]) == (1, "seqgen bench")
    with pytest.raises(ValueError, match="JSON"):
        results.add(rows.row_of(CELL, flops=float("nan")))
