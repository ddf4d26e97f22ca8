"""Train 28 pairings of encoder and decoder on reversal, with one set of hyper-parameters.

    python scripts/reversal_pairs.py --runs=runs/reversal --output=reversal.json

Trains `configs/reverse.py:ENCODER,DECODER,ATTENTION` for each of {simple, lstm, gru, transformer}
as encoder and as decoder, recurrent decoders with Bahdanau attention and without attention, then
scores exact match on the 2,000 held-out strings. A pairing whose run is complete is not trained
again, so the program can be stopped and started. Exit code 1 if a pairing stays below 99 %.
"""

import argparse
import json
import pathlib
import sys

from seqgen import run_evaluation
from seqgen.cli.main import main as seqgen
from seqgen.training.writers import read_rows

ENCODERS = ("simple", "lstm", "gru", "transformer")
TARGET = 0.99


def pairings() -> list[str]:
    """Arguments of configs/reverse.py: 16 with attention, 12 without."""
    attending = [f"{encoder},{decoder}" for encoder in ENCODERS for decoder in ENCODERS]
    without = [
        f"{encoder},{decoder},none"
        for encoder in ENCODERS
        for decoder in ENCODERS
        if decoder != "transformer"
    ]
    return attending + without


def train_and_score(pairing: str, folder: pathlib.Path) -> dict:
    """One row of the table: the pairing, its held-out exact match and the steps it trained."""
    workdir = folder / pairing.replace(",", "_")
    code = seqgen(["train", f"--config=configs/reverse.py:{pairing}", f"--workdir={workdir}"])
    if code != 0:
        raise SystemExit(code)
    scores, _, _ = run_evaluation.evaluate(workdir, overrides={"num_beams": 1})
    return {
        "pairing": pairing,
        "exact_match": scores["exact_match"],
        "token_accuracy": scores["token_accuracy"],
        "steps": read_rows(workdir / "metrics.jsonl")[-1]["step"],
    }


def main() -> int:
    """Train what is missing, print one JSON row a pairing, and write them all."""
    parser = argparse.ArgumentParser(description="28 pairings on reversal")
    parser.add_argument("--runs", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path)
    parser.add_argument("--only", help="one pairing, such as gru,lstm,none")
    arguments = parser.parse_args()
    rows = []
    for pairing in [arguments.only] if arguments.only else pairings():
        rows.append(train_and_score(pairing, arguments.runs))
        print(json.dumps(rows[-1]), flush=True)
    if arguments.output:
        arguments.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    return 0 if all(row["exact_match"] >= TARGET for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
