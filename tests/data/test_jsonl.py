"""JSON lines with named fields, strict."""

import gzip
import json

import pytest

from seqgen.data import DataConfig, TokenizerConfig, open_splits, prepare
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
        ('{"source": "a", "target": []}', "line 2: field 'target' is an empty list"),
        ('{"source": "a", "target": ["b", null]}', "'target' is not text but NoneType"),
        ('{"source": ["a"], "target": "b"}', "'source' is not text but list"),
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


def test_a_list_of_targets_is_the_target_and_its_references(tmp_path):
    rows = [
        {"source": "a", "target": ["b", "c", "b"], "more": ["d", "c"]},
        {"source": "e", "target": "f"},
        {"source": "g", "target": ["h"], "more": []},
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plain = open_splits(config(tmp_path))["train"]
    assert [plain[i] for i in range(3)] == [
        {"source": "a", "target": "b", "references": ["b", "c"]},
        {"source": "e", "target": "f"},
        {"source": "g", "target": "h"},
    ]
    assert plain.report["pairs"] == 3 and plain.report["references"] == 4
    more = open_splits(config(tmp_path, references_field="more"))["train"]
    assert more[0]["references"] == ["b", "c", "d"] and more[2] == plain[2]
    assert more.fingerprint != plain.fingerprint


def test_scoring_reads_every_reference_and_training_the_first(tmp_path):
    rows = [{"source": f"S{i}", "target": [f"One{i}", f"two {i} longer"]} for i in range(4)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = TokenizerConfig(kind="char")
    data = prepare(config(tmp_path, lowercase=True), tokenizer, workdir=None)
    assert data.examples("train")[1] == {
        "source": "s1",
        "target": "one1",
        "references": ["one1", "two 1 longer"],
    }
    ids = data.tokenized("train")
    assert len(ids) == 4 and set(ids.target_lens) == {5}


def test_the_references_of_scitldr(corpora):
    folder = corpora / "scitldr"
    if not folder.is_dir():
        pytest.skip("SciTLDR is not beside this checkout (../shared/data/scitldr)")
    splits = open_splits(DataConfig(source="jsonl", dir=str(folder), references_field="references"))
    assert len(splits["train"]) == splits["train"].report["references"] == 1990
    counts = [len(splits["val"][i].get("references", [""])) for i in range(618)]
    assert [counts.count(n) for n in (1, 2, 3, 4)] == [94, 236, 267, 21]
