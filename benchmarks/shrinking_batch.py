"""What a search gains whose batch shrinks as sentences finish: a whole file, A against B in turn.

    python benchmarks/shrinking_batch.py --workdir=RUN --input=test.en --num_beams=5

Prints one JSON object: seconds of each pass (wall and CPU) with and without shrinking, the median
ratio, and how many of the answers differ.
"""

import argparse
import json
import pathlib
import statistics
import sys
import time
from unittest import mock

from seqgen import runs
from seqgen.decoding import shrinking


def main() -> int:
    """Compile both, then time them in turn."""
    parser = argparse.ArgumentParser(description="Shrinking batches: on against off")
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--input", type=pathlib.Path, required=True)
    parser.add_argument("--num_beams", type=int, default=5)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=6)
    arguments = parser.parse_args()
    lines = arguments.input.read_text(encoding="utf-8").splitlines()
    options = {"num_beams": arguments.num_beams, "batch_size": arguments.batch_size}
    sizes = {"fixed": lambda batch: (batch,), "shrinking": shrinking.batch_sizes}
    run = runs.Run.open(arguments.workdir)
    generators, answers, passes = {}, {}, {name: [] for name in sizes}
    for name, choose in sizes.items():
        generators[name] = run.generator(run.params())
        with mock.patch.object(shrinking, "batch_sizes", choose):
            found = generators[name].generate(lines, **options)
        answers[name] = [hypotheses[0].text for hypotheses in found]
        print(f"{name}: compiled", file=sys.stderr)
    for number in range(arguments.rounds):
        for name, generator in generators.items():
            wall, cpu = time.perf_counter(), time.process_time()
            generator.generate(lines, **options)
            passes[name].append((time.perf_counter() - wall, time.process_time() - cpu))
        print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr)
    ratios = [old[1] / new[1] for old, new in zip(passes["fixed"], passes["shrinking"])]
    print(
        json.dumps(
            {
                "lines": len(lines),
                **options,
                "wall_and_cpu_seconds": passes,
                "median_cpu_ratio": statistics.median(ratios),
                "different_answers": sum(map(str.__ne__, answers["fixed"], answers["shrinking"])),
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
