"""Directories of line-aligned files: only LF ends a line, and pair i stays pair i."""

import gzip
import random
import sys

import pytest

from seqgen.data import DataConfig, open_splits
from seqgen.data.text_files import read_lines
from seqgen.errors import DataError

ODD = [
    "a\u2028b",
    "c\u0085d",
    "e\x0bf\x0cg",
    "h\ri",
    "NUL \x00 inside",
    "",
    "   ",
    "tab\tbed",
    "e\u0301 é 漢字 🇩🇪 \u200f",
    "\ufeffinner mark",
]


def write_corpus(directory, splits, *, source="en", target="de"):
    """Write {split: [(source, target), ...]} as plain files."""
    directory.mkdir(parents=True, exist_ok=True)
    for split, pairs in splits.items():
        for side, lang in ((0, source), (1, target)):
            text = "".join(f"{pair[side]}\n" for pair in pairs)
            (directory / f"{split}.{lang}").write_bytes(text.encode())
    return directory


def config(directory, **options):
    return DataConfig(dir=str(directory), cache_dir=str(directory.parent / "cache"), **options)


def test_every_odd_line_keeps_its_place_and_its_text(tmp_path):
    pairs = [(line, f"{number} {line}") for number, line in enumerate(ODD)]
    splits = open_splits(config(write_corpus(tmp_path / "c", {"train": pairs})))
    train = splits["train"]
    assert [(train[i]["source"], train[i]["target"]) for i in range(len(train))] == pairs
    assert train.__getitems__([3, 1]) == [train[3], train[1]]
    assert train.report["pairs"] == len(ODD)
    assert train.report["empty_source"] == 2
    assert "tensorflow" not in sys.modules


def test_gzip_windows_line_ends_mark_and_missing_last_lf(tmp_path):
    directory = tmp_path / "c"
    directory.mkdir()
    (directory / "train.en.gz").write_bytes(gzip.compress(b"\xef\xbb\xbfone\r\ntwo\r\nthree"))
    (directory / "train.de").write_bytes(b"eins\nzwei\ndrei\n")
    train = open_splits(config(directory))["train"]
    assert [train[i]["source"] for i in range(3)] == ["one", "two", "three"]


def test_splits_are_found_by_stem_and_dev_is_val(tmp_path):
    pair = [("a", "b")]
    directory = write_corpus(
        tmp_path / "c", {"train": pair, "dev": pair, "test": pair, "test_2016.flickr-x": pair}
    )
    (directory / "README.md").write_text("not a corpus")
    (directory / "only.en").write_text("x\n")
    splits = open_splits(config(directory))
    assert set(splits) == {"train", "val", "test", "test_2016.flickr-x"}
    assert splits["test_2016.flickr-x"][0] == {"source": "a", "target": "b"}


def test_changed_corpus_gives_a_new_copy_and_fingerprint(tmp_path):
    directory = write_corpus(tmp_path / "c", {"train": [("a", "b")], "val": [("c", "d")]})
    before = open_splits(config(directory))
    assert open_splits(config(directory))["train"].fingerprint == before["train"].fingerprint
    write_corpus(directory, {"train": [("a", "B")]})
    after = open_splits(config(directory))
    assert after["train"].fingerprint != before["train"].fingerprint
    assert after["val"].fingerprint == before["val"].fingerprint
    assert after["train"][0]["target"] == "B"
    assert before["train"][0]["target"] == "b"


def test_unequal_files_name_the_counts_and_the_drift(tmp_path):
    rng = random.Random(1)
    lengths = [rng.randint(1, 30) for _ in range(600)]
    source = [" ".join(["wort"] * n) for n in lengths]
    target = [" ".join(["word"] * n) for n in lengths]
    del target[400]
    directory = tmp_path / "c"
    directory.mkdir()
    (directory / "train.en").write_text("\n".join(source) + "\n")
    (directory / "train.de").write_text("\n".join(target) + "\n")
    with pytest.raises(DataError) as caught:
        open_splits(config(directory))
    error = caught.value
    assert error.exit_code == 2
    assert error.cause == "parallel files differ in length: train.en 600 lines, train.de 599"
    line = int(error.details[0].split("near line ")[1].split()[0])
    assert 395 <= line <= 410
    assert f"({lengths[line - 1]} words against " in error.details[0]
    assert "seqgen data check" in error.details[1]
    assert not list((tmp_path / "cache" / "prepared").glob("[!.]*"))  # nothing half made stays


