import gzip
import json
import random

import pytest
from data.broken_corpus import (
    ROWS,
    check,
    damage,
    fix,
    found,
    sound_lines,
    write,
    write_sound,
)

from seqgen.data.defects import KINDS
from seqgen.data.repair import DROP_ORDER
from seqgen.errors import DataError, StorageError

SIDES = ("en", "de")


@pytest.fixture
def corpus(tmp_path):
    return write_sound(tmp_path / "corpus")


def lines_of(path):
    data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    return data.split(b"\n")[:-1] if data else []


def ledger_of(out):
    return [json.loads(line) for line in (out / "ledger.jsonl").read_text().splitlines()]


def assert_adds_up(corpus, out, fixes):
    """kept + dropped = input by the ledger, the counts and the files; the copy is fit."""
    entries = ledger_of(out)
    for split, facts in fixes.items():
        dropped = [e for e in entries if (e["split"], e["action"]) == (split, "drop")]
        mended = {e["line"] for e in entries if (e["split"], e["action"]) == (split, "repair")}
        assert facts.kept + facts.dropped == facts.rows
        assert sum(facts.dropped_by.values()) == facts.dropped == len(dropped)
        assert len({entry["line"] for entry in dropped}) == facts.dropped
        assert facts.repaired == len(mended) <= facts.kept
        assert not mended & {entry["line"] for entry in dropped}
        for lang in SIDES:
            (path,) = out.glob(f"{split}.{lang}*")
            assert len(lines_of(path)) == facts.kept
    if all(facts.kept for facts in fixes.values()):
        again = check(out)
        assert again.exit_code == 0
        drops = {kind for kind, facts in KINDS.items() if facts.action in ("drop", "repair")}
        assert not {kind for kind, _ in found(again)} & (drops - {"misaligned"})


def test_clean_corpus_is_copied_byte_for_byte(corpus, tmp_path):
    out = tmp_path / "clean"
    fixes = fix(corpus, out)
    assert {name: facts.kept for name, facts in fixes.items()} == {
        "train": ROWS,
        "val": 30,
        "test": 30,
    }
    for path in corpus.iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes()
    assert ledger_of(out) == []


def test_sixteen_defects_at_once(corpus, tmp_path):
    damage(corpus, "train.en", {
        3: lambda line: b"\xff" + line,
        7: lambda line: line[:3] + b"\0" + line[3:],
        11: lambda line: line + b"\r",
        13: lambda line: line[:5] + b"\xe2\x80\xa8" + line[5:],
        17: lambda line: b"",
        19: lambda line: b"a" * 10_000_000,
        23: lambda line: line + b"\tnote",
    })  # fmt: skip
    damage(corpus, "train.de", {
        1: lambda line: b"\xef\xbb\xbf" + line,
        17: lambda line: b"",
        29: lambda line: line[:5] + b"\r" + line[5:],
        31: lambda line: line + b"\xc2\x85",
        37: lambda line: line[:2] + b"\x07" + line[2:],
        41: lambda line: line * 7,
        43: lambda line: b"\xe3\x80\x80",
    })  # fmt: skip
    sides = {lang: lines_of(corpus / f"train.{lang}") for lang in SIDES}
    sides["en"][46], sides["de"][46] = sides["de"][46], sides["en"][46]
    for lang in SIDES:
        sides[lang][52] = sides[lang][1]
        sides[lang][58] = lines_of(corpus / f"test.{lang}")[5]
    write(corpus, "train.en", sides["en"])
    write(corpus, "train.de", [*sides["de"], b"eins zu viel"])
    out = tmp_path / "clean"
    fixes = fix(corpus, out)
    assert fixes["train"].dropped_by == {
        "bad_utf8": 1,
        "nul": 1,
        "empty": 2,
        "overlong": 1,
        "length_ratio": 1,
        "swapped": 1,
        "duplicate": 1,
        "overlap_pair": 1,
        "unpaired": 1,
    }
    assert fixes["train"].repaired_by == {
        "crlf": 1,
        "line_separator": 2,
        "tab": 1,
        "bom": 1,
        "stray_cr": 1,
        "control": 1,
    }
    drops = {e["line"]: e["reason"] for e in ledger_of(out) if e["action"] == "drop"}
    assert drops == {
        3: "bad_utf8", 7: "nul", 17: "empty", 19: "overlong", 41: "length_ratio", 43: "empty",
        47: "swapped", 53: "duplicate", 59: "overlap_pair", 201: "unpaired",
    }  # fmt: skip
    assert_adds_up(corpus, out, fixes)
    # Pair i stays pair i: what is kept is the sound corpus without the dropped lines.
    for lang in SIDES:
        sound = sound_lines(lang)
        kept = [sound[row] for row in range(ROWS) if row + 1 not in drops]
        now = lines_of(out / f"train.{lang}")
        assert sum(a == b for a, b in zip(kept, now, strict=True)) >= len(kept) - 5
        assert [a[:2] for a in kept] == [b[:2] for b in now]


def test_held_out_splits_keep_pairs_that_are_merely_odd(corpus, tmp_path):
    for lang in SIDES:
        lines = lines_of(corpus / f"test.{lang}")
        lines[9] = lines[2]
        lines[11] = lines_of(corpus / f"train.{lang}")[4]
        write(corpus, f"test.{lang}", lines)
    damage(corpus, "test.de", {20: lambda line: line * 8, 25: lambda line: b"\xff"})
    fixes = fix(corpus, tmp_path / "clean")
    assert fixes["test"].dropped_by == {"bad_utf8": 1}
    assert fixes["train"].dropped_by == {"overlap_pair": 1}


