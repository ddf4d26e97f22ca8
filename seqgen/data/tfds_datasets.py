"""Data sets of TensorFlow Datasets, as far as they can be read without TensorFlow.

Two ways work: a directory that somebody prepared as ArrayRecord, and a builder whose preparation
needs no TensorFlow, by name. Whatever else TFDS offers ends with an error that names a way out.
"""

import dataclasses
import functools
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from seqgen.data import cache
from seqgen.data.config import DataConfig
from seqgen.data.sources import Pair, Source
from seqgen.errors import DataError
from seqgen.types import nearest

INFO_FILE = "dataset_info.json"


@dataclasses.dataclass(eq=False)
class TfdsSource:
    """A split of a prepared data set.

    Attributes:
      directory: holds dataset_info.json and the records.
      split: its name there.
      fields: names of the source's and the target's feature.
      length: number of pairs.
      fingerprint: digest of the record files.
    """

    directory: Path
    split: str
    fields: tuple[str, str]
    length: int
    fingerprint: str

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> Pair:
        return self._pair(self._records[index], index)

    def __getitems__(self, indices: Sequence[int]) -> list[Pair]:
        records = self._records.__getitems__(list(indices))
        return [self._pair(record, i) for record, i in zip(records, indices, strict=True)]

    @functools.cached_property
    def _records(self) -> Any:
        import tensorflow_datasets as tfds

        builder: Any = tfds.builder_from_directory(str(self.directory))
        return builder.as_data_source(split=self.split)

    def _pair(self, record: Mapping[str, Any], index: int) -> Pair:
        texts = []
        for field in self.fields:
            value = record[field]
            try:
                texts.append(value.decode("utf-8") if isinstance(value, bytes) else value)
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{self.split} example {index}: field {field!r} is not UTF-8",
                    details=[str(error)],
                ) from error
            if not isinstance(texts[-1], str):
                raise DataError(
                    f"field {field!r} of {self.directory} is not text but {type(value).__name__}"
                )
        return {"source": texts[0], "target": texts[1]}


def open_tfds(cfg: DataConfig) -> dict[str, Source]:
    """The splits of the prepared data set `cfg.dir`, or of `cfg.name` (prepared on first use).

    Raises:
      DataError: if it is missing, needs TensorFlow, or lacks the fields.
    """
    if cfg.name:
        directory = prepare_by_name(cfg)
    elif cfg.dir:
        directory = find_prepared(Path(cfg.dir))
    else:
        raise DataError(
            "no TFDS data set given",
            details=["name one:  --config.data.name=NAME  or a prepared  --config.data.dir=DIR"],
        )
    return open_prepared(directory, cfg)


def find_prepared(directory: Path) -> Path:
    """The one prepared data set at or below a directory.

    Raises:
      DataError: if there is none, or more than one.
    """
    if (directory / INFO_FILE).is_file():
        return directory
    found = sorted(path.parent for path in directory.glob(f"**/{INFO_FILE}"))
    if len(found) == 1:
        return found[0]
    raise DataError(
        f"{len(found) or 'no'} prepared TFDS data sets below {directory}",
        details=[f"choose   --config.data.dir={path}" for path in found[:5]]
        or [f"a prepared data set holds {INFO_FILE}"],
    )


def open_prepared(directory: Path, cfg: DataConfig) -> dict[str, Source]:
    """The splits of a data set that lies prepared in `directory`.

    Raises:
      DataError: if its records are not ArrayRecord or it lacks the fields.
    """
    import tensorflow_datasets as tfds

    try:
        info: Any = tfds.builder_from_directory(str(directory)).info
    except Exception as error:  # TFDS raises what its parsers raise
        raise DataError(
            f"cannot read the TFDS data set {directory}", details=[_first_line(error)]
        ) from error
    file_format = str(getattr(info.file_format, "value", info.file_format))
    if file_format != "array_record":
        raise DataError(
            f"{directory} was prepared as {file_format}, which only TensorFlow reads",
            details=[_prepare_again(info.full_name)],
        )
    fields = choose_fields(list(info.features or {}), cfg, where=str(directory))
    sources: dict[str, Source] = {}
    for name, split in info.splits.items():
        files = [Path(path) for path in split.filepaths]
        missing = [path.name for path in files if not path.is_file()]
        if missing:
            raise DataError(f"{directory} lacks {missing[0]}")
        fingerprint = cache.digest_json([[cache.digest_file(path) for path in files], fields])
        sources[name] = TfdsSource(directory, name, fields, split.num_examples, fingerprint)
    return sources


