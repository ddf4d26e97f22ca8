"""Files made once from other files: complete or absent, whoever makes them and however it ends."""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from seqgen.errors import StorageError

try:
    import fcntl
except ImportError:  # Windows: two makers both work, the first to finish wins
    fcntl = None

DIGEST_BYTES = 16


def cache_directory(directory: str = "") -> Path:
    """`directory`, or $SEQGEN_CACHE, or the user's own cache directory for seqgen."""
    chosen = directory or os.environ.get("SEQGEN_CACHE", "")
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "seqgen"
    except RuntimeError:  # no home directory
        return Path(tempfile.gettempdir()) / f"seqgen-{os.getuid()}"


def digest_bytes(*parts: bytes | memoryview) -> str:
    """Short hexadecimal digest of `parts` one after the other."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def digest_file(path: Path) -> str:
    """`digest_bytes` of a file's content, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(
            file, lambda: hashlib.blake2b(digest_size=DIGEST_BYTES)
        ).hexdigest()


def digest_json(value: Any) -> str:
    """Digest of a JSON value, the same for every order of keys."""
    return digest_bytes(json.dumps(value, sort_keys=True, ensure_ascii=False).encode())


def write_json(path: Path, value: Any) -> None:
    """Write strict JSON."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read JSON; ValueError if it is damaged."""
    return json.loads(path.read_text(encoding="utf-8"))


def build_once(target: Path, build: Callable[[Path], None]) -> Path:
    """The directory `target`, made by `build(temporary directory)` if it is not there yet.

    The temporary directory is renamed when `build` has returned, so `target` is complete or
    absent. A second process that wants the same waits for the first.

    Raises:
      StorageError: if the disk refuses.
    """
    if target.is_dir():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _locked(target):
            if target.is_dir():
                return target
            # Only the holder of the lock builds, so what an earlier holder left is dead.
            for stale in target.parent.glob(f".{target.name}.tmp-*") if fcntl else ():
                shutil.rmtree(stale, ignore_errors=True)
            made = Path(tempfile.mkdtemp(prefix=f".{target.name}.tmp-", dir=target.parent))
            try:
                build(made)
                made.chmod(0o755)
                _rename(made, target)
            finally:
                shutil.rmtree(made, ignore_errors=True)
    except OSError as error:
        raise StorageError(
            f"cannot write to the data cache {target.parent}",
            details=[
                error.strerror or str(error),
                "choose another place:  --config.data.cache_dir=DIR  or  SEQGEN_CACHE=DIR",
            ],
        ) from error
    return target


def discard(target: Path) -> None:
    """Remove a damaged directory that `build_once` made, so that it is made again."""
    doomed = Path(tempfile.mkdtemp(prefix=f".{target.name}.tmp-", dir=target.parent))
    with contextlib.suppress(OSError):
        target.rename(doomed / target.name)
    shutil.rmtree(doomed, ignore_errors=True)


def _rename(made: Path, target: Path) -> None:
    try:
        made.rename(target)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.EACCES) or not target.is_dir():
            raise


@contextlib.contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Hold the lock of `target`; it falls when the process dies."""
    if fcntl is None:
        yield
        return
    with (target.parent / f".{target.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
