"""`seqgen data check`: everything that can be wrong with a directory of parallel text.

The files are read as bytes, once (the beginning of train twice, to learn the two languages), and
kept as twenty bytes a line. docs/data.md lists the kinds of findings and what mending does.
"""

from collections.abc import Callable
from pathlib import Path

from seqgen.data.corpus_scan import FileScan, fit_corpus_profile, scan_file
from seqgen.data.findings import Finding, Report
from seqgen.data.language_profile import LanguageProfile
from seqgen.data.split_check import SplitCheck, judge_overlap, judge_split
from seqgen.data.text_files import is_expected_split
from seqgen.errors import DataError
from seqgen.types import nearest

MAX_LINE_BYTES = 1 << 16
Files = dict[str, tuple[list[Path], list[Path]]]


def examine(
    directory: Path,
    *,
    source_lang: str,
    target_lang: str,
    max_line_bytes: int = MAX_LINE_BYTES,
    talk: Callable[[str], None] = lambda text: None,
) -> dict[str, SplitCheck]:
    """Read the corpus `directory` and judge every line and pair of it.

    Args:
      directory: holds `<split>.<language>` or `<split>.<language>.gz`.
      max_line_bytes: longer lines are unusable; also bounds the memory used.
      talk: told which split is being read.

    Raises:
      DataError: if there is no such directory or no file of one of the languages in it, or a file
        cannot be read.
    """
    files = find_files(directory, source_lang=source_lang, target_lang=target_lang)
    langs = (source_lang, target_lang)
    try:
        profile = _learn_languages(files, max_line_bytes=max_line_bytes)
        checks = {}
        for name, candidates in files.items():
            talk(f"reading {name}")
            source, target = (
                _scan(paths, profile, max_line_bytes=max_line_bytes) for paths in candidates
            )
            check = SplitCheck(name=name, langs=langs, scans=(source, target))
            _note_files(check, directory, candidates)
            judge_split(check)
            checks[name] = check
    except OSError as error:
        raise DataError(
            f"cannot read {error.filename or directory}", details=[error.strerror or str(error)]
        ) from error
    train = checks.get("train")
    if train is not None and train.pair is not None:
        held_out = {
            name: check
            for name, check in checks.items()
            if name != "train" and check.pair is not None
        }
        judge_overlap(train, held_out)
    return checks


def report_of(
    checks: dict[str, SplitCheck], directory: Path, *, source_lang: str, target_lang: str
) -> Report:
    """The report of an examination."""
    return Report(
        directory=str(directory),
        source_lang=source_lang,
        target_lang=target_lang,
        splits=tuple(check.report() for check in checks.values()),
    )


def find_files(directory: Path, *, source_lang: str, target_lang: str) -> Files:
    """The files of every split, {split: (source candidates, target candidates)}, train first.

    A split of which one side is missing counts if it has one of the names that training looks for.

    Raises:
      DataError: as for `examine`.
    """
    if not directory.is_dir():
        raise DataError(f"corpus directory {directory} does not exist")
    if source_lang == target_lang:
        raise DataError(f"source_lang and target_lang are both {source_lang!r}")
    found: dict[str, dict[str, list[Path]]] = {}
    for path in sorted(directory.iterdir()):
        split, _, lang = path.name.removesuffix(".gz").rpartition(".")
        if split and not path.name.startswith(".") and path.is_file():
            found.setdefault(lang, {}).setdefault(split, []).append(path)
    for lang in (source_lang, target_lang):
        if lang not in found:
            guess = nearest(lang, found)
            raise DataError(
                f"no files for language {lang!r} in {directory}",
                details=[
                    f"expected       <split>.{lang} or <split>.{lang}.gz",
                    f"endings        {', '.join(sorted(found)) or 'none'}",
                    *([f"did you mean   {guess}"] if guess else []),
                ],
            )
    source, target = found[source_lang], found[target_lang]
    both = set(source) & set(target)
    names = {
        split for split in set(source) | set(target) if split in both or is_expected_split(split)
    }
    if not names:
        raise DataError(f"no split in {directory} has both languages")
    if "train" not in names:
        raise DataError(
            f"{directory} has no train split, and training needs one",
            details=[
                f"expected       train.{source_lang} and train.{target_lang} (.gz is fine)",
                f"found          {', '.join(sorted(names))}",
            ],
        )
    order = sorted(names, key=lambda split: (split != "train", split))
    return {split: (source.get(split, []), target.get(split, [])) for split in order}


def _learn_languages(files: Files, *, max_line_bytes: int) -> LanguageProfile | None:
    for source, target in files.values():  # train comes first
        if source and target:
            return fit_corpus_profile(source[0], target[0], max_line_bytes=max_line_bytes)
    return None


def _scan(
    paths: list[Path], profile: LanguageProfile | None, *, max_line_bytes: int
) -> FileScan | None:
    return scan_file(paths[0], max_line_bytes=max_line_bytes, profile=profile) if paths else None


def _note_files(
    check: SplitCheck, directory: Path, candidates: tuple[list[Path], list[Path]]
) -> None:
    for lang, paths in zip(check.langs, candidates):
        if not paths:
            expected = directory / f"{check.name}.{lang}"
            check.notes.append(
                Finding(kind="missing_file", count=1, side=lang, detail=f"missing: {expected}[.gz]")
            )
        elif len(paths) > 1:
            names = " and ".join(path.name for path in paths)
            check.notes.append(
                Finding(
                    kind="two_files",
                    count=1,
                    side=lang,
                    detail=f"{names}: which one is meant? Remove the other ({paths[0].name} read)",
                )
            )