def test_drifted_rows_are_dropped_and_the_others_stay_pairs(corpus, tmp_path):
    english, german = (sound_lines(lang, rows=900) for lang in SIDES)
    truth = dict(zip(english, german))
    del german[300]
    del english[600]
    write(corpus, "train.en", english)
    write(corpus, "train.de", german)
    out = tmp_path / "clean"
    fixes = fix(corpus, out)
    kept = list(zip(lines_of(out / "train.en"), lines_of(out / "train.de"), strict=True))
    assert all(truth[source] == target for source, target in kept)
    # 300 rows are shifted; a block of 32 on either side goes with them, for places are estimates.
    assert 300 <= fixes["train"].dropped_by["misaligned"] <= 380
    assert_adds_up(corpus, out, fixes)


def test_no_pair_is_kept_where_nobody_can_tell_which_belong_together(corpus, tmp_path):
    write(corpus, "train.en", [b"line %03d" % number for number in range(100)])
    write(corpus, "train.de", [b"Zeile %03d" % number for number in range(100) if number != 50])
    report = check(corpus)
    assert found(report)["misaligned", ""] == (99, 1)
    assert report.exit_code == 2
    assert "do not tell where" in report.as_text()
    fixes = fix(corpus, tmp_path / "clean")
    assert fixes["train"].kept == 0
    assert fixes["train"].dropped_by == {"misaligned": 99, "unpaired": 1}


def test_gz_stays_gz_and_a_truncated_one_loses_its_cut_line(corpus, tmp_path):
    for lang in SIDES:
        (corpus / f"train.{lang}").unlink()
        path = write(corpus, f"train.{lang}.gz", sound_lines(lang))
    path.write_bytes(path.read_bytes()[:-400])
    out = tmp_path / "clean"
    fixes = fix(corpus, out)
    assert fixes["train"].dropped_by["cut_line"] == 1
    truth = dict(zip(sound_lines("en"), sound_lines("de")))
    pairs = zip(lines_of(out / "train.en.gz"), lines_of(out / "train.de.gz"), strict=True)
    assert all(truth[source] == target for source, target in pairs)
    assert_adds_up(corpus, out, fixes)
    first = (out / "train.en.gz").read_bytes()
    assert first[4:8] == bytes(4), "no time stamp: the same rows give the same bytes"
    fix(corpus, tmp_path / "again")
    assert (tmp_path / "again" / "train.en.gz").read_bytes() == first


@pytest.mark.parametrize("seed", range(12))
def test_random_damage_always_adds_up(tmp_path, seed):
    rng = random.Random(seed)
    corpus = write_sound(tmp_path / "corpus")
    pieces = [
        b"\0", b"\xff", b"\r", b"\r\n", b"\n", b"\t", b"\xef\xbb\xbf", b"\xe2\x80\xa9",
        b"\xed\xa0\x80", b"\xc2\x85", b"\x1b", b" ", b"", b"\n\n", "ä".encode(), b"x" * 300,
    ]  # fmt: skip
    for path in sorted(corpus.iterdir()):
        data = bytearray(path.read_bytes())
        for _ in range(rng.randrange(12)):
            place = rng.randrange(len(data))
            data[place : place + rng.choice([0, 0, 1, 60])] = rng.choice(pieces)
        if rng.random() < 0.5:
            path.unlink()
            path = path.with_name(path.name + ".gz")
            packed = gzip.compress(bytes(data))
            cut = rng.randrange(len(packed)) if rng.random() < 0.3 else len(packed)
            data = packed[:cut]
        path.write_bytes(data)
    before = {path.name: path.read_bytes() for path in corpus.iterdir()}
    out = tmp_path / "clean"
    assert_adds_up(corpus, out, fix(corpus, out, max_line_bytes=256))
    assert {path.name: path.read_bytes() for path in corpus.iterdir()} == before


def test_refuses_the_input_directory_and_existing_files(corpus, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(corpus)
    for place in (corpus, corpus / "clean", link, corpus / ".." / "corpus"):
        with pytest.raises(DataError, match="input directory"):
            fix(corpus, place)
    out = tmp_path / "clean"
    out.mkdir()
    (out / "val.de").write_text("mine")
    with pytest.raises(DataError, match="overwrite"):
        fix(corpus, out)
    assert [path.name for path in out.iterdir()] == ["val.de"]
    (tmp_path / "file").write_text("mine")
    with pytest.raises(DataError, match="not a directory"):
        fix(corpus, tmp_path / "file")
    assert sorted(path.name for path in corpus.iterdir()) == sorted(
        f"{split}.{lang}" for split in ("train", "val", "test") for lang in SIDES
    )


def test_failed_writing_leaves_nothing(corpus, tmp_path, monkeypatch):
    out = tmp_path / "clean"

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("seqgen.data.repair.json.dumps", full)
    damage(corpus, "train.de", {9: lambda line: b""})
    with pytest.raises(StorageError, match="cannot write") as caught:
        fix(corpus, out)
    assert caught.value.exit_code == 5
    assert list(out.iterdir()) == []


def test_changed_input_is_noticed(corpus, tmp_path, monkeypatch):
    from seqgen.data import repair

    def late(*arguments):
        damage(corpus, "train.de", {9: lambda line: b"changed"})

    monkeypatch.setattr(repair, "_refuse", late)
    with pytest.raises(DataError, match="changed while"):
        fix(corpus, tmp_path / "clean")
    assert list((tmp_path / "clean").iterdir()) == []


def test_every_dropping_kind_has_its_place_in_the_order():
    # File-level kinds drop through the rows they concern: cut_line and unpaired.
    files = {"truncated_gz", "corrupt_gz", "unequal_lengths"}
    dropping = {kind for kind, facts in KINDS.items() if facts.action.startswith("drop")} - files
    assert set(DROP_ORDER) == dropping
    assert len(DROP_ORDER) == len(dropping)
