"""Settings of glibc's allocator for training on a CPU, by starting the program once more.

XLA:CPU allocates the buffers of a step and frees them. glibc's defaults give such memory back to
the kernel, so that each step faults its pages in anew (benchmarks/results/allocator). With `TUNED`
the memory stays with the process: one arena, no mmap for large blocks, no trimming, huge pages
(mallopt(3); "Memory Allocation Tunables" in glibc's manual). glibc reads them once, when a process
starts; hence the restart, which only a user may ask for.
"""

import importlib.util
import os
import sys
from collections.abc import Callable, Mapping

from seqgen.errors import ConfigError

TUNED: Mapping[str, str] = {
    "MALLOC_ARENA_MAX": "1",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": "99999999999",
    "MALLOC_TOP_PAD_": "268435456",
}
VARIABLE = "SEQGEN_MALLOC"
CHOICES = ("default", "tuned")
_RESTARTED = "SEQGEN_MALLOC_RESTARTED"  # stands in the environment of the second start only


def apply(choice: str | None, *, restart: bool = True, say: Callable[[str], None]) -> None:
    """Replace this process by the same program with `TUNED` in its environment, if that is wanted.

    The process id, open files, ignored signals and the command line stay. A variable of `TUNED`
    that the user has set keeps the user's value. It returns where nothing is wanted or left to do,
    and, after one line, where nothing can be done. Call it before jax is imported: what was done
    by then is done twice.

    Args:
      choice: 'tuned', 'default', or None, which is what $SEQGEN_MALLOC says ('default' without it).
      restart: whether the process is the program's own; False for a caller that lives in another.
      say: receives the line.

    Raises:
      ConfigError: $SEQGEN_MALLOC is neither 'tuned' nor 'default'.
    """
    if os.environ.pop(_RESTARTED, None) is not None:
        return
    given = {name: value for name, value in TUNED.items() if name not in os.environ}
    if _resolve(choice) != "tuned" or not given:
        return
    hindrance = _hindrance() if restart else "not started as a program of its own"
    if not hindrance:
        environment = {**os.environ, **given, _RESTARTED: "1"}
        try:
            os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
        except OSError as error:
            hindrance = f"{sys.executable or 'the interpreter'} did not start again: {error}"
    say(f"malloc: nothing changed: {hindrance}")


def settings() -> str:
    """The variables of `TUNED` that this process was started with: 'NAME=value NAME=value'."""
    return " ".join(f"{name}={os.environ[name]}" for name in TUNED if name in os.environ)


def _resolve(choice: str | None) -> str:
    if choice is not None:
        return choice
    wanted = os.environ.get(VARIABLE) or "default"
    if wanted not in CHOICES:
        raise ConfigError(
            f"bad {VARIABLE}={wanted} in the environment",
            details=[f"it takes       {' or '.join(CHOICES)}"],
        )
    return wanted


def _hindrance() -> str:
    """Why the settings would have no effect here; '' if they have one."""
    try:
        libc = os.confstr("CS_GNU_LIBC_VERSION") if sys.platform == "linux" else None
    except (OSError, ValueError):  # another libc
        libc = None
    if not libc:
        return "this is no Linux with glibc"
    platforms = os.environ.get("JAX_PLATFORMS") or os.environ.get("JAX_PLATFORM_NAME")
    if platforms:
        return "" if platforms.split(",")[0] == "cpu" else f"jax will run on {platforms}"
    for package in ("jax_plugins", "libtpu"):  # asking jax would take a second and start threads
        if importlib.util.find_spec(package) is not None:
            return f"jax may not run on the CPU, {package} is here; JAX_PLATFORMS=cpu would say so"
    return ""