def test_bad_utf8_names_file_line_and_fix(tmp_path):
    directory = write_corpus(tmp_path / "c", {"train": [("a", "b"), ("c", "d")]})
    (directory / "train.de").write_bytes(b"gut\nschl\xe4cht\n")
    with pytest.raises(DataError, match=r"train\.de line 2 is not UTF-8") as caught:
        open_splits(config(directory))
    assert "seqgen data check" in str(caught.value)


def test_truncated_gzip_is_told(tmp_path):
    path = tmp_path / "train.en.gz"
    text = "".join(f"{random.random()}\n" for _ in range(2000))
    path.write_bytes(gzip.compress(text.encode())[:-200])
    with pytest.raises(DataError, match="damaged gzip"):
        list(read_lines(path))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source_lang": "fr"}, "no files for language 'fr'"),
        ({"source_lang": "de"}, "both 'de'"),
        ({"dir": "/does/not/exist"}, "does not exist"),
        ({"dir": ""}, "data.dir"),
    ],
)
def test_missing_corpora_are_told(tmp_path, options, message):
    directory = write_corpus(tmp_path / "c", {"train": [("a", "b")]})
    fields = {"dir": str(directory), "cache_dir": str(tmp_path / "cache"), **options}
    with pytest.raises(DataError, match=message):
        open_splits(DataConfig(**fields))


def test_half_a_split_is_told_but_only_of_these_languages(tmp_path):
    pairs = [("a", "b")]
    directory = write_corpus(tmp_path / "c", {"train": pairs, "val": pairs})
    (directory / "train.fr").write_bytes(b"x\n")
    (directory / "train.fr.gz").write_bytes(gzip.compress(b"x\n"))
    assert set(open_splits(config(directory))) == {"train", "val"}
    (directory / "val.de").unlink()
    with pytest.raises(DataError, match=r"'val' .* no file of language 'de'"):
        open_splits(config(directory))


def test_empty_split_and_doubled_split_are_told(tmp_path):
    directory = write_corpus(tmp_path / "c", {"train": [("a", "b")], "val": []})
    with pytest.raises(DataError, match="'val' is empty"):
        open_splits(config(directory))
    (directory / "train.en.gz").write_bytes(gzip.compress(b"a\n"))
    with pytest.raises(DataError, match="two files for one split"):
        open_splits(config(directory))


def test_further_references_stand_beside_the_target(tmp_path):
    directory = write_corpus(tmp_path / "c", {"train": [("a", "b")], "test": [("c", "d")] * 3})
    before = open_splits(config(directory))
    (directory / "test.de.ref2").write_text("D\n\nd\n")
    (directory / "test.de.ref3.gz").write_bytes(gzip.compress(b"x\ny\nz\n"))
    (directory / "test.de.reference").write_text("not one of them\n")
    after = open_splits(config(directory))
    assert [after["test"][i] for i in range(3)] == [
        {"source": "c", "target": "d", "references": ["d", "D", "x"]},
        {"source": "c", "target": "d", "references": ["d", "y"]},  # a blank line is no reference
        {"source": "c", "target": "d", "references": ["d", "z"]},  # each text once
    ]
    assert after["train"][0] == before["train"][0] == {"source": "a", "target": "b"}
    assert after["train"].fingerprint == before["train"].fingerprint
    assert after["test"].fingerprint != before["test"].fingerprint


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"test.de.ref3": b"x\ny\n"}, "not numbered 2, 3"),
        ({"test.de.ref1": b"x\ny\n"}, "not numbered 2, 3"),
        ({"test.de.ref2": b"x\n"}, r"test.de.ref2 ends before line 2, test.de does not"),
        ({"test.de.ref2": b"x\ny\nz\n"}, r"test.de ends before line 3, test.de.ref2 does not"),
        ({"test.de.ref2": b"x\ny\n", "test.de.ref2.gz": b""}, "two files for one reference"),
    ],
)
def test_bad_reference_files_are_told(tmp_path, files, message):
    directory = write_corpus(tmp_path / "c", {"test": [("c", "d"), ("e", "f")]})
    for name, content in files.items():
        (directory / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_splits(config(directory))
