"""Lines in and lines out: only LF ends a line, and an output file appears whole or not at all."""

import contextlib
import os
import pathlib
import re
import sys
import tempfile
from collections.abc import Iterator
from typing import TextIO

from seqgen.errors import DataError, StorageError


def read_lines(name: str) -> Iterator[str]:
    """Lines of a file (or of stdin for '-'), without LF and without the CR of a CRLF.

    Bytes that are not UTF-8 become U+FFFD, so that line i stays line i; a note on stderr counts
    such lines at the end.

    Raises:
      DataError: if the file cannot be read.
    """
    damaged = 0
    try:
        if name == "-" and sys.stdin.isatty():
            print("type lines, then Ctrl-D", file=sys.stderr)
        stream = sys.stdin.buffer if name == "-" else open(name, "rb")  # noqa: SIM115
        with contextlib.nullcontext(stream) if name == "-" else stream:
            for number, raw in enumerate(stream):
                line = raw.removesuffix(b"\n").removesuffix(b"\r")
                if number == 0:
                    line = line.removeprefix(b"\xef\xbb\xbf")  # a byte-order mark is no text
                text = line.decode("utf-8", errors="replace")
                damaged += "\ufffd" in text and b"\xef\xbf\xbd" not in line
                yield text
    except OSError as error:
        raise DataError(f"cannot read {name}", details=[str(error)]) from error
    if damaged:
        print(f"note: {damaged} lines of {name} are not valid UTF-8", file=sys.stderr)


_ESCAPES = {"\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
_MEANINGS = {written: text for text, written in _ESCAPES.items()}


def escape(text: str) -> str:
    r"""Text on one line: newline, return, tab and backslash as `\n`, `\r`, `\t` and `\\`."""
    return re.sub(r"[\\\n\r\t]", lambda found: _ESCAPES[found[0]], text)


def unescape(line: str) -> str:
    r"""What `escape` made a line of; a backslash before anything else stands for itself."""
    return re.sub(r"\\[\\nrt]", lambda found: _MEANINGS[found[0]], line)


@contextlib.contextmanager
def output(name: str) -> Iterator[TextIO]:
    """A stream to write to: stdout for '-', else a file that takes its name when all is written.

    Raises:
      StorageError: if the file cannot be written.
    """
    if name == "-":
        yield sys.stdout
        sys.stdout.flush()
        return
    path = pathlib.Path(name)
    if path.exists() and not path.is_file():  # a pipe or a device is written to, never replaced
        try:
            with path.open("w", encoding="utf-8", newline="\n") as file:
                yield file
        except OSError as error:
            raise StorageError(f"cannot write {name}", details=[str(error)]) from error
        return
    path = path.resolve()  # behind a symbolic link the file is replaced, not the link
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise StorageError(f"cannot write {name}", details=[str(error)]) from error
    try:
        with open(handle, "w", encoding="utf-8", newline="\n") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)  # mkstemp makes private files; this one gets the usual rights
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except OSError as error:
        raise StorageError(f"cannot write {name}", details=[str(error)]) from error
    finally:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
