"""`seqgen fill`: text with hidden tokens in, their likeliest candidates out.

A line may hold any text: line breaks, tabs and backslashes are escaped in both directions.
"""

import argparse
import collections
import json
from collections.abc import Iterator
from typing import Any

from seqgen.cli.arguments import add_run_arguments, add_verb, parse_checkpoint, require_run
from seqgen.cli.text_files import escape, output, read_lines, unescape
from seqgen.errors import ConfigError

EXAMPLES = """\
seqgen fill --workdir=runs/bert_small --text='The [MASK] sleeps on the [MASK].'
echo 'She plays the <?> .' | seqgen fill --workdir=RUN --mark='<?>' --top_k=3
seqgen fill --workdir=RUN --input=lines.txt --json"""


def add_parser(verbs: Any) -> None:
    """Declare `fill`."""
    parser = add_verb(
        verbs,
        "fill",
        summary="Fill the hidden tokens of text with a masked language model's likeliest "
        "candidates: probability, token, and the text with it. Several marks of a line are filled "
        "apart from each other, each with the others hidden.",
        examples=EXAMPLES,
        run=run,
    )
    add_run_arguments(parser)
    parser.add_argument("--input", default="-", metavar="FILE", help="- is stdin (default)")
    parser.add_argument("--text", metavar="TEXT", help="one text, in place of --input")
    parser.add_argument("--output", default="-", metavar="FILE", help="- is stdout (default)")
    parser.add_argument(
        "--top_k", type=int, default=5, metavar="K", help="candidates for each mark (default 5)"
    )
    parser.add_argument(
        "--mark",
        default="[MASK]",
        metavar="TEXT",
        help="how a hidden token is written (default [MASK])",
    )
    parser.add_argument("--json", action="store_true", help="write one object for each line")


def run(args: argparse.Namespace) -> int:
    """Read, fill, write."""
    checkpoint = parse_checkpoint(args.checkpoint)
    workdir = require_run(args.workdir)
    if args.text is not None and args.input != "-":
        raise ConfigError("--text is one text, and --input a file of them: give one of the two")
    from seqgen import loading
    from seqgen.filling import Filler

    model = loading.load(
        workdir,
        checkpoint=checkpoint,
        compute_dtype=args.compute_dtype,
        quantize=args.quantize,
    )
    if not isinstance(model, Filler):
        model.fill()  # says what to do instead
    lines = read_lines(args.input) if args.text is None else iter([args.text])
    asked: collections.deque[str] = collections.deque()

    def texts() -> Iterator[str]:
        for line in lines:
            asked.append(unescape(line))
            yield asked[-1]

    found = model.fill_stream(texts(), top_k=args.top_k, mark=args.mark)
    with output(args.output) as file:
        for number, marks in enumerate(found):
            text = asked.popleft()
            if args.json:
                file.write(_object(text, marks) + "\n")
            else:
                file.write("\n" if number else "")
                file.writelines(
                    f"{c.probability:.4f}\t{escape(c.token)}\t{escape(c.text)}\n"
                    for candidates in marks
                    for c in candidates
                )
    return 0


def _object(text: str, marks: list[list[Any]]) -> str:
    """One line of `--json`."""
    candidates = [
        [
            {"token": c.token, "id": c.id, "probability": c.probability, "text": c.text}
            for c in candidates
        ]
        for candidates in marks
    ]
    return json.dumps({"text": text, "marks": candidates}, ensure_ascii=False)
