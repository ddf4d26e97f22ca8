"""What a draft gains: lines answered one at a time with it and without, in turn.

    python benchmarks/speculation.py --workdir=RUN --draft=SMALLER --input=test.en --lines=100

Prints one JSON object: seconds of each pass (wall and CPU), the medians of lines a second and of
the ratios, one for each number of tokens that the draft proposes, and how many lines differ.
"""

import argparse
import functools
import json
import pathlib
import statistics
import sys

from in_turn import time_in_turn

import seqgen
from seqgen import building


def main() -> int:
    """Compile all, then time them in turn."""
    parser = argparse.ArgumentParser(description="Speculative decoding: drafts against none")
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--draft", type=pathlib.Path, required=True)
    parser.add_argument("--input", type=pathlib.Path, required=True)
    parser.add_argument("--lines", type=int, default=100, help="the first so many of --input")
    parser.add_argument("--num_draft_tokens", type=int, nargs="+", default=[2, 4, 8])
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--compute_dtype", default=building.SCORING_DTYPE)
    parser.add_argument("--rounds", type=int, default=6)
    arguments = parser.parse_args()
    lines = arguments.input.read_text(encoding="utf-8").splitlines()[: arguments.lines]
    given = {"compute_dtype": arguments.compute_dtype}
    alone = seqgen.load(arguments.workdir, **given)
    drafted = seqgen.load(arguments.workdir, draft=arguments.draft, **given)
    options = {"num_beams": 1, "batch_size": arguments.batch_size}
    ways = {"alone": (alone, options)} | {
        f"draft of {count}": (drafted, options | {"num_draft_tokens": count})
        for count in arguments.num_draft_tokens
    }

    def answer(name: str) -> list[str]:
        model, chosen = ways[name]
        return [hypotheses[0].text for hypotheses in model.generate(lines, **chosen)]

    answers = {name: answer(name) for name in ways}
    programs = {name: functools.partial(answer, name) for name in ways}
    passes = time_in_turn(programs, rounds=arguments.rounds)
    walls = {name: [wall for wall, _ in rows] for name, rows in passes.items()}
    result = {
        "lines": len(lines),
        "batch_size": arguments.batch_size,
        "compute_dtype": arguments.compute_dtype,
        "wall_and_cpu_seconds": passes,
        "median_lines_per_second": {
            name: len(lines) / statistics.median(seconds) for name, seconds in walls.items()
        },
        "median_ratio": {
            name: statistics.median(a / b for a, b in zip(walls["alone"], seconds, strict=True))
            for name, seconds in walls.items()
        },
        "different_lines": {
            name: sum(a != b for a, b in zip(answers["alone"], texts, strict=True))
            for name, texts in answers.items()
        },
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
