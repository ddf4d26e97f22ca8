"""`seqgen generate`: lines of text in, lines of text out, in order.

Of a language model the lines are prompts, and what comes out is how they go on. There a line may
hold any text: line breaks, tabs and backslashes are escaped in both directions.
"""

import argparse
import math
import sys
from typing import Any

from seqgen.cli.arguments import (
    add_answer_arguments,
    add_run_arguments,
    add_verb,
    parse_checkpoint,
    runs_of,
)
from seqgen.cli.counter import Totals, line_counter
from seqgen.cli.evaluate import add_search_arguments, search_options
from seqgen.cli.text_files import escape, output, read_lines, unescape
from seqgen.errors import ConfigError

EXAMPLES = """\
echo "forty two" | seqgen generate --workdir=runs/quickstart
seqgen generate --workdir=RUN --input=test.en --output=test.hyp --num_beams=5
seqgen generate --workdir=RUN --num_beams=5 --num_return_sequences=5 --scores < test.en
seqgen generate --workdir=RUN --do_sample --temperature=0.8 --top_p=0.9 --seed=1 < test.en
seqgen generate --workdir=RUN --do_sample --num_return_sequences=16 --mbr < test.en
seqgen generate --workdir=RUN --ensemble=RUN2,RUN3 --num_beams=5 < test.en
seqgen generate --workdir=LM --prompt='ROMEO:\\n' --do_sample --max_new_tokens=100 --stop='\\n\\n'
seqgen generate --workdir=LM --input=prompts.txt --do_sample --num_return_sequences=3"""


def add_parser(verbs: Any) -> None:
    """Declare `generate`."""
    parser = add_verb(
        verbs,
        "generate",
        summary="Answer lines of text, or go on from prompts with a language model. Each input "
        "line gives num_return_sequences output lines, best first.",
        examples=EXAMPLES,
        run=run,
    )
    add_run_arguments(parser)
    add_answer_arguments(parser)
    parser.add_argument("--input", default="-", metavar="FILE", help="- is stdin (default)")
    parser.add_argument(
        "--prompt",
        metavar="TEXT",
        help="language models: one prompt, in place of --input; the text that follows is printed "
        "as it is, several with an empty line between them",
    )
    parser.add_argument("--output", default="-", metavar="FILE", help="- is stdout (default)")
    add_decode_arguments(parser)
    parser.add_argument(
        "--scores", action="store_true", help="put the score and a tab before each answer"
    )
    parser.add_argument(
        "--mbr",
        action="store_true",
        help="of the answers to a line, put out the one nearest to all by chrF",
    )


def add_decode_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the search; what is not given stands as in the run's config."""
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
        "--max_new_tokens", type=int, metavar="TOKENS", help="language models: longest text"
    )
    parser.add_argument(
        "--stop",
        action="append",
        type=unescape,
        metavar="TEXT",
        help="language models: the text ends before TEXT (\\n is a newline); may be given again",
    )
    parser.add_argument(
        "--length_penalty_kind", metavar="KIND", help="length, wu or none (docs/decoding.md)"
    )
    parser.add_argument(
        "--num_beam_groups", type=int, metavar="G", help="diverse beam search by so many groups"
    )
    parser.add_argument(
        "--diversity_penalty", type=float, metavar="X", help="... off a logit that others just took"
    )
    parser.add_argument(
        "--coverage_penalty", type=float, metavar="BETA", help="beams: off what leaves sources out"
    )
    parser.add_argument("--early_stopping", metavar="RULE", help="safe, first or heuristic")
    parser.add_argument(
        "--suppress_unk", action="store_const", const=True, help="never answer an unknown token"
    )
    _add_rules(parser)
    parser.add_argument(
        "--do_sample", action="store_const", const=True, help="draw tokens instead of searching"
    )
    parser.add_argument("--temperature", type=float, metavar="T", help="sampling: flatter above 1")
    parser.add_argument("--top_k", type=int, metavar="K", help="sampling: K likeliest tokens only")
    parser.add_argument("--top_p", type=float, metavar="P", help="sampling: tokens up to mass P")
    parser.add_argument(
        "--min_p", type=float, metavar="P", help="sampling: tokens of P x the highest probability"
    )
    parser.add_argument(
        "--typical_p", type=float, metavar="P", help="sampling: tokens of typical surprise, mass P"
    )
    parser.add_argument(
        "--contrastive_k", type=int, metavar="K", help="contrastive search among K likeliest tokens"
    )
    parser.add_argument(
        "--penalty_alpha", type=float, metavar="A", help="... weight of unlikeness, 0 to 1"
    )
    parser.add_argument(
        "--num_draft_tokens", type=int, metavar="K", help="with --draft: proposed at once"
    )
    parser.add_argument("--seed", type=int, metavar="N", help="sampling: seed of all draws")
    parser.add_argument("--batch_size", type=int, metavar="N", help="lines decoded together")
    parser.add_argument(
        "--batch_tokens", type=int, metavar="N", help="source tokens x beams decoded together"
    )
    parser.add_argument(
        "--max_source_length", type=int, metavar="TOKENS", help="longer lines are cut"
    )