def choose_fields(names: Sequence[str], cfg: DataConfig, *, where: str) -> tuple[str, str]:
    """The features of the two sides: as configured, or the languages, or 'source' and 'target'.

    Raises:
      DataError: if they are not there; those that are there are named.
    """
    chosen = []
    sides = (
        ("source", cfg.source_field, cfg.source_lang),
        ("target", cfg.target_field, cfg.target_lang),
    )
    for side, wanted, lang in sides:
        candidates = [wanted] if wanted else [lang, side]
        field = next((name for name in candidates if name in names), None)
        if field is None:
            guess = nearest(candidates[0], names)
            raise DataError(
                f"{where} has no field {' or '.join(map(repr, candidates))}",
                details=[
                    f"its fields     {', '.join(names) or 'none'}",
                    *([f"did you mean   {guess}"] if guess else []),
                    f"name it with   --config.data.{side}_field=FIELD",
                ],
            )
        chosen.append(field)
    return chosen[0], chosen[1]


def prepare_by_name(cfg: DataConfig) -> Path:
    """Prepare a registered data set, or a builder class given as `module:Class[/config]`.

    Raises:
      DataError: if it is unknown, or its preparation needs TensorFlow or fails.
    """
    import tensorflow_datasets as tfds

    from seqgen.data.tfds_builder import FILE_FORMAT, quiet

    data_dir = str(Path(cfg.dir) if cfg.dir else cache.cache_directory(cfg.cache_dir) / "tfds")
    name = cfg.name
    try:
        if ":" in name.split("/")[0]:
            module, _, rest = name.partition(":")
            attribute, _, config = rest.partition("/")
            builder_class = getattr(importlib.import_module(module), attribute)
            builder = builder_class(
                data_dir=data_dir, config=config or None, file_format=FILE_FORMAT
            )
        else:
            builder = tfds.builder(name, data_dir=data_dir, file_format=FILE_FORMAT)
        with quiet():
            builder.download_and_prepare(file_format=FILE_FORMAT)
    except tfds.core.DatasetNotFoundError as error:
        # The message lists the known names; tfds.list_builders() would import TensorFlow.
        known = [line.strip(" \t-") for line in str(error).splitlines() if "- " in line]
        guess = nearest(name.split("/")[0], known)
        raise DataError(
            f"TFDS knows no data set {name!r}",
            details=[
                *([f"did you mean   {guess}"] if guess else []),
                "a builder of its old catalogue or of your own: --config.data.name=module:Class",
            ],
        ) from error
    except (ImportError, AttributeError) as error:
        needs = "tensorflow" in str(error).lower()
        raise DataError(
            f"preparing {name!r} needs TensorFlow" if needs else f"cannot load {name!r}",
            details=[_first_line(error), *([_prepare_again(name)] if needs else [])],
        ) from error
    except DataError:
        raise
    except Exception as error:  # the builder is somebody else's code
        raise DataError(
            f"preparing the TFDS data set {name!r} failed",
            details=[f"{type(error).__name__}: {_first_line(error)}", _prepare_again(name)],
        ) from error
    return Path(builder.data_dir)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _prepare_again(name: str) -> str:
    return (
        "prepare it where TensorFlow is:  "
        f"tfds build {name.split('/')[0]} --file_format=array_record  then set data.dir"
    )
