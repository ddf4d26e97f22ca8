"""Measure programs side by side: all are alive at once and asked in turn, round by round.

    python drive.py --rounds 6 [--malloc one-arena] 'COMMAND' 'COMMAND' ...

A command speaks the language of `protocol.serve`. The programs start one after another, so that
each warms up alone. A ratio is the median over rounds of a program's rate over the first one's in
the same round. `env NAME=value COMMAND` changes the environment of one of them.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import IO, Any

from seqgen.launch.allocator import TUNED

# Page faults cost CPU time (benchmarks/results/allocator). `padded` keeps what the main arena once
# had; but threads allocate from arenas of their own, which give pages back at every step in spite
# of it. `one-arena` leaves no such arenas and asks for huge pages; `seqgen train --malloc=tuned` is
# the same.
_PADDED = ("MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_")
MALLOC_ENVIRONMENTS: Mapping[str, Mapping[str, str]] = {
    "one-arena": TUNED,
    "padded": {name: TUNED[name] for name in _PADDED},
    "default": {},
}
DEFAULT_MALLOC = "one-arena"


class PeerError(Exception):
    """A program ended instead of answering.

    Attributes:
      status: its exit status.
    """

    def __init__(self, command: str, status: int, message: str):
        super().__init__(message or f"exit status {status}: {command}")
        self.status = status


@dataclasses.dataclass
class Peer:
    """A live program and the passes it has done."""

    command: str
    process: subprocess.Popen[str]
    errors: IO[str]
    name: str = ""
    warmup_s: Sequence[float] = ()
    passes: list[dict[str, Any]] = dataclasses.field(default_factory=list)

    def _read(self, key: str) -> dict[str, Any]:
        """The next JSON line that has `key`; whatever else is printed is passed over."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{") and key in (fields := json.loads(line)):
                return fields
        status = self.process.wait()
        self.errors.seek(0)
        lines = self.errors.read().strip().splitlines()
        raise PeerError(self.command, status, lines[-1] if lines else "")

    def wait_until_ready(self) -> None:
        """Wait for the end of the warm-up."""
        fields = self._read("ready")
        self.name, self.warmup_s = fields["name"], fields["warmup_s"]

    def run_pass(self) -> None:
        """Ask for one pass; `foreign_cpu_s` is what the rest of the machine did meanwhile."""
        assert self.process.stdin is not None
        busy = busy_seconds()
        with suppress(BrokenPipeError):  # it has ended: reading says how
            self.process.stdin.write("pass\n")
            self.process.stdin.flush()
        fields = self._read("tokens_per_s")
        foreign = busy_seconds() - busy - fields["cpu_s"]
        self.passes.append({**fields, "foreign_cpu_s": round(max(foreign, 0.0), 3)})


def busy_seconds() -> float:
    """CPU seconds that all processes of this machine have used; 0 where that is not told."""
    try:
        line = pathlib.Path("/proc/stat").read_text(encoding="ascii").splitlines()[0]
    except OSError:
        return 0.0
    user, nice, system = map(int, line.split()[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


@contextmanager
def live_peer(command: str, *, malloc: str) -> Iterator[Peer]:
    """A started program, warm; it is ended on leaving.

    Raises:
      PeerError: it ended before it was ready.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        process = subprocess.Popen(
            shlex.split(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, **MALLOC_ENVIRONMENTS[malloc]},
        )
        peer = Peer(command, process, errors)
        try:
            peer.wait_until_ready()
            yield peer
        finally:
            assert process.stdin is not None
            with suppress(BrokenPipeError):
                process.stdin.close()  # its sign to end
            try:
                process.wait(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def ask_in_turn(peers: Sequence[Peer], *, rounds: int, pause: float) -> None:
    """`rounds` passes of each, one program at a time."""
    for number in range(rounds):
        # Every other round goes backwards, so that nobody always follows the same neighbour.
        for peer in peers if number % 2 == 0 else reversed(peers):
            time.sleep(pause)  # threads of the one before spin for a while after their work
            peer.run_pass()


def ratio(peer: Peer, reference: Peer) -> float:
    """Median over rounds of the rate of `peer` over that of `reference`."""
    pairs = zip(peer.passes, reference.passes, strict=True)
    return statistics.median(a["tokens_per_s"] / b["tokens_per_s"] for a, b in pairs)


def summarise(peer: Peer) -> dict[str, Any]:
    """Medians and extremes of a program's passes."""

    def values(key: str) -> list[float]:
        return [fields[key] for fields in peer.passes if fields.get(key) is not None]

    rates = values("tokens_per_s")
    return {
        "name": peer.name,
        "tokens_per_s": round(statistics.median(rates), 1),
        "min": min(rates),
        "max": max(rates),
        "cpu_s": round(statistics.median(values("cpu_s")), 3),
        "foreign_cpu_share": round(sum(values("foreign_cpu_s")) / sum(values("wall_s")), 3),
        "peak_mib": max(values("peak_mib"), default=None),
        "loss": peer.passes[-1].get("loss"),
        "warmup_s": peer.warmup_s,
        "rounds": len(rates),
    }


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options that `measure.py` shares."""
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--pause", type=float, default=0.4, help="seconds of rest before a pass")
    parser.add_argument(
        "--malloc",
        choices=MALLOC_ENVIRONMENTS,
        default=DEFAULT_MALLOC,
        help="allocator variables, the same for every program (default: %(default)s)",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_options(parser)
    parser.add_argument("commands", nargs="+", metavar="COMMAND")
    args = parser.parse_args()
    with ExitStack() as stack:
        peers: list[Peer] = []
        for command in args.commands:
            try:
                peers.append(stack.enter_context(live_peer(command, malloc=args.malloc)))
            except PeerError as error:
                raise SystemExit(f"{command}\n{error}") from error
            print(f"ready: {peers[-1].name} {list(peers[-1].warmup_s)}", file=sys.stderr)
        ask_in_turn(peers, rounds=args.rounds, pause=args.pause)
        for peer in peers:
            print(json.dumps({"ratio": round(ratio(peer, peers[0]), 3), **summarise(peer)}))


if __name__ == "__main__":
    main()