def _add_rules(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--repetition_penalty", type=float, metavar="X", help="CTRL's, at least 1; 1 is none"
    )
    parser.add_argument(
        "--frequency_penalty", type=float, metavar="X", help="off a logit each time its token came"
    )
    parser.add_argument(
        "--presence_penalty", type=float, metavar="X", help="off a logit once if its token came"
    )
    parser.add_argument(
        "--no_repeat_ngram_size", type=int, metavar="N", help="no N tokens in a row come twice"
    )
    parser.add_argument(
        "--bad_words", action="append", metavar="TEXT", help="never answer it; once for each"
    )
    parser.add_argument(
        "--required_words",
        action="append",
        metavar="TEXT",
        help="every answer holds it (needs beams); once for each",
    )
    parser.add_argument("--forced_prefix", metavar="TEXT", help="every answer begins with it")
    parser.add_argument(
        "--stop_token_ids",
        type=_token_ids,
        metavar="IDS",
        help="target ids, as 5,7, that end an answer",
    )


def _token_ids(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


_OPTIONS = (
    *(
        "max_new_tokens",
        "stop",
        "num_return_sequences",
        "min_length",
        "max_length",
        "max_length_ratio",
        "max_length_offset",
    ),
    *("length_penalty_kind", "early_stopping", "suppress_unk", "do_sample", "temperature"),
    *("repetition_penalty", "frequency_penalty", "presence_penalty", "no_repeat_ngram_size"),
    *("bad_words", "required_words", "forced_prefix", "stop_token_ids", "min_p", "typical_p"),
    *("num_beam_groups", "diversity_penalty", "coverage_penalty"),
    *("contrastive_k", "penalty_alpha", "num_draft_tokens"),
    *("top_k", "top_p", "seed", "batch_size", "batch_tokens", "max_source_length"),
)


def decode_options(args: argparse.Namespace) -> dict[str, Any]:
    """The options of the search that were given."""
    given = {name: getattr(args, name) for name in _OPTIONS if getattr(args, name) is not None}
    return search_options(args) | given


def run(args: argparse.Namespace) -> int:
    """Read, answer, write."""
    checkpoint = parse_checkpoint(args.checkpoint)
    workdirs, companions = runs_of(args)
    options = decode_options(args)
    from seqgen import loading
    from seqgen.filling import Filler
    from seqgen.texts import one_line

    generator = loading.load(
        workdirs,
        checkpoint=checkpoint,
        compute_dtype=args.compute_dtype,
        quantize=args.quantize,
        shortlist=args.shortlist,
        **companions,
    )
    if isinstance(generator, Filler):
        generator.generate()  # says what to do instead
    lines, write = read_lines(args.input), one_line
    if generator.reads_prompts:
        lines, write = map(unescape, lines), escape
    if args.prompt is not None:
        if not generator.reads_prompts or args.input != "-":
            raise ConfigError(
                "--prompt is one prompt of a language model",
                details=["else           --input=FILE, or lines on stdin"],
            )
        lines, write = iter([unescape(args.prompt)]), str
    between = "\n" if write is str else ""
    num_answers = generator.decode_config.replace(**options).num_return_sequences
    if args.mbr and num_answers < 2:
        raise ConfigError(
            "--mbr chooses among several answers",
            details=["add            --do_sample --num_return_sequences=16"],
        )
    totals = Totals()
    with (
        output(args.output) as file,
        line_counter("answered", enabled=args.output != "-") as progress,
    ):
        answers = generator.stream(lines, progress=progress, **options)
        for hypotheses in answers:
            # The empty answer to an empty line was not generated: it has no probability.
            asked = [h for h in hypotheses if not math.isnan(h.log_prob)]
            totals.add(sum(len(h.ids) + (h.finish_reason != "length") for h in asked))
            if args.mbr:
                from seqgen.evaluation.minimum_bayes_risk import choose

                hypotheses = [hypotheses[choose([answer.text for answer in hypotheses])]]
            for number, hypothesis in enumerate(hypotheses):
                score = f"{hypothesis.score:.6f}\t" if args.scores else ""
                file.write(f"{between if number else ''}{score}{write(hypothesis.text)}\n")
            if args.output == "-":
                file.flush()
    print(totals.line(), file=sys.stderr)
    return 0
