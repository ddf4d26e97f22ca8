import json
import subprocess
import sys

import pytest
from data.broken_corpus import damage, write_sound

from seqgen.cli.main import main


@pytest.fixture
def corpus(tmp_path):
    return write_sound(tmp_path / "my corpus")


def seqgen_data(*words):
    return main(["data", *map(str, words)])


def check(corpus, *words):
    return seqgen_data("check", f"--dir={corpus}", "--source_lang=en", "--target_lang=de", *words)


def test_page_goes_to_stdout_and_talk_to_stderr(corpus, capsys):
    assert check(corpus) == 0
    out, err = capsys.readouterr()
    assert "0 errors, 0 warnings" in out
    assert "train.en 200 lines" in out
    assert "reading train" in err


def test_errors_end_with_2_and_the_command_that_mends_them(corpus, capsys):
    damage(corpus, "train.de", {4: lambda line: b"\xff"})
    assert check(corpus) == 2
    out = capsys.readouterr().out
    assert "error    bad_utf8 de: 1, line 4" in out
    assert "--fix=OUT" in out


def test_json_is_all_of_stdout_and_equals_the_report_file(corpus, capsys, tmp_path):
    damage(corpus, "train.de", {4: lambda line: b"", 8: lambda line: b""})
    target = tmp_path / "report.json"
    assert check(corpus, "--json", f"--report={target}") == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads(target.read_text())
    assert report["splits"]["train"]["findings"][0]["lines"] == [4, 8]


def test_fix_writes_a_copy_that_passes(corpus, capsys, tmp_path):
    damage(corpus, "train.de", {4: lambda line: b"\xff", 9: lambda line: line + b"\r"})
    out = tmp_path / "clean"
    assert check(corpus, f"--fix={out}", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["fix"]["train"] == {
        "rows": 200,
        "kept": 199,
        "dropped": 1,
        "repaired": 1,
        "dropped_by": {"bad_utf8": 1},
        "repaired_by": {"crlf": 1},
    }
    assert check(out) == 0
    assert "0 errors, 0 warnings" in capsys.readouterr().out


def test_fix_tells_what_it_did(corpus, capsys, tmp_path):
    damage(corpus, "train.de", {4: lambda line: b"\xff"})
    check(corpus, f"--fix={tmp_path / 'clean'}")
    out = capsys.readouterr().out
    assert "train   200 = 199 kept (0 repaired) + 1 dropped   bad_utf8 1" in out


def test_what_cannot_be_mended_still_ends_with_2(corpus, tmp_path):
    (corpus / "test.de").unlink()
    assert check(corpus, f"--fix={tmp_path / 'clean'}") == 2


def test_report_is_never_written_into_the_corpus(corpus, capsys):
    before = (corpus / "train.de").read_bytes()
    assert check(corpus, f"--report={corpus / 'train.de'}") == 2
    assert "input directory" in capsys.readouterr().err
    assert (corpus / "train.de").read_bytes() == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["check", "--dir=x", "--source_lang=en", "--target_lang=de"], "does not exist"),
        (["check", "--source_lang=en"], "--dir"),
        (["chek"], "check"),
        ([], "VERB"),
        (["check", "--dirr=x"], "did you mean   --dir=x"),
    ],
)
def test_usage_errors_end_with_2(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert seqgen_data(*words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err


def test_line_limit(corpus, capsys):
    assert check(corpus, "--max_line_bytes=0") == 2
    assert "permits no line" in capsys.readouterr().err
    assert check(corpus, "--max_line_bytes=20") == 2
    assert "overlong" in capsys.readouterr().out


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from seqgen.cli.main import main\n"
        "try: main(['data', 'check', '--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit(any(name in sys.modules for name in ('numpy', 'jax')))"
    )
    run = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert run.returncode == 0
    assert run.stdout.startswith("examples:")
