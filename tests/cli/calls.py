"""How tests call the program."""

import contextlib
import io
import sys

from seqgen.cli.main import main


def call(capsys, *words: object) -> str:
    """What a command prints on stdout; it must succeed."""
    capsys.readouterr()
    code = main([str(word) for word in words])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return captured.out


@contextlib.contextmanager
def stdin(data: bytes):
    kept = sys.stdin
    sys.stdin = io.TextIOWrapper(io.BytesIO(data), encoding="utf-8")
    try:
        yield
    finally:
        sys.stdin = kept
