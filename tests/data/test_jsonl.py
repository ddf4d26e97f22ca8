"""JSON lines with named fields, strict."""

import gzip
import json

import pytest

from seqgen.data import DataConfig, open_splits
from seqgen.errors import DataError


def config(directory, **options):
    return DataConfig(
        source="jsonl", dir=str(directory), cache_dir=str(directory / ".cache"), **options
    )


def test_fields_are_read_in_order_plain_and_gzip(tmp_path):
    rows = [{"text": f"line {i}\nnext", "summary": "\u2028 é", "id": i} for i in range(5)]
    lines = "".join(json.dumps(row) + "\n" for row in rows) + "\n"  # a blank line is no row
    (tmp_path / "train.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "dev.jsonl").write_text(lines)
    splits = open_splits(config(tmp_path, source_field="text", target_field="summary"))
    assert set(splits) == {"train", "val"}
    for split in splits.values():
        assert [split[i] for i in range(5)] == [
            {"source": row["text"], "target": row["summary"]} for row in rows
        ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"source": "a"', "line 2 is not JSON"),
        ('["a", "b"]', "line 2 is not a JSON object"),
        ('{"source": "a", "traget": "b"}', "did you mean   traget"),
        ('{"source": "a", "target": 3}', "'target' is not text but int"),
        ('{"source": "a", "target": "\\ud800"}', "surrogate"),
        ('{"source": "a", "target": NaN}', "NaN is no JSON value"),
        ("[" * 100_000, "line 2 is not JSON"),
    ],
)
def test_bad_lines_are_told_with_their_number(tmp_path, line, message):
    (tmp_path / "train.jsonl").write_text('{"source": "a", "target": "b"}\n' + line + "\n")
    with pytest.raises(DataError, match=message):
        open_splits(config(tmp_path))


def test_other_fields_are_another_corpus(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"source": "a", "target": "b", "other": "c"}\n')
    plain = open_splits(config(tmp_path))["train"]
    other = open_splits(config(tmp_path, target_field="other"))["train"]
    assert (plain[0]["target"], other[0]["target"]) == ("b", "c")
    assert plain.fingerprint != other.fingerprint


def test_directory_without_files_is_told(tmp_path):
    with pytest.raises(DataError, match=r"no <split>\.jsonl"):
        open_splits(config(tmp_path))
