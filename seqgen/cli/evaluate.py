"""`seqgen evaluate`: scores a finished run on a split."""

import argparse
import contextlib
import json
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
from seqgen.cli.counter import line_counter
from seqgen.cli.text_files import output
from seqgen.errors import ConfigError

EXAMPLES = """\
seqgen evaluate --workdir=runs/quickstart
seqgen evaluate --workdir=runs/quickstart --split=val --checkpoint=avg:5 --num_beams=5 --json
seqgen evaluate --workdir=runs/quickstart --by_length --output=hypotheses.txt"""


def add_parser(verbs: Any) -> None:
    """Declare `evaluate`."""
    parser = add_verb(
        verbs,
        "evaluate",
        summary="Score a finished run: loss, perplexity, token accuracy, exact match, BLEU, chrF, "
        "TER, and the metrics of its config; of a language model on plain text, bits per byte; of "
        "a classifier or tagger, accuracy and F1.",
        examples=EXAMPLES,
        run=run,
    )
    add_run_arguments(parser)
    add_answer_arguments(parser)
    parser.add_argument(
        "--split",
        help="file stem such as val or test_2016; test = the only test split (default test, or val "
        "where there is none)",
    )
    parser.add_argument(
        "--data_dir", metavar="DIR", help="where the corpus is now, if it was moved since training"
    )
    add_search_arguments(parser)
    parser.add_argument(
        "--metrics",
        default="",
        metavar="NAMES",
        help="also these scores, as rouge1,rougeL,novel2 (see docs/evaluation.md)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--output", metavar="FILE", help="write the hypotheses, one a line")
    parser.add_argument(
        "--by_length",
        nargs="?",
        const="",
        metavar="EDGES",
        help="also scores by source length; EDGES such as 5,10,20 (words, or characters of text "
        "without spaces), else equal groups",
    )
    parser.add_argument(
        "--three_ways",
        action="store_true",
        help="also BLEU lower-cased, and on lower-cased Moses tokens (needs sacremoses)",
    )


def add_search_arguments(parser: argparse.ArgumentParser) -> None:
    """Beam options; what is not given stands as in the run's config."""
    parser.add_argument("--num_beams", type=int, metavar="K", help="beams; 1 is greedy")
    parser.add_argument(
        "--length_penalty", type=float, metavar="ALPHA", help="above 0 favours long answers"
    )


def search_options(args: argparse.Namespace) -> dict[str, Any]:
    """The beam options that were given."""
    names = ("num_beams", "length_penalty")
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def beam_facts(cfg: Any, options: dict[str, Any]) -> dict[str, Any]:
    """The options of the search that matter for a score, as they were in force."""
    decode = cfg.decode.replace(**options)
    return {"num_beams": decode.num_beams, "length_penalty": decode.length_penalty}


def run(args: argparse.Namespace) -> int:
    """Evaluate and print."""
    checkpoint = parse_checkpoint(args.checkpoint)
    edges = _edges(args.by_length)
    metrics = [name for name in args.metrics.split(",") if name]
    workdirs, companions = runs_of(args)
    from seqgen import config, run_evaluation
    from seqgen.evaluation import by_length, scores, table
    from seqgen.evaluation.references import references_of

    cfg = config.read_json(workdirs[0] / "config.json")
    options = search_options(args)
    run_evaluation.check_decodes(cfg, _of_answers(args, labelled=cfg.data.labelled))
    if args.three_ways:  # what may fail fails before the work is done
        scores.require_moses()
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(output(args.output)) if args.output else None
        with line_counter("decoded") as progress:
            report, examples, hypotheses = run_evaluation.evaluate(
                workdirs,
                split=args.split,
                checkpoint=checkpoint,
                overrides=options,
                metrics=metrics,
                data_dir=args.data_dir,
                compute_dtype=args.compute_dtype,
                quantize=args.quantize,
                shortlist=args.shortlist,
                progress=progress,
                **companions,
            )
        if file is not None:
            file.writelines(line + "\n" for line in hypotheses)
    facts = {
        "run": cfg.name,
        "checkpoint": checkpoint,
        "compute_dtype": args.compute_dtype,
        "quantize": args.quantize,
        "shortlist": args.shortlist,
    }
    if len(workdirs) > 1:
        facts["ensemble"] = [str(path) for path in workdirs]
        facts["ensemble_mean"] = args.ensemble_mean or "probs"
    if args.draft is not None:
        facts["draft"] = str(args.draft)
    if not (cfg.data.contiguous or cfg.data.labelled):
        facts |= beam_facts(cfg, options)
    result = {**report, **facts}
    references = [references_of(example) for example in examples]
    if args.three_ways:
        result["three_ways"] = scores.bleu_three_ways(
            hypotheses, references, lang=cfg.data.target_lang
        )
    if edges is not None:
        sources = [example["source"] for example in examples]
        result["by_length"] = by_length.scores_by_length(
            sources, hypotheses, references, edges=edges, rules=cfg.evaluation
        )
    if args.json:
        print(json.dumps(_strict(result), allow_nan=False))
        return 0
    groups = result.pop("by_length", None)
    ways = result.pop("three_ways", {})
    spans = result.pop("intervals", {})  # text without sources has none
    rows = []
    for name, value in _flat(result):
        text = table.format_value(name, value) if type(value) is float else str(value)
        rows.append((name, text + table.format_interval(name, spans.get(name))))
    for name, row in ways.items():
        rows.append((f"bleu {name}", f"{row['bleu']:.2f}  {row['signature']}"))
    width = max(len(name) for name, _ in rows)
    print("\n".join(f"{name:<{width}}  {value}" for name, value in rows))
    if groups is not None:
        print("\n" + "\n".join(table.length_table(groups)))
    if args.output and args.output != "-":
        print(f"hypotheses: {args.output}", file=sys.stderr)
    return 0


def _flat(result: dict[str, Any]) -> list[tuple[str, Any]]:
    """The values, those by label each under a name of its own."""
    rows = []
    for name, value in result.items():
        inner = value.items() if isinstance(value, dict) else [("", value)]
        rows += [(f"{name} {key}".rstrip(), one) for key, one in inner]
    return rows


def _of_answers(args: argparse.Namespace, *, labelled: bool) -> list[str]:
    """Which options about decoded lines are given; labels are written as answers are."""
    names = ("num_beams", "length_penalty", "shortlist", "draft", "by_length", "three_ways")
    given = [f"--{name}" for name in names if getattr(args, name) not in (None, False)]
    others = ("metrics", "ensemble" if labelled else "output")
    given += [f"--{name}" for name in others if getattr(args, name)]
    return given + ([] if args.quantize == "none" else [f"--quantize={args.quantize}"])


def _strict(result: dict[str, Any]) -> dict[str, Any]:
    """`result` as strict JSON takes it: a non-finite value is null, and `non_finite` names it."""
    bad = [k for k, v in result.items() if isinstance(v, float) and not math.isfinite(v)]
    return {**result, **dict.fromkeys(bad), **({"non_finite": bad} if bad else {})}


def _edges(text: str | None) -> list[int] | None:
    if text is None:
        return None
    try:
        edges = [int(part) for part in text.split(",")] if text else []
    except ValueError:
        edges = [0]
    if any(edge < 1 for edge in edges):
        raise ConfigError(f"bad --by_length={text}", details=["it takes       lengths, as 5,10,20"])
    return edges
