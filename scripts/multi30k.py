"""Train and report the Multi30k English-German models of the README.

    python scripts/multi30k.py train transformer-tiny --data=DIR --runs=runs
    python scripts/multi30k.py report --data=DIR --runs=runs \
        --output=benchmarks/results/multi30k

`train` is `seqgen train` with the config of that name (the same command resumes it). `report`
scores every run it finds (and has not scored before) on val and on test_2016_flickr with beam 5 and
the mean of the last ten checkpoints, and writes scores with signatures, BLEU by length, learning
curves, twenty sample translations and the answers to odd lines. A report of a run that went on
since may be kept in OUTPUT/earlier: it gets a row. The corpus may not be redistributed; get it from
github.com/multi30k/dataset (data/task1/raw) as train.en[.gz], val.en, test_2016_flickr.en, ...de.
"""

import argparse
import contextlib
import csv
import io
import json
import pathlib
import sys
from typing import Any

from seqgen.cli.main import main as seqgen
from seqgen.runs import Run
from seqgen.training.writers import read_rows, total_step_seconds

MODELS = {
    "transformer-tiny": "transformer_tiny",
    "gru-bahdanau": "gru_bahdanau",
    "lstm": "lstm",
}
CHECKPOINT = "avg:10"
NUM_BEAMS = 5
NUM_SAMPLES = 20
LENGTH_EDGES = "8,11,14,17,21"


def call(*words: str) -> str:
    """Run a seqgen verb in this process; its standard output.

    Raises:
      SystemExit: with the verb's exit code, if that is not 0.
    """
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = seqgen(list(words))
    if code:
        raise SystemExit(code)
    return printed.getvalue()


def train(name: str, *, data: pathlib.Path, runs: pathlib.Path, overrides: list[str]) -> None:
    """Start or resume the run of a model."""
    words = [
        f"--config=configs/translation/{MODELS[name]}.py",
        f"--config.data.dir={data}",
        f"--workdir={runs / f'multi30k-{name}'}",
        *overrides,
    ]
    print("seqgen train " + " ".join(words), file=sys.stderr)
    raise SystemExit(seqgen(["train", *words]))


def odd_lines(data: pathlib.Path) -> dict[str, str]:
    """Inputs unlike anything in training."""
    test = (data / "test_2016_flickr.en").read_text(encoding="utf-8").splitlines()
    train_words = 37  # of the longest English training sentence
    long = " ".join(test).split()[: 4 * train_words]
    return {
        "four times the longest training sentence": " ".join(long),
        "an empty line": "",
        "another script": "Собака бежит по траве. 犬が草の上を走っている。",
    }


def report_run(name: str, workdir: pathlib.Path, data: pathlib.Path) -> dict[str, Any]:
    """All that is said about one run."""
    common = [
        f"--workdir={workdir}",
        f"--checkpoint={CHECKPOINT}",
        f"--num_beams={NUM_BEAMS}",
        "--json",
    ]
    hypotheses = workdir / "test_2016_flickr.hyp.de"
    test = json.loads(
        call(
            "evaluate",
            *common,
            "--split=test",
            "--three_ways",
            f"--by_length={LENGTH_EDGES}",
            f"--output={hypotheses}",
        )
    )
    val = json.loads(call("evaluate", *common, "--split=val", "--three_ways"))
    run = Run.open(workdir)
    generator = run.generator(run.params(CHECKPOINT))
    odd = odd_lines(data)
    answers = generator.generate(list(odd.values()), num_beams=NUM_BEAMS)
    rows = read_rows(workdir / "metrics.jsonl")
    sides = [
        (data / f"test_2016_flickr.{lang}").read_text(encoding="utf-8").splitlines()
        for lang in ("en", "de")
    ]
    written = hypotheses.read_text(encoding="utf-8").splitlines()
    samples = list(zip(*sides, written, strict=True))
    overrides = (workdir / "overrides.txt").read_text(encoding="utf-8")
    steps = json.loads((workdir / "STATUS").read_text(encoding="utf-8"))["step"]
    return {
        "model": name,
        "parameters": run.definition.num_parameters,
        "steps": steps,
        "seed": run.config.train.seed,
        "command": " ".join(["seqgen train", *overrides.splitlines()]),
        "compute_dtype": run.config.train.compute_dtype,
        "train_seconds": round(total_step_seconds(rows), 1),
        "checkpoint": CHECKPOINT,
        "num_beams": NUM_BEAMS,
        "environment": json.loads((workdir / "env.json").read_text(encoding="utf-8")),
        "test": test,
        "val": val,
        "odd_inputs": [
            {"what": what, "input": text, "output": found[0].text}
            for (what, text), found in zip(odd.items(), answers, strict=True)
        ],
        "samples": [
            {"source": s, "reference": r, "hypothesis": h}
            for s, r, h in samples[:: len(samples) // NUM_SAMPLES][:NUM_SAMPLES]
        ],
    }


def write_curves(workdir: pathlib.Path, path: pathlib.Path) -> None:
    """Loss and validation scores against steps, as CSV."""
    names = ["step", "train/loss", "lr", "grad_norm", "eval/loss", "eval/bleu", "eval/chrf"]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, extrasaction="ignore", restval="")
        writer.writeheader()
        writer.writerows(read_rows(workdir / "metrics.jsonl"))


