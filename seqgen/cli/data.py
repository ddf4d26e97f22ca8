"""`seqgen data check`: is this parallel corpus fit for training, and a clean copy if it is not."""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

from seqgen.cli.arguments import add_verb
from seqgen.errors import DataError, StorageError

EXAMPLES = """\
seqgen data check --dir=corpus --source_lang=en --target_lang=de
seqgen data check --dir=corpus --source_lang=en --target_lang=de --fix=clean --report=report.json"""


def add_parser(subparsers: Any) -> None:
    """Declare `data` and its verbs."""
    parser = subparsers.add_parser(
        "data",
        help="check a directory of parallel text",
        description="Check a directory of parallel text, and mend it.",
        examples=EXAMPLES,
    )
    check = add_verb(
        parser.add_subparsers(dest="data_verb", metavar="VERB", required=True),
        "check",
        summary="Report what is wrong with a parallel corpus; write a clean copy with --fix. Exit "
        "code 0: fit for training, perhaps with warnings; 2: training would stop on it. With --fix "
        "the code speaks of the clean copy.",
        examples=EXAMPLES,
        run=run,
    )
    check.add_argument(
        "--dir", required=True, type=Path, help="holds <split>.<language> or <split>.<language>.gz"
    )
    check.add_argument(
        "--source_lang", default="en", metavar="LANG", help="source file ending (default en)"
    )
    check.add_argument(
        "--target_lang", default="de", metavar="LANG", help="target file ending (default de)"
    )
    check.add_argument(
        "--fix", type=Path, metavar="OUT", help="write a clean copy and ledger.jsonl to OUT"
    )
    check.add_argument("--json", action="store_true", help="print the report as JSON")
    check.add_argument("--report", type=Path, metavar="FILE", help="write it as JSON to FILE too")
    check.add_argument(
        "--max_line_bytes",
        type=int,
        default=1 << 16,
        metavar="N",
        help="longer lines count as defects (default %(default)s)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Check, mend if asked to, print; the exit code."""
    # numpy comes with these: imported late, so that --help answers at once.
    from seqgen.data import doctor, repair

    if arguments.max_line_bytes < 1:
        raise DataError(f"--max_line_bytes={arguments.max_line_bytes} permits no line")
    langs = {"source_lang": arguments.source_lang, "target_lang": arguments.target_lang}
    if arguments.report and arguments.report.resolve().parent == arguments.dir.resolve():
        raise DataError(
            f"the report would be written into the input directory {arguments.dir}",
            details=["name a file elsewhere:  --report=FILE"],
        )
    checks = doctor.examine(
        arguments.dir,
        **langs,
        max_line_bytes=arguments.max_line_bytes,
        talk=lambda text: print(text, file=sys.stderr),
    )
    report = doctor.report_of(checks, arguments.dir, **langs)
    if arguments.fix:
        fixes = repair.write_clean_copy(
            checks, arguments.dir, arguments.fix, max_line_bytes=arguments.max_line_bytes
        )
        report = dataclasses.replace(report, fix_dir=str(arguments.fix), fix=fixes)
    if arguments.report:
        try:
            arguments.report.write_text(report.dumps() + "\n", encoding="utf-8")
        except OSError as error:
            raise StorageError(
                f"cannot write {arguments.report}", details=[error.strerror or str(error)]
            ) from error
    print(report.dumps() if arguments.json else report.as_text())
    return report.exit_code
