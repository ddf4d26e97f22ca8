"""`seqgen data check`: is this parallel corpus fit for training, and a clean copy if it is not.

    seqgen data check --dir=corpus --source_lang=en --target_lang=de
    seqgen data check --dir=corpus --source_lang=en --target_lang=de --fix=clean --json

Exit code: 0 = fit (warnings may be told), 2 = training on it would fail. With --fix it speaks of
the clean copy.
"""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

from seqgen.errors import DataError, StorageError


def add_parser(subparsers: Any) -> None:
    """Declare `data` and its verbs."""
    parser = subparsers.add_parser(
        "data",
        help="check a parallel corpus, and mend it",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="data_verb", metavar="VERB", required=True)
    check = verbs.add_parser(
        "check",
        help="report defects; write a clean copy with --fix",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    check.add_argument(
        "--dir", required=True, type=Path, help="directory of <split>.<language>[.gz]"
    )
    check.add_argument("--source_lang", required=True, help="file ending of the source side")
    check.add_argument("--target_lang", required=True, help="file ending of the target side")
    check.add_argument(
        "--fix", type=Path, metavar="OUT", help="write a clean copy and ledger.jsonl to OUT"
    )
    check.add_argument("--json", action="store_true", help="print the report as JSON")
    check.add_argument("--report", type=Path, metavar="FILE", help="write it as JSON to FILE too")
    check.add_argument(
        "--max_line_bytes",
        type=int,
        default=1 << 16,
        help="longer lines count as defects (default %(default)s)",
    )
    check.set_defaults(run=run)


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
