"""The report: complete, readable without a network, and possible without matplotlib."""

import re

import pytest
import rows

from seqgen.benchmarking import plots, report
from seqgen.benchmarking.cells import Cell
from seqgen.benchmarking.results import Results, compare

CELLS = [
    Cell("gemm"),
    Cell("train", "gru"),
    Cell("train", "gru", length=256),
    Cell("train", "gru", tokens=512),
    Cell("train", "transformer"),
    Cell("decode", "gru", tokens=1024),
    Cell("memory", "gru"),
]


@pytest.fixture
def no_plots(monkeypatch):
    """Drawing takes seconds: one test does it."""
    monkeypatch.setattr(plots, "is_available", lambda: False)


@pytest.fixture
def results(tmp_path):
    results = Results(tmp_path, command="seqgen bench --quick")
    results.environment = dict(rows.ENVIRONMENT)
    for cell in CELLS:
        results.add(rows.row_of(cell))
    results.add({**rows.row_of(Cell("train", "lstm")), "error": "too <long> | bad"})
    for seed in (0, 1):
        results.add(rows.training_row("gru", seed))
    results.add(rows.training_row("lstm", 0, speed=2.0))
    return results


def test_every_row_stands_in_both_reports(results, no_plots):
    path = report.write(results)
    page, text = path.read_text(), path.with_name("report.md").read_text()
    for part, count in (("Training step", 5), ("Decoding", 1), ("Memory of a training step", 1)):
        section = text.split(f"## {part}\n")[1].split("\n## ")[0]
        assert len(re.findall(r"^\| (?:gru|lstm|transformer) \|", section, re.M)) == count
    assert page.count("<tr><td>gru</td><td>base</td>") == 3
    assert "too &lt;long&gt; | bad" in page and "too <long> \\| bad" in text
    for said in ("seqgen bench --quick", "made up", "Quality: copy", "Equal training seconds"):
        assert said in page and said in text


def test_a_figure_has_error_bars_and_only_one_factor(results):
    figures = {figure.name: figure for figure in plots.speed_figures([*results.rows.values()])}
    assert set(figures) == {
        f"train_{name}_by_{factor}"
        for name in ("throughput", "compile")
        for factor in ("length", "tokens")
    }
    marks = figures["train_throughput_by_length"].lines["gru"]
    assert [mark[0] for mark in marks] == [64, 256]
    assert all(low < middle < high for _, low, middle, high in marks)
    second = results.rows["compare/copy/gru seed=1"]
    second["curve"] = [{**point, "loss": point["loss"] + 1} for point in second["curve"][:2]]
    quality = plots.quality_figures([*results.rows.values()])
    marks = quality[0].lines["gru"]  # the steps that both seeds have, and the range of their losses
    assert marks == [(100, 3.0, 3.5, 4.0), (200, 2.0, 2.5, 3.0)]
    assert {figure.name.removeprefix("compare_copy_") for figure in quality} == {
        *("loss_by_tokens", "loss_by_flops", "loss_by_seconds", "by_distance")
    }


def test_the_page_needs_no_network(results):
    pytest.importorskip("matplotlib")
    page = report.write(results).read_text()
    assert page.count("data:image/svg+xml;base64,") == 8
    without_data = re.sub(r"base64,[A-Za-z0-9+/=]+", "", page)
    assert not re.search(r"https?:|//|<script|<link|@import|url\(", without_data)
    drawn = {path.name for path in (results.path.parent / "figures").iterdir()}
    assert len(drawn) == 16
    assert {name.rpartition(".")[2] for name in drawn} == {"svg", "png"}


def test_without_matplotlib_the_report_says_how_to_get_plots(results, no_plots):
    page = report.write(results).read_text()
    assert "seqgen[plots]" in page and "<img" not in page
    assert not (results.path.parent / "figures").exists()


def test_regressions_and_notes_are_told(results, no_plots):
    old = {cell.key: rows.row_of(cell, seconds=rows.timing(0.001)) for cell in CELLS[1:3]}
    changes = compare(old, results.rows)
    page = report.write(results, changes=changes, against="old.json", note="Half done.").read_text()
    assert "Half done." in page and "Against old.json" in page
    assert page.count("time of a call 1 -&gt; 10 ms (+900%)") == 2


def test_an_empty_folder_gives_a_report(tmp_path):
    assert report.write(Results(tmp_path, command="seqgen bench")).is_file()
