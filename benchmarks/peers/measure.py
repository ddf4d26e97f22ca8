"""Measure the whole table of training and decoding bars, row by row, and write it down.

    python benchmarks/peers/measure.py --peers-python ../peers-venv/bin/python [--only PART]

A row's programs are alive at once and asked in turn (`drive.py`). Each row leaves a JSON file of
all its passes in `benchmarks/results/peers/LABEL/`, and `README.md` beside them is written anew.
Rows that have their file are not measured again (`--again`), so the same command goes on after a
stop; LABEL is today's date unless given. Run it with the project's own Python: seqgen's programs
are started with the same one.
"""

import argparse
import dataclasses
import datetime
import itertools
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from common import (
    DECODE_BATCHES,
    EXIT_MISSING,
    GPT_SHAPES,
    RECURRENT_MODELS,
    SIZES,
    TARGET_LEN,
    cache_dir,
)
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

FOLDER = pathlib.Path(__file__).resolve().parent
RESULTS = FOLDER.parent / "results" / "peers"
FLOATS = ("float32", "bfloat16")
BUSY_SHARE = 0.1  # CPUs of other work during the passes, above which a row counts as disturbed
PEER_PACKAGES = ("torch", "transformers", "ctranslate2", "numpy")
OWN_PACKAGES = ("jax", "jaxlib", "flax", "numpy")


@dataclasses.dataclass(frozen=True)
class Bar:
    """The best of `ours` shall be at least `factor` times as fast as the best of `theirs`.

    Both name programs of a row by the start of their keys.
    """

    factor: float
    ours: tuple[str, ...]
    theirs: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Row:
    """Programs that do the same work.

    Attributes:
      name: of the row and its file.
      programs: the words of each program's command by its key; a key starting with 'seqgen' is run
        by this Python, others by the peers' one.
      bars: what is asked of seqgen.
      unit: what is counted; tokens/s divided by `per_unit`.
      per_unit: tokens in one of them.
    """

    name: str
    programs: Mapping[str, str]
    bars: tuple[Bar, ...]
    unit: str = "target tokens/s"
    per_unit: int = 1


def training_rows() -> Iterator[Row]:
    """The bars of the training step; both dtypes on both sides."""
    floats = ("seqgen float32", "seqgen bfloat16")
    bars = {
        "transformer-small": (
            Bar(2.2, floats, ("torch float32",)),
            Bar(1.4, floats, ("marian bfloat16",)),
        ),
        "transformer-base": (
            Bar(2.5, floats, ("torch float32",)),
            Bar(1.3, floats, ("torch bfloat16", "marian bfloat16")),
        ),
        **dict.fromkeys(RECURRENT_MODELS, (Bar(1.6, floats, ("torch float32",)),)),
        "gpt-12x64": (Bar(1.1, floats, ("torch float32", "torch bfloat16")),),
        "gpt-32x256": (Bar(0.8, floats, ("torch float32", "torch bfloat16")),),
    }
    for model, asked in bars.items():
        programs = {
            f"{side} {dtype}": f"train_{side}.py --model {model} --nb 1 --dtype {dtype}"
            for side, dtype in itertools.product(("torch", "seqgen"), FLOATS)
        }
        if model.startswith("transformer"):
            marian = model.replace("transformer", "marian")
            programs["marian bfloat16"] = f"train_torch.py --model {marian} --nb 1 --dtype bfloat16"
        unit = "tokens/s" if model in GPT_SHAPES else "target tokens/s"
        yield Row(f"train-{model}", programs, asked, unit)


def decoding_rows() -> Iterator[Row]:
    """The bars of decoding: both sizes, beam 5 and greedy, three batch sizes."""
    for size, beam, batch in itertools.product(SIZES, (5, 1), DECODE_BATCHES):
        work = f"--size {size} --beam {beam} --batch {batch}"
        programs = {
            "hf float32": f"decode_hf.py {work}",
            "ct2 float32": f"decode_ct2.py {work}",
            "ct2 int8": f"decode_ct2.py {work} --int8",
            **{f"seqgen {dtype}": f"decode_seqgen.py {work} --dtype {dtype}" for dtype in FLOATS},
            "seqgen int8": f"decode_seqgen.py {work} --int8",
        }
        floats = ("seqgen float32", "seqgen bfloat16")
        bars = (
            Bar(2.0, floats, ("hf float32",)),
            Bar(1.2, floats, ("ct2 float32",)),
            Bar(0.65, ("seqgen int8",), ("ct2 int8",)),
        )
        yield Row(f"decode-{size}-beam{beam}-b{batch}", programs, bars, "sentences/s", TARGET_LEN)


ROWS = (*training_rows(), *decoding_rows())


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


