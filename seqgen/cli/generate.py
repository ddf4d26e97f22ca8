"""`seqgen generate`: lines of text in, lines of text out, in order."""

import argparse
import math
import sys
from typing import Any

from seqgen.cli.arguments import add_run_arguments, add_verb, parse_checkpoint, require_run
from seqgen.cli.counter import Totals, line_counter
from seqgen.cli.evaluate import add_search_arguments, search_options
from seqgen.cli.text_files import output, read_lines

EXAMPLES = """\
echo "forty two" | seqgen generate --workdir=runs/quickstart
seqgen generate --workdir=RUN --input=test.en --output=test.hyp --num_beams=5
seqgen generate --workdir=RUN --num_beams=5 --num_return_sequences=5 --scores < test.en
seqgen generate --workdir=RUN --do_sample --temperature=0.8 --top_p=0.9 --seed=1 < test.en"""


def add_parser(verbs: Any) -> None:
    """Declare `generate`."""
    parser = add_verb(
        verbs,
        "generate",
        summary="Answer lines of text. Each input line gives num_return_sequences output lines, "
        "best first.",
        examples=EXAMPLES,
        run=run,
    )
    add_run_arguments(parser)
    parser.add_argument("--input", default="-", metavar="FILE", help="- is stdin (default)")
    parser.add_argument("--output", default="-", metavar="FILE", help="- is stdout (default)")
    add_search_arguments(parser)
    parser.add_argument(
        "--num_return_sequences", type=int, metavar="N", help="output lines for each input line"
    )
    parser.add_argument("--min_length", type=int, metavar="TOKENS", help="shortest answer")
    parser.add_argument("--max_length", type=int, metavar="TOKENS", help="longest answer")
    parser.add_argument(
        "--max_length_ratio", type=float, metavar="R", help="longest answer by source: R x tokens"
    )
    parser.add_argument(
        "--max_length_offset", type=int, metavar="TOKENS", help="... and so many more"
    )
    parser.add_argument(
        "--length_penalty_kind", metavar="KIND", help="length, wu or none (docs/decoding.md)"
    )
    parser.add_argument("--early_stopping", metavar="RULE", help="safe, first or heuristic")
    parser.add_argument(
        "--suppress_unk", action="store_const", const=True, help="never answer an unknown token"
    )
    parser.add_argument(
        "--do_sample", action="store_const", const=True, help="draw tokens instead of searching"
    )
    parser.add_argument("--temperature", type=float, metavar="T", help="sampling: flatter above 1")
    parser.add_argument("--top_k", type=int, metavar="K", help="sampling: K likeliest tokens only")
    parser.add_argument("--top_p", type=float, metavar="P", help="sampling: tokens up to mass P")
    parser.add_argument("--seed", type=int, metavar="N", help="sampling: seed of all draws")
    parser.add_argument("--batch_size", type=int, metavar="N", help="lines decoded together")
    parser.add_argument(
        "--batch_tokens", type=int, metavar="N", help="source tokens x beams decoded together"
    )
    parser.add_argument(
        "--max_source_length", type=int, metavar="TOKENS", help="longer lines are cut"
    )
    parser.add_argument(
        "--scores", action="store_true", help="put the score and a tab before each answer"
    )


_OPTIONS = (
    *("num_return_sequences", "min_length", "max_length", "max_length_ratio", "max_length_offset"),
    *("length_penalty_kind", "early_stopping", "suppress_unk", "do_sample", "temperature"),
    *("top_k", "top_p", "seed", "batch_size", "batch_tokens", "max_source_length"),
)


def run(args: argparse.Namespace) -> int:
    """Read, answer, write."""
    checkpoint = parse_checkpoint(args.checkpoint)
    workdir = require_run(args.workdir)
    options = search_options(args)
    options |= {n: getattr(args, n) for n in _OPTIONS if getattr(args, n) is not None}
    from seqgen import runs
    from seqgen.inference import one_line

    generator = runs.load(
        workdir,
        checkpoint=checkpoint,
        compute_dtype=args.compute_dtype,
        quantize=args.quantize,
        shortlist=args.shortlist,
    )
    totals = Totals()
    with (
        output(args.output) as file,
        line_counter("answered", enabled=args.output != "-") as progress,
    ):
        answers = generator.stream(read_lines(args.input), progress=progress, **options)
        for hypotheses in answers:
            # The empty answer to an empty line was not generated: it has no probability.
            totals.add(sum(len(h.ids) + 1 for h in hypotheses if not math.isnan(h.log_prob)))
            for hypothesis in hypotheses:
                score = f"{hypothesis.score:.6f}\t" if args.scores else ""
                file.write(f"{score}{one_line(hypothesis.text)}\n")
            if args.output == "-":
                file.flush()
    print(totals.line(), file=sys.stderr)
    return 0
