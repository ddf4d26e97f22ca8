"""How far seqgen's answers agree with CTranslate2's for the same weights, line by line.

    python benchmarks/peers/agreement.py --peers-python PYTHON --references test.de [--output FILE]

Both translate the lines of `export_run.py` in each precision. Prints one JSON object: for every
beam and precision the lines that are identical to CTranslate2's float32 answers, the largest
difference of scores on those, the gap on the others, and BLEU (sacrebleu, 13a) with its signature.
"""

import argparse
import datetime
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import sacrebleu

FOLDER = pathlib.Path(__file__).resolve().parent
OURS = {"float32": ["--dtype=float32"], "bfloat16": ["--dtype=bfloat16"], "int8": ["--int8"]}
THEIRS = {"float32": [], "int8": ["--int8"]}


def answers(python: str, program: str, words: list[str]) -> list[tuple[float, str]]:
    """Score and text of each line."""
    with tempfile.NamedTemporaryFile("r", suffix=".txt", encoding="utf-8") as file:
        command = [python, str(FOLDER / program), *words, "--write", file.name]
        subprocess.run(command, check=True, env={**os.environ})
        rows = [line.rstrip("\n").split("\t", 1) for line in file]
    return [(float(score), text) for score, text in rows]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peers-python", required=True)
    parser.add_argument("--references", type=pathlib.Path, required=True)
    parser.add_argument("--output", type=pathlib.Path)
    args = parser.parse_args()
    references = args.references.read_text(encoding="utf-8").splitlines()
    bleu = sacrebleu.BLEU()
    found: dict[str, dict] = {}
    for beam in (5, 1):
        exact = answers(args.peers_python, "translate_ct2.py", [f"--beam={beam}"])
        sides = {
            **{f"ct2 {name}": ("translate_ct2.py", words) for name, words in THEIRS.items()},
            **{f"seqgen {name}": ("translate_seqgen.py", words) for name, words in OURS.items()},
        }
        for key, (program, words) in sides.items():
            python = sys.executable if key.startswith("seqgen") else args.peers_python
            mine = answers(python, program, [f"--beam={beam}", *words])
            gaps = [(a[1] == b[1], abs(a[0] - b[0])) for a, b in zip(exact, mine, strict=True)]
            score = bleu.corpus_score([text for _, text in mine], [references])
            identical = sum(same for same, _ in gaps)
            found[f"beam {beam} {key}"] = {
                "lines": len(mine),
                "identical": identical,
                "largest_score_difference_of_identical": max(g for same, g in gaps if same),
                "score_differences_of_others": sorted(round(g, 6) for same, g in gaps if not same),
                "bleu": round(score.score, 3),
            }
            print(f"beam {beam} {key}: {identical} of {len(mine)} identical", file=sys.stderr)
    result = {
        "date": datetime.date.today().isoformat(),
        "bleu_signature": str(bleu.get_signature()),
        "command": "python benchmarks/peers/agreement.py --peers-python=PEERS_PYTHON "
        f"--references={args.references.name}",
        "answers": found,
    }
    text = json.dumps(result, indent=1) + "\n"
    if args.output:
        args.output.write_text(text, encoding="utf-8")
    print(text, end="")


if __name__ == "__main__":
    main()
