"""Data sets of TFDS without TensorFlow: prepared ones by directory, pure ones by name."""

import sys

import pytest

from seqgen.data import DataConfig, open_splits
from seqgen.data.tfds_builder import write_records
from seqgen.errors import DataError

tfds = pytest.importorskip("tensorflow_datasets")


class ToyPhrases(tfds.core.GeneratorBasedBuilder):
    """A builder of a user's own whose preparation needs no TensorFlow."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.Translation(languages=("en", "de")),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(5), "validation": self._generate_examples(2)}

    def _generate_examples(self, count):
        for i in range(count):
            yield i, {"en": f"one {i}", "de": f"eins {i} ä"}


class NeedsTensorFlow(ToyPhrases):
    """A builder that imports what is not there."""

    def _split_generators(self, dl_manager):
        raise ImportError("No module named 'tensorflow'")


def pairs():
    yield {"source": "a", "target": "ä"}
    yield {"source": "b\x00", "target": ""}


def records():
    yield from ({**pair, "references": ""} for pair in pairs())


def test_prepared_directory_is_read_without_tensorflow(tmp_path):
    write_records(tmp_path, splits={"train": records, "test": records})
    splits = open_splits(DataConfig(source="tfds", dir=str(tmp_path)))
    assert set(splits) == {"train", "test"}
    assert [splits["train"][i] for i in range(2)] == list(pairs())
    assert len(splits["test"]) == 2
    assert "tensorflow" not in sys.modules


def test_builder_by_name_is_prepared_once(tmp_path, capsys):
    name = f"{__name__}:ToyPhrases"
    cfg = DataConfig(source="tfds", name=name, cache_dir=str(tmp_path))
    splits = open_splits(cfg)
    assert set(splits) == {"train", "val"}
    assert splits["train"][3] == {"source": "one 3", "target": "eins 3 ä"}
    assert len(splits["train"]) == 5
    again = open_splits(cfg)
    assert again["train"].fingerprint == splits["train"].fingerprint
    assert capsys.readouterr().out == ""  # stdout is for data
    swapped = DataConfig(
        source="tfds", name=name, cache_dir=str(tmp_path), source_lang="de", target_lang="en"
    )
    assert open_splits(swapped)["train"][0]["source"] == "eins 0 ä"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "para_crwl/ende"}, "did you mean   para_crawl"),
        ({"name": "no.such:Builder"}, "cannot load"),
        ({"name": f"{__name__}:NeedsTensorFlow"}, "file_format=array_record"),
        ({"name": ""}, "data.name"),
        ({"dir": "nowhere"}, "no prepared TFDS"),
    ],
)
def test_everything_else_ends_with_the_way_out(tmp_path, options, message):
    options = {"cache_dir": str(tmp_path), **options}
    if "dir" in options:
        options["dir"] = str(tmp_path / options["dir"])
    with pytest.raises(DataError, match=message) as caught:
        open_splits(DataConfig(source="tfds", **options))
    assert caught.value.exit_code == 2


def test_missing_field_and_wrong_format_are_told(tmp_path):
    write_records(tmp_path, splits={"train": records})
    with pytest.raises(DataError, match="did you mean   source"):
        open_splits(DataConfig(source="tfds", dir=str(tmp_path), source_field="sorce"))
    info = next(tmp_path.glob("**/dataset_info.json"))
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    with pytest.raises(DataError, match="only TensorFlow reads"):
        open_splits(DataConfig(source="tfds", dir=str(tmp_path)))
