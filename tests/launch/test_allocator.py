"""The restart with allocator settings: asked for only, once, and otherwise the same program."""

import json
import os
import platform
import signal
import subprocess
import sys

import pytest

from seqgen.cli.main import main
from seqgen.launch import allocator
from seqgen.launch.allocator import TUNED

HAS_GLIBC = sys.platform == "linux" and platform.libc_ver()[0] == "glibc"
# A verb that computes nothing, behind the real parser and the real `main`.
PROGRAM = """
import json, os, sys
from seqgen.cli import generate
from seqgen.cli.main import main

def run(args):
    assert "jax" not in sys.modules
    names = [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_", "SEQGEN_MALLOC"))]
    facts = {"pid": os.getpid(), "argv": sys.argv, "dev": sys.flags.dev_mode, "cwd": os.getcwd()}
    print(json.dumps(facts | {"env": {name: os.environ[name] for name in names}}), flush=True)
    for line in sys.stdin:
        print(line.upper(), end="")
    print("last words", file=sys.stderr)
    return 42

generate.run = run
sys.exit(main())
"""
WORDS = ["generate", "--workdir=a b", "--input=-"]


@pytest.fixture
def start(tmp_path):
    """Starts the program with words and an environment; the caller speaks to it."""
    if not HAS_GLIBC:
        pytest.skip("not Linux with glibc")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    clean = {n: v for n, v in os.environ.items() if n not in TUNED and n != allocator.VARIABLE}

    def start(*words: str, python: str = sys.executable, **environment: str):
        return subprocess.Popen(
            [python, "-X", "dev", str(program), *WORDS, *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={**clean, "JAX_PLATFORMS": "cpu", **environment},
            # Shells start what runs in the background with Ctrl-C ignored, and children inherit it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    return start


def facts_of(process, said: str = "") -> tuple[dict, str, str]:
    out, err = process.communicate(said, timeout=60)
    first, _, rest = out.partition("\n")
    return json.loads(first), rest, err


def test_the_second_start_is_the_same_program_with_the_variables(start, tmp_path):
    process = start("--malloc=tuned")
    facts, echoed, err = facts_of(process, "one\ntwo\n")
    assert facts["env"] == dict(TUNED), "all of them, and no trace of the restart for children"
    assert facts["pid"] == process.pid and facts["dev"], "interpreter options stay"
    assert facts["argv"] == [str(tmp_path / "program.py"), *WORDS, "--malloc=tuned"]
    assert facts["cwd"] == str(tmp_path.resolve())
    assert (echoed, err, process.returncode) == ("ONE\nTWO\n", "last words\n", 42)


@pytest.mark.parametrize(
    ("words", "environment", "tuned"),
    [
        ([], {}, False),
        (["--malloc=default"], {}, False),
        ([], {"SEQGEN_MALLOC": "tuned"}, True),
        ([], {"SEQGEN_MALLOC": "default"}, False),
        ([], {"SEQGEN_MALLOC": ""}, False),
        (["--malloc=default"], {"SEQGEN_MALLOC": "tuned"}, False),
    ],
)
def test_nothing_happens_without_consent(start, words, environment, tuned):
    facts, _, err = facts_of(start(*words, **environment))
    found = {name: facts["env"][name] for name in facts["env"] if name in TUNED}
    assert found == (dict(TUNED) if tuned else {})
    assert err == "last words\n"


def test_the_users_own_value_wins(start):
    own = {"MALLOC_ARENA_MAX": "4", "GLIBC_TUNABLES": "glibc.malloc.perturb=0"}
    facts, *_ = facts_of(start("--malloc=tuned", **own))
    assert facts["env"] == dict(TUNED) | own


@pytest.mark.parametrize(
    "environment",
    [{"JAX_PLATFORMS": "cuda,cpu"}, {"JAX_PLATFORMS": "", "JAX_PLATFORM_NAME": "gpu"}],
)
def test_another_backend_is_left_alone_and_told(start, environment):
    facts, _, err = facts_of(start("--malloc=tuned", **environment))
    assert facts["env"] == {}
    first, last = err.splitlines()
    assert first.startswith("malloc: nothing changed: jax will run on ")
    assert last == "last words"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_reach_the_restarted_program(start, number):
    process = start("--malloc=tuned")
    assert process.stdout.readline()  # it runs, restarted
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    expected = (130, "aborted\n") if number == signal.SIGINT else (-number, "")
    assert (process.returncode, err) == expected


def test_a_bad_setting_is_refused(monkeypatch, capsys):
    monkeypatch.setenv("SEQGEN_MALLOC", "fast")
    assert main(["generate", "--workdir=/nowhere"]) == 2
    assert capsys.readouterr().err == (
        "error: bad SEQGEN_MALLOC=fast in the environment\n  it takes       default or tuned\n"
    )


@pytest.fixture
def no_restart(monkeypatch):
    monkeypatch.setattr(os, "execve", lambda *args: pytest.fail("restarted"))
    for name in TUNED:
        monkeypatch.delenv(name, raising=False)


def test_a_program_that_calls_main_is_not_replaced(no_restart, capsys):
    assert main(["evaluate", "--workdir=/nowhere/run", "--malloc=tuned"]) == 2
    first, *_ = capsys.readouterr().err.splitlines()
    assert first == "malloc: nothing changed: not started as a program of its own"


def test_a_variable_that_does_not_arrive_is_no_endless_loop(no_restart, monkeypatch):
    started = []
    monkeypatch.setattr(os, "execve", lambda path, argv, env: started.append(env))
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    allocator.apply("tuned", say=lambda line: None)
    (environment,) = started
    for name in environment.keys() - {"MALLOC_ARENA_MAX"}:  # something on the way strips this one
        monkeypatch.setenv(name, environment[name])
    allocator.apply("tuned", say=pytest.fail)
    assert len(started) == 1


def test_a_failed_restart_is_told(no_restart, monkeypatch):
    def refuse(*args):
        raise OSError(2, "No such file or directory")

    monkeypatch.setattr(os, "execve", refuse)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    said = []
    allocator.apply("tuned", say=said.append)
    assert len(said) == 1 and "did not start again: [Errno 2]" in said[0]


@pytest.mark.parametrize("system", ["darwin", "linux"])
def test_other_systems_are_left_alone(no_restart, monkeypatch, system):
    def unknown(name):
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(os, "confstr", unknown)
    said = []
    allocator.apply("tuned", say=said.append)
    assert said == ["malloc: nothing changed: this is no Linux with glibc"]


def test_plugins_of_accelerators_are_left_alone(no_restart, monkeypatch, tmp_path):
    (tmp_path / "libtpu.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    said = []
    allocator.apply("tuned", say=said.append)
    assert len(said) == 1 and "libtpu is here; JAX_PLATFORMS=cpu would say so" in said[0]


FAULTS = """
import ctypes, resource
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
size = 48 << 20  # above the largest size that glibc's own threshold for mmap grows to
for _ in range(5):
    block = ctypes.c_void_p(libc.malloc(ctypes.c_size_t(size)))
    ctypes.memset(block, 1, size)
    libc.free(block)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
"""


def test_the_variables_keep_freed_memory():
    """A block that is freed and asked for again costs page faults once."""
    if not HAS_GLIBC:
        pytest.skip("not Linux with glibc")
    clean = {name: value for name, value in os.environ.items() if name not in TUNED}
    faults = []
    for extra in ({}, TUNED):
        command = [sys.executable, "-c", FAULTS]
        done = subprocess.run(command, env={**clean, **extra}, capture_output=True, check=True)
        faults.append(int(done.stdout))
    pages = (48 << 20) // os.sysconf("SC_PAGE_SIZE")
    default, tuned = faults
    assert default - tuned > 3 * pages, faults
