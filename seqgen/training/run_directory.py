"""The folder of one run: who holds it, how it stands, what it was started with."""

import contextlib
import datetime
import fcntl
import json
import os
import pathlib
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any

from seqgen.errors import ConfigError, StorageError
from seqgen.training.environment import environment

OWN_NAMES = (
    "config.json",
    "overrides.txt",
    "env.json",
    "metrics.jsonl",
    "events.jsonl",
    "train.log",
    "samples",
    "tokenizer",
    "shortlist.npz",
    "checkpoints",
    "quarantine",
    "tensorboard",
    "STATUS",
)


class RunDirectory:
    """A run directory, held by at most one training process: a context manager.

    Reading (`read_config`, paths) needs no hold. The hold is an advisory lock of the operating
    system on LOCK, which dies with its process, so a stale file never blocks anyone.
    """

    def __init__(self, path: pathlib.Path | str):
        self.path = pathlib.Path(path)
        self._lock: IO[str] | None = None

    def __enter__(self) -> "RunDirectory":
        self.acquire()
        return self

    def __exit__(self, *unused: object) -> None:
        self.release()

    def acquire(self) -> None:
        """Create the folder and take its LOCK.

        Raises:
          ConfigError: another process trains here; it is named.
          StorageError: the folder cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / "LOCK").open("a+", encoding="utf-8")
        except OSError as error:
            raise StorageError(f"cannot write to {self.path}", details=[str(error)]) from error
        lock.seek(0)
        holder = lock.read().strip()
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held = False
        except BlockingIOError:
            held = True
        except OSError:  # a file system without locks: believe the file while its process lives
            held = is_alive(holder)
        if held:
            lock.close()
            raise ConfigError(
                f"another training holds {self.path}",
                details=[f"holder         {holder}", "wait for it, or choose another --workdir"],
            )
        lock.truncate(0)
        facts = {"pid": os.getpid(), "host": socket.gethostname(), "since": _now()}
        lock.write(json.dumps(facts) + "\n")
        lock.flush()
        self._lock = lock

    def release(self) -> None:
        """Give the LOCK back."""
        if self._lock is not None:
            self._lock.seek(0)
            self._lock.truncate()
            self._lock.close()
            self._lock = None

    @contextlib.contextmanager
    def starting_over(self) -> Iterator[None]:
        """Put aside what a run wrote here (`--fresh`): deleted when the block ends, or put back.

        Other files of the folder stay where they are.

        Raises:
          ConfigError: the folder holds such names, but no run of ours made them.
        """
        found = [name for name in OWN_NAMES if (self.path / name).exists()]
        if found and not {"config.json", "STATUS"} & set(found):
            raise ConfigError(
                f"{self.path} holds {', '.join(found)}, but no run",
                details=["--fresh removes runs only; take another --workdir"],
            )
        aside = self.path / f".before-fresh-{os.getpid()}"
        aside.mkdir()
        for name in found:
            (self.path / name).rename(aside / name)
        try:
            yield
        except BaseException:
            self._remove(OWN_NAMES)
            for name in found:
                (aside / name).rename(self.path / name)
            aside.rmdir()
            raise
        shutil.rmtree(aside)

    def _remove(self, names: Sequence[str]) -> None:
        for name in names:
            path = self.path / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def write_config(self, config: Mapping[str, Any], *, overrides: Sequence[str] = ()) -> None:
        """Store the resolved config as strict JSON, and what was typed over it."""
        write_atomically(self.path / "config.json", _json(config))
        write_atomically(self.path / "overrides.txt", "".join(f"{line}\n" for line in overrides))

    def read_config(self) -> dict[str, Any] | None:
        """The stored config, or None in a new folder.

        Raises:
          ConfigError: the file is not JSON.
        """
        path = self.path / "config.json"
        if not path.exists():
            return None
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ConfigError(f"{path} is not valid JSON", details=[str(error)]) from error

    def write_environment(self) -> list[str]:
        """Store versions, devices and code version; what differs from the stored ones, as lines.

        Bits are promised for an equal environment only, so a resumed run says what changed.
        """
        path = self.path / "env.json"
        current = environment()
        changes = []
        if path.exists():
            try:
                before = json.loads(path.read_text(encoding="utf-8"))
            except ValueError:
                before = {}
            changes = [
                f"{name} was {before[name]!r}, is {value!r}"
                for name, value in current.items()
                if name in before and before[name] != value
            ]
        write_atomically(path, _json(current))
        return changes

    def set_status(self, state: str, **facts: Any) -> None:
        """Replace STATUS (one JSON line): running, finished, early_stopped, interrupted, failed.

        Like `event`, `log` and `write_samples` it does its best: a full disk does not end a
        training.
        """
        row = {"state": state, "pid": os.getpid(), "updated": _now(), **facts}
        with contextlib.suppress(OSError):
            write_atomically(self.path / "STATUS", json.dumps(row) + "\n")

    def event(self, kind: str, **facts: Any) -> None:
        """Add a row to events.jsonl: what happened to this run, in the order in which it did.

        Unlike metrics.jsonl it is never cut back: a step that was repeated after a kill stands
        there as often as it was saved.
        """
        row = {"time": _now(), "event": kind, **facts}
        line = json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
        with (
            contextlib.suppress(OSError),
            (self.path / "events.jsonl").open("a", encoding="utf-8") as file,
        ):
            file.write(line)

    @contextlib.contextmanager
    def failure_status(self) -> Iterator[None]:
        """Write the cause into STATUS and events.jsonl if an exception leaves the block."""
        try:
            yield
        except BaseException as error:
            cause = getattr(error, "cause", None) or f"{type(error).__name__}: {error}"
            line = (str(cause).splitlines() or [""])[0][:200]
            self.set_status("failed", cause=line)
            self.event("failed", cause=line)
            raise

    def status(self) -> dict[str, Any] | None:
        """The last STATUS, or None."""
        path = self.path / "STATUS"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def log(self, line: str) -> None:
        """Add a line with the time to train.log."""
        now = datetime.datetime.now().isoformat(timespec="seconds")
        with (
            contextlib.suppress(OSError),
            (self.path / "train.log").open("a", encoding="utf-8") as file,
        ):
            file.write(f"{now} {line}\n")

    def write_samples(self, step: int, samples: Sequence[Mapping[str, str]]) -> None:
        """Store the sample sentences of an evaluation in samples/<step>.txt."""
        folder = self.path / "samples"
        blocks = ["".join(f"{name}: {text}\n" for name, text in s.items()) for s in samples]
        with contextlib.suppress(OSError):
            folder.mkdir(exist_ok=True)
            write_atomically(folder / f"{step}.txt", "\n".join(blocks))


def is_alive(holder: str) -> bool:
    """Whether the process that a LOCK names runs; True for one on another host, to be safe."""
    try:
        facts = json.loads(holder)
        if facts["host"] != socket.gethostname():
            return True
        os.kill(facts["pid"], 0)
    except (ValueError, KeyError, TypeError, ProcessLookupError):
        return False
    except PermissionError:  # it runs, as another user
        return True
    return True


def write_atomically(path: pathlib.Path, text: str) -> None:
    """Write a file so that readers see the old or the new content, never a part."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_text(text, encoding="utf-8")
        os.replace(draft, path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise


def _now() -> str:
    """The time in UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2, allow_nan=False, ensure_ascii=False) + "\n"