def markdown(reports: list[dict[str, Any]], earlier: list[dict[str, Any]]) -> str:
    """The report for people; of `earlier` ones, of runs that went on, the scores alone."""
    lines = [
        "# Multi30k English-German",
        "",
        "Trained by `python scripts/multi30k.py train MODEL`, written by `... report`; all numbers",
        f"are in the JSON files. Checkpoint {CHECKPOINT}, beam {NUM_BEAMS}. `Moses` is the custom",
        "of the published anchor: lower-cased Moses tokens, tokenize=none. Test is",
        "test_2016_flickr. Cores and minutes are those of the steps, whatever ran beside them.",
        "",
        "| model | parameters | updates | Moses | 13a lower | 13a | val 13a | chrF | ended (UTC) "
        "| cores | minutes |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for report in [*reports, *earlier]:
        ways = report["test"]["three_ways"]
        ended = report["status"]["updated"][:16].replace("T", " ")
        lines.append(
            f"| {report['model']} | {report['parameters'] / 1e6:.2f} M | {report['steps']:,} "
            f"| {ways['moses_lowercase']['bleu']:.2f} | {ways['13a_lowercase']['bleu']:.2f} "
            f"| {ways['13a_cased']['bleu']:.2f} | {report['val']['bleu']:.2f} "
            f"| {report['test']['chrf']:.2f} | {ended} | {report['environment']['cpus']} "
            f"| {report['train_seconds'] / 60:.0f} |"
        )
    ways = reports[0]["test"]["three_ways"]
    lines += ["", *(f"- {name}: `{way['signature']}`" for name, way in ways.items())]
    lines += ["", "## BLEU (13a) by length of the source in words", ""]
    groups = reports[0]["test"]["by_length"]
    spans = [f"{row['min_words']}-{row['max_words']}" for row in groups]
    lines += ["| model | " + " | ".join(spans) + " |", "|---" * (len(spans) + 1) + "|"]
    counts = " | ".join(str(row["examples"]) for row in groups)
    lines.append(f"| sentences | {counts} |")
    for report in reports:
        cells = " | ".join(f"{row['bleu']:.2f}" for row in report["test"]["by_length"])
        lines.append(f"| {report['model']} | {cells} |")
    lines += ["", "## Lines unlike any in training", ""]
    for report in reports:
        lines.append(f"**{report['model']}**")
        lines += ["", *(f"- {row['what']}: {row['output']!r}" for row in report["odd_inputs"]), ""]
    lines += ["## Twenty samples", ""]
    for number, sample in enumerate(reports[0]["samples"]):
        lines += [f"{number + 1}. {sample['source']}", f"   - reference: {sample['reference']}"]
        lines += [f"   - {r['model']}: {r['samples'][number]['hypothesis']}" for r in reports]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Parse and do."""
    parser = argparse.ArgumentParser(description="Multi30k: train, report")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("train", "report"):
        sub = verbs.add_parser(verb)
        sub.add_argument("--data", type=pathlib.Path, required=True)
        sub.add_argument("--runs", type=pathlib.Path, required=True)
        if verb == "train":
            sub.add_argument("model", choices=MODELS)
        else:
            sub.add_argument("--output", type=pathlib.Path, required=True)
    arguments, rest = parser.parse_known_args()
    if arguments.verb == "train":
        train(arguments.model, data=arguments.data, runs=arguments.runs, overrides=rest)
    arguments.output.mkdir(parents=True, exist_ok=True)
    reports = []
    for name in MODELS:
        workdir = arguments.runs / f"multi30k-{name}"
        if not (workdir / "checkpoints").is_dir():
            print(f"no run of {name} in {workdir}", file=sys.stderr)
            continue
        path = arguments.output / f"{name}.json"
        status = json.loads((workdir / "STATUS").read_text(encoding="utf-8"))
        if path.is_file() and (old := json.loads(path.read_text("utf-8")))["status"] == status:
            reports.append(old)
            continue
        reports.append({**report_run(name, workdir, arguments.data), "status": status})
        text = json.dumps(reports[-1], indent=1, ensure_ascii=False, allow_nan=False)
        path.write_text(text + "\n", encoding="utf-8")
        write_curves(workdir, arguments.output / f"{name}.csv")
        print(f"{name}: {reports[-1]['test']['three_ways']}", file=sys.stderr)
    if not reports:
        raise SystemExit(f"no runs in {arguments.runs}: train them first")
    kept = sorted((arguments.output / "earlier").glob("*.json"))
    earlier = [json.loads(path.read_text(encoding="utf-8")) for path in kept]
    text = markdown(reports, earlier)
    (arguments.output / "README.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
