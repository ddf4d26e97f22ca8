"""Measure the whole table of training and decoding bars, row by row, and write it down.

    python benchmarks/peers/measure.py --peers-python ../peers-venv/bin/python [--only PART]

A row's programs are alive at once and asked in turn (`drive.py`). Each row leaves a JSON file of
all its passes in `benchmarks/results/peers/LABEL/`, and `README.md` beside them is written anew.
Rows that have their file are not measured again (`--again`), so the same command goes on after a
stop; LABEL is today's date unless given. Run it with the project's own Python: seqgen's programs
are started with the same one.
"""

import argparse
import datetime
import json
import os
import pathlib
import shlex
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack

from bars import ROWS, Row
from drive import (
    MALLOC_ENVIRONMENTS,
    Peer,
    PeerError,
    add_options,
    ask_in_turn,
    live_peer,
    ratio,
    summarise,
)
from page import describe_machine, report, verdicts
from protocol import EXIT_MISSING
from work import cache_dir

FOLDER = pathlib.Path(__file__).resolve().parent
RESULTS = FOLDER.parent / "results" / "peers"
PEER_PACKAGES = ("torch", "transformers", "ctranslate2", "numpy")
OWN_PACKAGES = ("jax", "jaxlib", "flax", "numpy")


def measure(row: Row, *, peers_python: str, rounds: int, pause: float, malloc: str) -> dict:
    """Run all programs of a row in turn; what they reported, as JSON values.

    A program that cannot do the work (exit status 2) is noted as missing; one that fails before it
    is ready also as failed. The others are measured without it.

    Raises:
      PeerError: a program failed later.
    """
    commands = {}
    for key, words in row.programs.items():
        python = sys.executable if key.startswith("seqgen") else peers_python
        program, _, options = words.partition(" ")
        commands[key] = f"{shlex.quote(python)} {shlex.quote(str(FOLDER / program))} {options}"
    missing: dict[str, str] = {}
    failed: list[str] = []
    peers: dict[str, Peer] = {}
    load = os.getloadavg()[0]
    start = datetime.datetime.now(datetime.UTC)
    with ExitStack() as stack:
        # Ours first: where they are all missing there is nothing to compare.
        for key in sorted(commands, key=lambda key: not key.startswith("seqgen")):
            if len(missing) == sum(name.startswith("seqgen") for name in commands):
                break
            try:
                peers[key] = stack.enter_context(live_peer(commands[key], malloc=malloc))
            except PeerError as error:
                missing[key] = str(error)
                if error.status != EXIT_MISSING:
                    failed.append(key)
        peers = {key: peers[key] for key in commands if key in peers}
        ask_in_turn(list(peers.values()), rounds=rounds, pause=pause)
    return {
        "row": row.name,
        "date": start.isoformat(timespec="seconds"),
        "rounds": rounds,
        "pause_s": pause,
        "malloc": malloc,
        "load_before": round(load, 2),
        "missing": missing,
        "failed": failed,
        "programs": {
            key: {"command": row.programs[key], **summarise(peer), "passes": peer.passes}
            for key, peer in peers.items()
        },
        "ratios": {
            key: {other: round(ratio(peer, peers[other]), 3) for other in peers if other != key}
            for key, peer in peers.items()
        },
    }


def package_versions(python: str, names: Sequence[str]) -> dict[str, str]:
    """Versions of installed packages, as another Python sees them."""
    code = (
        "import importlib.metadata as m, json, platform, sys\n"
        "found = {d.metadata['Name'].lower(): d.version for d in m.distributions()}\n"
        "names = {n: found[n] for n in sys.argv[1:] if n in found}\n"
        "print(json.dumps({'python': platform.python_version(), **names}))"
    )
    result = subprocess.run(
        [python, "-c", code, *names], check=True, capture_output=True, text=True
    )
    return json.loads(result.stdout)


def is_measured(path: pathlib.Path) -> bool:
    """Whether a row has its file, and none of its programs had failed."""
    return path.exists() and not json.loads(path.read_text(encoding="utf-8"))["failed"]


def own_command(args: argparse.Namespace) -> str:
    """What to type to measure so again, without the places of this machine."""
    words = ["python", "benchmarks/peers/measure.py", "--peers-python=PEERS_PYTHON"]
    words += [f"--{name}={getattr(args, name)}" for name in ("rounds", "pause", "malloc", "label")]
    words += [f"--only={part}" for part in args.only or ()]
    return shlex.join(words)


def all_versions(peers_python: str) -> dict[str, str]:
    """Versions on both sides, and the commit of this checkout."""
    ours = package_versions(sys.executable, OWN_PACKAGES)
    theirs = package_versions(peers_python, PEER_PACKAGES)
    from seqgen.training.environment import code_version

    peers = {f"{name} (peers)" if name in ours else name: v for name, v in theirs.items()}
    return {"seqgen": code_version(), **ours, **peers}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_options(parser)
    parser.add_argument("--peers-python", default=os.environ.get("SEQGEN_PEERS_PYTHON", ""))
    parser.add_argument("--only", action="append", help="rows whose name contains this")
    parser.add_argument("--label", default=datetime.date.today().isoformat())
    parser.add_argument("--output", type=pathlib.Path, default=RESULTS)
    parser.add_argument("--again", action="store_true", help="measure rows that have a file too")
    parser.add_argument("--list", action="store_true", help="print the rows and end")
    args = parser.parse_args()
    rows = [row for row in ROWS if not args.only or any(part in row.name for part in args.only)]
    if not rows:
        parser.error(f"no row has {args.only} in its name; --list shows them all")
    if args.list:
        print("\n".join(row.name for row in rows))
        return
    if not args.peers_python:
        parser.error("give --peers-python (or SEQGEN_PEERS_PYTHON); see benchmarks/peers/README.md")
    if (
        any(row.name.startswith("train") for row in rows)
        and not (cache_dir() / "batches.npz").exists()
    ):
        parser.error(f"{cache_dir()} has no batches; run prepare.py first")

    from seqgen.training.run_directory import write_atomically

    folder = args.output / args.label
    folder.mkdir(parents=True, exist_ok=True)
    versions = all_versions(args.peers_python)
    failed = 0
    for number, row in enumerate(rows, 1):
        path = folder / f"{row.name}.json"
        if not args.again and is_measured(path):
            continue
        print(f"[{number}/{len(rows)}] {row.name}", file=sys.stderr, flush=True)
        try:
            found = measure(
                row,
                peers_python=args.peers_python,
                rounds=args.rounds,
                pause=args.pause,
                malloc=args.malloc,
            )
        except PeerError as error:
            failed += 1
            print(f"  failed: {error}", file=sys.stderr)
            continue
        failed += len(found["failed"])
        if found["programs"]:
            found |= {
                "versions": versions,
                "machine": describe_machine(),
                "environment": dict(MALLOC_ENVIRONMENTS[args.malloc]),
                "measured_by": own_command(args),
            }
            write_atomically(path, json.dumps(found, indent=1) + "\n")
            page = report(folder, versions, own_command(args))
            write_atomically(folder / "README.md", page)
        for text in [*verdicts(row, found), *found["missing"].values()]:
            print(f"  {text}", file=sys.stderr)
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
