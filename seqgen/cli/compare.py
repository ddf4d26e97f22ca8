"""`seqgen compare`: says whether run B is better than run A, or chance explains it."""

import argparse
import dataclasses
import json
import pathlib
from typing import Any

from seqgen.cli.arguments import add_verb, parse_checkpoint, require_run
from seqgen.cli.counter import line_counter
from seqgen.cli.evaluate import add_search_arguments, search_options
from seqgen.errors import ConfigError

# As evaluation.config.COMPARED_METRICS, whose import would make --help slow.
METRICS = ("bleu", "chrf", "ter", "exact_match", "rouge1", "rouge2", "rougeL", "rougeLsum")
EXAMPLES = """\
seqgen compare runs/lstm runs/transformer
seqgen compare runs/a runs/b --split=val --metric=chrf --num_beams=5"""


def add_parser(verbs: Any) -> None:
    """Declare `compare`."""
    parser = add_verb(
        verbs,
        "compare",
        summary="Decode a split with two runs and compare them by paired bootstrap resampling.",
        examples=EXAMPLES,
        run=run,
    )
    parser.add_argument("run_a", type=pathlib.Path, metavar="RUN_A", help="a run directory")
    parser.add_argument("run_b", type=pathlib.Path, metavar="RUN_B", help="another")
    parser.add_argument("--split", default="test", help="file stem (default test)")
    parser.add_argument("--metric", default="bleu", choices=METRICS, help="score (default bleu)")
    parser.add_argument("--checkpoint", default="best", metavar="best|last|avg:N|STEP")
    add_search_arguments(parser)
    parser.add_argument("--draws", type=int, default=1000, metavar="N", help="bootstrap draws")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the draws")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Decode twice, resample, print."""
    checkpoint = parse_checkpoint(args.checkpoint)
    if args.draws < 100:
        raise ConfigError(f"--draws={args.draws} is too few for an interval; take 100 or more")
    folders = [require_run(args.run_a), require_run(args.run_b)]
    from seqgen import config, run_evaluation
    from seqgen.evaluation import significance
    from seqgen.evaluation.references import references_of

    options = search_options(args)
    configs = [config.read_json(path / "config.json") for path in folders]
    for path, cfg in zip(folders, configs):
        if cfg.data.contiguous or cfg.data.labelled:
            kind = "tells labels" if cfg.data.labelled else "is a run of text without sources"
            raise ConfigError(
                f"{path} {kind}: there are no answers to compare",
                details=["its figures    seqgen evaluate --workdir=RUN --split=val"],
            )
    results = []
    for path in folders:
        with line_counter(f"{path}: decoded") as progress:
            results.append(
                run_evaluation.evaluate(
                    path,
                    split=args.split,
                    checkpoint=checkpoint,
                    overrides=options,
                    progress=progress,
                )
            )
    (report, examples, hypotheses_a), (_, examples_b, hypotheses_b) = results
    if examples != examples_b:
        raise ConfigError(
            f"split {args.split} is not the same text in both runs",
            details=[f"{path}: {len(found[1])} examples" for path, found in zip(folders, results)],
        )
    rules = configs[0].evaluation
    comparison = significance.paired_bootstrap(
        hypotheses_a,
        hypotheses_b,
        [references_of(example) for example in examples],
        metric=args.metric,
        num_draws=args.draws,
        seed=args.seed,
        rules=rules,
    )
    names = _names(folders, [cfg.name for cfg in configs])
    said = significance.verdict(comparison, name_a=names[0], name_b=names[1])
    if args.json:
        facts = {"run_a": str(folders[0]), "run_b": str(folders[1]), "split": report["split"]}
        facts |= dataclasses.asdict(comparison)
        print(json.dumps({**facts, "is_real": comparison.is_real, "verdict": said}))
        return 0
    width = max(*map(len, names), len("difference"))
    rows = zip([*names, "difference"], (comparison.a, comparison.b, comparison.difference))
    print(f"{args.metric} on {report['split']}, {comparison.num_examples} examples")
    for name, row in rows:
        sign = "+" if name == "difference" else ""
        digits = 4 if args.metric == "exact_match" else 2
        values = [f"{value:{sign}.{digits}f}" for value in (row.score, row.low, row.high)]
        print(f"{name:<{width}}  {values[0]:>7}   95 % {values[1]}..{values[2]}")
    print(said)
    print(f"paired bootstrap, {args.draws} draws, seed {args.seed}; {comparison.signature}")
    return 0


def _names(folders: list[pathlib.Path], given: list[str]) -> list[str]:
    """What to call two runs: by config, else by directory, else by path: the first that differ."""
    for names in (given, [path.resolve().name for path in folders]):
        if all(names) and names[0] != names[1]:
            return names
    return [str(path) for path in folders]
