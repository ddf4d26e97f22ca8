"""Data sets of TensorFlow Datasets that can be read without TensorFlow."""

from seqgen.data.config import DataConfig
from seqgen.data.sources import Source
from seqgen.errors import DataError


def open_tfds(cfg: DataConfig) -> dict[str, Source]:
    """The splits of a TFDS data set."""
    raise DataError("tfds sources come in the next commit")