def verdicts(row: Row, found: Mapping[str, Any]) -> Iterator[str]:
    """One cell of text a bar: the figure, what was asked, and whether it is met."""
    rates = {key: values["tokens_per_s"] for key, values in found["programs"].items()}
    for bar in row.bars:
        ours = max((key for key in bar.ours if key in rates), key=rates.__getitem__, default=None)
        theirs = max(
            (key for key in bar.theirs if key in rates), key=rates.__getitem__, default=None
        )
        asked = f"{bar.factor} x {' / '.join(bar.theirs)}"
        if ours is None or theirs is None:
            yield f"not measured ({asked})"
            continue
        figure = found["ratios"][ours][theirs]
        word = "met" if figure >= bar.factor else "**missed**"
        yield f"{figure:.2f} by {ours.removeprefix('seqgen ')}, {word} ({asked})"
        if row.name.startswith("train") and theirs == "torch float32":
            peak, limit = (found["programs"][key]["peak_mib"] for key in (ours, theirs))
            word = "met" if peak <= limit else "**missed**"
            yield f"peak memory {peak:,.0f} MiB, {word} (at most {theirs}'s {limit:,.0f})"


def report(label: pathlib.Path, versions: Mapping[str, str], command: str) -> str:
    """The Markdown page of a folder of results."""
    lines = [
        f"# seqgen beside PyTorch, Hugging Face and CTranslate2 ({label.name})",
        "",
        "Written by `benchmarks/peers/measure.py`; the rules of measurement stand in",
        "`benchmarks/peers/README.md`. Programs of a row ran in turn; rates are medians, a ratio",
        "is the median of the ratios of single rounds. CPU s are of one pass, peak memory of the",
        "whole process, warm-up included. A row is disturbed where other work took more than",
        f"{BUSY_SHARE:.0%} of a CPU.",
        "",
        f"- machine: {describe_machine()}",
        f"- command: `{command}`",
        f"- versions: {', '.join(f'{name} {version}' for name, version in versions.items())}",
        "",
    ]
    for row in ROWS:
        path = label / f"{row.name}.json"
        if not path.exists():
            continue
        found = json.loads(path.read_text(encoding="utf-8"))
        lines += [f"## {row.name}", "", *table(row, found), ""]
    return "\n".join(lines)


def table(row: Row, found: Mapping[str, Any]) -> Iterator[str]:
    """The lines of one row's section."""
    if not found["programs"]:
        yield "not measured: " + "; ".join(found["missing"].values())
        return
    share = max(values["foreign_cpu_share"] for values in found["programs"].values())
    state = f"disturbed by other work ({share:.0%} of a CPU)" if share > BUSY_SHARE else "quiet"
    yield (
        f"{found['date']}, {found['rounds']} rounds, malloc `{found['malloc']}`, {state}, load "
        f"{found['load_before']} before."
    )
    yield ""
    references = [key for key in found["programs"] if not key.startswith("seqgen")]
    heads = ["program", row.unit, "min-max", "CPU s", "peak MiB", "warm-up s"]
    heads += [f"x {key}" for key in references]
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    for key, values in found["programs"].items():
        rates = [values[name] / row.per_unit for name in ("tokens_per_s", "min", "max")]
        cells = [
            key,
            f"{rates[0]:,.4g}" if rates[0] < 1000 else f"{rates[0]:,.0f}",
            f"{rates[1]:.4g}-{rates[2]:.4g}"
            if rates[2] < 1000
            else f"{rates[1]:,.0f}-{rates[2]:,.0f}",
            f"{values['cpu_s']:.3g}",
            f"{values['peak_mib']:,.0f}",
            f"{sum(values['warmup_s']):.1f}",
            *(
                "1" if other == key else f"{found['ratios'][key][other]:.2f}"
                for other in references
            ),
        ]
        yield f"| {' | '.join(cells)} |"
    yield ""
    for text in verdicts(row, found):
        yield f"- bar: {text}"
    for key, message in found["missing"].items():
        yield f"- {key}: {message}"


def describe_machine() -> str:
    """CPU, cores and system in a line."""
    model = platform.processor() or platform.machine()
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return f"{model}, {os.cpu_count()} logical CPUs, {platform.system()} {platform.machine()}"


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
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=FOLDER, capture_output=True, text=True
    ).stdout.strip()
    peers = {f"{name} (peers)" if name in ours else name: v for name, v in theirs.items()}
    return {"seqgen": commit or "unknown", **ours, **peers}


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
            path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
            page = report(folder, versions, own_command(args))
            (folder / "README.md").write_text(page, encoding="utf-8")
        for text in [*verdicts(row, found), *found["missing"].values()]:
            print(f"  {text}", file=sys.stderr)
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
