"""The TFDS builder that writes a parallel corpus as ArrayRecord, without TensorFlow.

Importing this module imports tensorflow_datasets, which costs seconds: import it late.
"""

import contextlib
import io
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from seqgen.errors import DataError

FILE_FORMAT = "array_record"
Records = Callable[[], Iterator[dict[str, str]]]


class ParallelText(tfds.core.GeneratorBasedBuilder):
    """Pairs of texts in the order in which they were read (see `prepared.encode_record`).

    Attributes:
      splits: {name: function that gives the records}.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Pairs of source and target text."}  # noqa: RUF012 (as TFDS names it)

    def __init__(self, *, splits: Mapping[str, Records], **kwargs: Any):
        self._splits = splits
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Pairs of source and target text.",
            features=tfds.features.FeaturesDict(
                {name: tfds.features.Text() for name in ("source", "target", "references")}
            ),
            supervised_keys=("source", "target"),
            disable_shuffling=True,  # pair i stays pair i
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        del dl_manager
        return {name: self._generate_examples(read) for name, read in self._splits.items()}

    def _generate_examples(self, read: Records) -> Iterator[tuple[int, dict[str, str]]]:
        yield from enumerate(read())


def write_records(directory: Path, *, splits: Mapping[str, Records]) -> None:
    """Write the records of every split below `directory`.

    Raises:
      DataError: whatever the readers of the splits raise.
    """
    with quiet():
        builder = ParallelText(splits=splits, data_dir=str(directory), file_format=FILE_FORMAT)
        builder.download_and_prepare(file_format=FILE_FORMAT)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep TFDS from writing to stdout, which is for data, and from drawing bars."""
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        tfds.enable_progress_bar()


def open_records(directory: Path, *, split: str) -> Any:
    """Random access to the records that `write_records` wrote."""
    found = sorted(directory.glob("parallel_text/*/dataset_info.json"))
    if not found:
        raise DataError(f"the data cache {directory} is damaged", details=["remove it"])
    builder: Any = tfds.builder_from_directory(str(found[-1].parent))
    return builder.as_data_source(split=split)
