import io
import os
import sys
import threading

import pytest

from seqgen.cli.evaluate import _strict
from seqgen.cli.text_files import escape, output, read_lines, unescape
from seqgen.errors import DataError, StorageError
from seqgen.texts import one_line


def read(tmp_path, data: bytes) -> list[str]:
    (tmp_path / "in").write_bytes(data)
    return list(read_lines(str(tmp_path / "in")))


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"\n", [""]),
        (b"a\nb", ["a", "b"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"a\rb\n", ["a\rb"]),
        ("a\u2028b\x85c\x0bd\n".encode(), ["a\u2028b\x85c\x0bd"]),
        (b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n", ["a", "\ufeffb"]),
        ("\ufffd\n".encode(), ["\ufffd"]),
    ],
)
def test_only_lf_ends_a_line(tmp_path, capsys, data, lines):
    assert read(tmp_path, data) == lines
    assert capsys.readouterr().err == ""


def test_damaged_lines_keep_their_place_and_are_counted(tmp_path, capsys):
    assert read(tmp_path, b"a\xff\nb\n\xc3\n") == ["a\ufffd", "b", "\ufffd"]
    assert "2 lines of" in capsys.readouterr().err


def test_stdin_is_dash_and_stays_open(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(b"x\ny\n"))
    monkeypatch.setattr(sys, "stdin", stream)
    assert list(read_lines("-")) == ["x", "y"]
    assert not stream.buffer.closed


def test_missing_file_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="cannot read"):
        list(read_lines(str(tmp_path / "none")))


def test_output_appears_whole_with_the_usual_rights(tmp_path):
    path = tmp_path / "out"
    with output(str(path)) as file:
        file.write("ü\n")
        assert not path.exists()
    assert path.read_bytes() == "ü\n".encode()
    plain = tmp_path / "plain"
    plain.touch()
    assert os.stat(path).st_mode == os.stat(plain).st_mode


def test_output_goes_through_links_and_pipes(tmp_path):
    target, link, pipe = tmp_path / "target", tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(target)
    with output(str(link)) as file:
        file.write("through\n")
    assert link.is_symlink() and target.read_text() == "through\n"
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()))
    read: list[str] = []
    reader.start()
    with output(str(pipe)) as file:
        file.write("along\n")
    reader.join(timeout=10)
    assert read == ["along\n"] and pipe.is_fifo()


def test_output_of_a_failed_job_never_appears(tmp_path):
    with pytest.raises(KeyError), output(str(tmp_path / "out")) as file:
        file.write("half")
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_output_that_cannot_be_written_is_a_storage_error(tmp_path):
    with pytest.raises(StorageError, match="cannot write"), output(str(tmp_path / "no" / "out")):
        pass
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError), output(str(tmp_path / "folder")) as file:
        file.write("x")


def test_answers_stay_on_their_line():
    assert one_line("a\nb\r\nc\rd") == "a b c d"


@pytest.mark.parametrize("text", ["a\nb", "\\n", "\\\n\\\\n", "\ta\r\n", "C:\\dir", "\\"])
def test_any_text_goes_onto_a_line_and_back(text):
    assert unescape(escape(text)) == text
    assert not set("\n\r\t") & set(escape(text))


def test_a_backslash_before_anything_else_is_one():
    assert unescape(r"a\d \\n\n") == "a\\d \\n\n"
    assert escape("a\nb\\") == r"a\nb\\"


def test_non_finite_values_become_null_with_a_flag():
    assert _strict({"loss": float("nan"), "bleu": 1.0}) == {
        "loss": None,
        "bleu": 1.0,
        "non_finite": ["loss"],
    }
    assert _strict({"loss": 1.0}) == {"loss": 1.0}
