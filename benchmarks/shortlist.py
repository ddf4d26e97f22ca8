"""What a vocabulary shortlist gains and costs: a whole file with it and without, in turn.

    python benchmarks/shortlist.py --workdir=RUN --input=test.en --reference=test.de \
        --shortlist=50 --num_beams=5

Prints one JSON object: seconds of each pass (wall and CPU), the medians of lines a second and of
the ratio, candidates a batch, BLEU of both with its signature, and the share of lines that differ.
"""

import argparse
import dataclasses
import functools
import json
import pathlib
import statistics
import sys
import time

import numpy as np
from in_turn import time_in_turn

from seqgen import building, runs
from seqgen.cli.arguments import parse_checkpoint
from seqgen.decoding.shortlist import Candidates, Shortlist
from seqgen.evaluation.scores import corpus_scores
from seqgen.types import Sequences


@dataclasses.dataclass(frozen=True, eq=False)
class Recorded(Shortlist):
    """A shortlist that notes how many places (padding included) each batch was given."""

    widths: list[int] = dataclasses.field(default_factory=list)

    def candidates(self, source: Sequences) -> Candidates:
        found = super().candidates(source)
        self.widths.append(len(found.ids))
        return found


def main() -> int:
    """Learn the shortlist, compile both, then time them in turn."""
    parser = argparse.ArgumentParser(description="Vocabulary shortlist: on against off")
    parser.add_argument("--workdir", type=pathlib.Path, required=True)
    parser.add_argument("--checkpoint", default="best", help="as of `seqgen generate`")
    parser.add_argument("--input", type=pathlib.Path, required=True)
    parser.add_argument("--reference", type=pathlib.Path, required=True)
    parser.add_argument("--shortlist", type=int, default=50)
    parser.add_argument("--num_beams", type=int, default=5)
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--compute_dtype", default=building.SCORING_DTYPE)
    parser.add_argument("--quantize", default="none", choices=runs.QUANTIZATIONS)
    parser.add_argument("--rounds", type=int, default=6)
    arguments = parser.parse_args()
    lines, references = (
        path.read_text(encoding="utf-8").splitlines()
        for path in (arguments.input, arguments.reference)
    )
    options = {"num_beams": arguments.num_beams, "batch_size": arguments.batch_size}
    run = runs.Run.open(arguments.workdir, compute_dtype=arguments.compute_dtype)
    params = run.params(parse_checkpoint(arguments.checkpoint))
    start = time.perf_counter()
    found = run.shortlist(arguments.shortlist)
    learning = time.perf_counter() - start
    assert found is not None, "--shortlist=0 is what it is compared with"
    shortlist = Recorded(found.table, found.always, found.vocab_size)
    generators, answers = {}, {}
    for name, cut in {"whole": None, "shortlist": shortlist}.items():
        generators[name] = run.generator(params, quantize=arguments.quantize, shortlist=cut)
        found = generators[name].generate(lines, **options)
        answers[name] = [hypotheses[0].text for hypotheses in found]
        print(f"{name}: compiled", file=sys.stderr)
    widths = shortlist.widths[:]
    programs = {
        name: functools.partial(generator.generate, lines, **options)
        for name, generator in generators.items()
    }
    passes = time_in_turn(programs, rounds=arguments.rounds)
    walls = {name: [wall for wall, _ in rows] for name, rows in passes.items()}
    ratios = [old / new for old, new in zip(walls["whole"], walls["shortlist"])]
    scores = {
        name: corpus_scores(texts, references, metrics=("bleu",)) for name, texts in answers.items()
    }
    result = {
        "lines": len(lines),
        "vocabulary": shortlist.vocab_size,
        "shortlist": arguments.shortlist,
        "compute_dtype": arguments.compute_dtype,
        "quantize": arguments.quantize,
        **options,
        "seconds_to_learn_or_load": learning,
        "candidates_a_batch": {"median": statistics.median(widths), "most": max(widths)},
        "wall_and_cpu_seconds": passes,
        "median_lines_per_second": {
            name: len(lines) / statistics.median(seconds) for name, seconds in walls.items()
        },
        "median_ratio": statistics.median(ratios),
        "scores": scores,
        "share_of_different_lines": float(
            np.mean([a != b for a, b in zip(answers["whole"], answers["shortlist"])])
        ),
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
