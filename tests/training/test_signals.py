import os
import signal
import subprocess
import sys
import time

import pytest

from seqgen.training.signals import StopSignals

STUCK = """
import hashlib
from seqgen.training.signals import StopSignals
with StopSignals(lambda line: print("first", flush=True)):
    print("ready", flush=True)
    # One call that lets other threads run but comes back to the interpreter only after minutes,
    # like a long compilation.
    hashlib.pbkdf2_hmac("sha256", b"word", b"salt", 10**9)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_only_asks(number):
    said = []
    before = signal.getsignal(number)
    with StopSignals(lambda line: said.append("stop")) as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        deadline = time.monotonic() + 5
        while not said and time.monotonic() < deadline:
            time.sleep(0.01)
        assert stop.requested
        assert said == ["stop"]
    assert signal.getsignal(number) is before


def test_the_second_signal_ends_the_process_at_once_even_inside_a_long_call():
    child = subprocess.Popen([sys.executable, "-c", STUCK], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "ready\n"
        child.send_signal(signal.SIGTERM)
        assert child.stdout.readline() == "first\n"
        start = time.monotonic()
        child.send_signal(signal.SIGINT)
        assert child.wait(timeout=10) == 130
        assert time.monotonic() - start < 5
    finally:
        child.kill()
        child.communicate()
