"""`seqgen bench` from the command line, with measurements that are made up."""

import json

import pytest

from seqgen.benchmarking import plots, quality, suite
from seqgen.benchmarking.cells import Cell
from seqgen.cli.main import main

SPEED = {"gemm": 0.001, "train": 0.010, "decode": 0.010}


def timing(median):
    return {"min": median, "median": median, "max": median, "samples": [median] * 5, "calls": 1}


@pytest.fixture
def bench(monkeypatch, tmp_path, capsys):
    """Runs `seqgen bench WORDS`; returns (code, stdout, stderr). `bench.factor` slows all down."""

    def ask(order, **options):
        if run.broken:
            raise suite.Interrupted
        if "train" in order:
            return {"error": "no training in this test"}
        if "pace" in order:
            return {"seconds": timing(0.01), "shapes": 1}
        cell = Cell.from_dict(order["cell"])
        row = {"parameters": 1, "width": 8, "flops": 10, "compile_seconds": 1.0, "temp_bytes": 9}
        row |= {"peak_rss_bytes": 10, "flops_per_second": 1e9, "size": 8, "load": 0.0}
        if cell.what in SPEED:
            row |= {"seconds": timing(SPEED[cell.what] * run.factor), "tokens_per_second": 1.0}
        if cell.what == "decode":
            row |= {"first_token_seconds": timing(0.001), "sentences_per_second": 1.0}
        return row

    def run(*words, folder="out"):
        capsys.readouterr()
        code = main(["bench", *words, f"--output={tmp_path / folder}"])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    run.factor, run.broken = 1.0, False
    monkeypatch.setattr(suite, "ask_worker", ask)
    monkeypatch.setattr(quality, "ask_worker", ask)
    monkeypatch.setattr(plots, "is_available", lambda: False)
    return run


def test_a_part_prints_the_path_of_its_report(bench, tmp_path):
    code, out, err = bench("train", "--smoke")
    assert (code, out) == (0, f"{tmp_path / 'out' / 'report.html'}\n")
    assert "train 1/2  train/gru" in err
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [row["what"] for row in content["rows"]] == ["gemm", "train", "train"]
    assert content["command"] == "seqgen bench train --smoke --output=out"


def test_json_prints_the_rows(bench):
    code, out, _ = bench("memory", "--smoke", "--models=lstm", "--json")
    assert code == 0
    assert [row["key"].split()[0] for row in json.loads(out)] == ["gemm", "memory/lstm"]


def test_the_quick_suite_without_a_part_has_all_parts(bench, tmp_path):
    code, _, err = bench("--quick")
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["rows"]
    parts = {"train", "decode", "memory", "compare"}
    assert {row["what"] for row in rows} == parts | {"gemm", "pace"}
    assert code == 0 and "no training in this test" in err


def test_a_smoke_test_fails_with_its_cells(bench):
    code, _, err = bench("compare", "--smoke")
    assert code == 1 and "failed: compare/number_words/gru" in err


def test_regressions_exit_with_10_and_improvements_with_0(bench, tmp_path):
    bench("train", "--smoke")
    old = f"--against={tmp_path / 'out' / 'results.json'}"
    bench.factor = 2.0
    code, _, err = bench("train", "--smoke", old, folder="slow")
    assert code == 10
    assert err.count("worse: train/") == 2 and "10 -> 20 ms (+100%)" in err
    bench.factor = 0.5
    code, _, err = bench("train", "--smoke", old, folder="fast")
    assert code == 0 and "worse:" not in err


def test_what_was_measured_before_an_interruption_is_kept(bench, tmp_path):
    bench("train", "--smoke")
    bench.broken = True
    code, out, err = bench("--smoke")
    assert code == 75 and "the same command goes on" in err
    assert "Not everything is measured" in (tmp_path / "out" / "report.md").read_text()
    assert out.endswith("report.html\n")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trian"], "did you mean   seqgen bench train"),
        (["--models=lsmt"], "did you mean   lstm"),
        (["--models="], "--models is empty"),
        (["--repeats=2"], "take           5 or more"),
        (["--minutes=0"], "--minutes=0.0 is no time"),
        (["--hours=nan"], "--hours=nan is no time"),
        (["--dtype=float16"], "invalid choice"),
        (["--data_dir=nowhere"], "--data_dir=nowhere is no folder"),
        (["--against=none.json"], "cannot read none.json"),
        (["--qiuck"], "did you mean   --quick"),
    ],
)
def test_bad_usage_ends_with_2_before_anything_is_measured(bench, tmp_path, words, said):
    code, out, err = bench(*words)
    assert (code, out) == (2, "") and said in err
    assert not (tmp_path / "out").exists()
