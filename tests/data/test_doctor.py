import gzip
import json
import re
import tracemalloc

import pytest
from data.broken_corpus import (
    ROWS,
    check,
    damage,
    found,
    sound_lines,
    write,
    write_sound,
)

from seqgen.data.defects import LINE_KINDS
from seqgen.errors import DataError

SIDES = ("en", "de")
OVERLAPS = {("overlap_pair", ""), ("overlap_source", "")}


@pytest.fixture
def corpus(tmp_path):
    return write_sound(tmp_path / "corpus")


def test_sound_corpus_is_clean(corpus):
    report = check(corpus)
    assert [split.name for split in report.splits] == ["train", "test", "val"]
    assert all(found(report, name, notes=True) == {} for name in ("train", "test", "val"))
    assert report.exit_code == 0
    assert report.as_text().count("\n  clean") == 3


# kind -> how one line comes to have it
DEFECTS = {
    "bad_utf8": lambda line: line + b"\xff\xfe",
    "nul": lambda line: line[:4] + b"\0" + line[4:],
    "overlong": lambda line: b"a" * 10_000_000,
    "empty": lambda line: b" \xc2\xa0 ",
    "bom": lambda line: b"\xef\xbb\xbf" + line,
    "crlf": lambda line: line + b"\r",
    "stray_cr": lambda line: line[:4] + b"\r" + line[4:],
    "line_separator": lambda line: line[:4] + b"\xe2\x80\xa8" + line[4:],
    "control": lambda line: line + b"\x1b[31m",
    "tab": lambda line: line[:4] + b"\t" + line[4:],
    "replacement": lambda line: line + b"\xef\xbf\xbd",
}


def test_every_kind_of_line_defect_is_tried():
    assert set(DEFECTS) == set(LINE_KINDS)


@pytest.mark.parametrize("kind", DEFECTS)
@pytest.mark.parametrize("lang", ["en", "de"])
def test_line_defects_are_counted_exactly(corpus, kind, lang):
    damage(corpus, f"train.{lang}", {17: DEFECTS[kind], 18: DEFECTS[kind], 200: DEFECTS[kind]})
    report = check(corpus)
    assert found(report)[kind, lang] == (3, 17)
    others = {key for key in found(report) if key != (kind, lang)}
    # Three like lines: what they have in common is told as well.
    assert others <= {("duplicate", ""), ("length_ratio", "")}
    assert report.exit_code == (2 if kind == "bad_utf8" else 0)


@pytest.mark.parametrize(
    "sign", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\x1d", "\x1e"]
)
def test_no_sign_but_lf_ends_a_line(corpus, sign):
    damage(corpus, "val.en", {3: lambda line: line[:3] + sign.encode() + line[3:]})
    report = check(corpus)
    assert found(report, "val") == {("line_separator", "en"): (1, 3)}
    assert report.splits[2].files["en"]["lines"] == 30


def test_several_defects_on_one_line_are_each_told(corpus):
    damage(corpus, "train.de", {9: lambda line: b"\xef\xbb\xbf\t" + line + b"\x07\r"})
    assert found(check(corpus)) == {
        (kind, "de"): (1, 9) for kind in ("bom", "tab", "control", "crlf")
    }


def test_utf16_file_is_bad_and_does_not_crash(corpus):
    text = "\n".join(line.decode() for line in sound_lines("de"))
    (corpus / "train.de").write_bytes(text.encode("utf-16"))
    report = check(corpus)
    assert found(report)["bad_utf8", "de"][1] == 1
    assert found(report)["nul", "de"] == (ROWS, 1)
    assert report.exit_code == 2
    assert "looks like UTF-16" in report.as_text()


def test_file_with_mac_line_ends_is_one_line(corpus):
    write(corpus, "train.de", [b"\r".join(sound_lines("de"))])
    report = check(corpus)
    assert found(report)["unequal_lengths", ""] == (ROWS - 1, 2)
    assert found(report)["stray_cr", "de"] == (1, 1)


def test_line_without_lf_at_the_end_counts(corpus):
    write(corpus, "train.en", sound_lines("en"), last_newline=False)
    report = check(corpus)
    assert found(report) == {}
    assert report.splits[0].rows == ROWS


@pytest.mark.parametrize("missing", [5, 77, 160])
@pytest.mark.parametrize("lang", ["en", "de"])
def test_unequal_files_name_the_line_where_they_drift_apart(corpus, missing, lang):
    lines = sound_lines(lang, rows=400)
    write(corpus, f"train.{'de' if lang == 'en' else 'en'}", sound_lines(
        "de" if lang == "en" else "en", rows=400
    ))  # fmt: skip
    del lines[missing - 1]
    write(corpus, f"train.{lang}", lines)
    report = check(corpus)
    count, line = found(report)["unequal_lengths", ""]
    assert count == 1
    assert abs(line - missing) <= 5
    assert report.exit_code == 2
    page = report.as_text()
    assert re.search(
        rf"train.en \d+ lines, train.de \d+ lines; they first drift apart near line {line} ", page
    )


def test_missing_tail_is_no_drift(corpus):
    write(corpus, "train.de", sound_lines("de", rows=ROWS - 3))
    report = check(corpus)
    assert found(report) == {
        ("unequal_lengths", ""): (3, ROWS - 2),
        ("unpaired", ""): (3, ROWS - 2),
    }


def test_shift_inside_equal_files_is_seen(corpus):
    english, german = (sound_lines(lang, rows=600) for lang in ("en", "de"))
    del german[100]
    del english[400]
    write(corpus, "train.en", english)
    write(corpus, "train.de", german)
    report = check(corpus)
    count, line = found(report)["misaligned", ""]
    assert abs(line - 101) <= 5
    assert abs(count - 300) <= 10
    # What strangers look like side by side is not told a second time, as odd lengths.
    assert set(found(report)) <= {("misaligned", ""), *OVERLAPS}
    assert report.exit_code == 0


def test_duplicates_and_many_to_one(corpus):
    english, german = sound_lines("en"), sound_lines("de")
    english[50], german[50] = english[10], german[10]  # the pair again
    english[60], german[60] = english[10], german[10]
    english[70] = english[20]  # the source with another target
    german[80] = german[30]
    write(corpus, "train.en", english)
    write(corpus, "train.de", german)
    assert found(check(corpus), notes=True) == {
        ("duplicate", ""): (2, 51),
        ("one_to_many", ""): (1, 71),
        ("many_to_one", ""): (1, 81),
    }


def test_overlap_is_told_on_both_sides(corpus):
    english, german = sound_lines("en"), sound_lines("de")
    english[150], german[150] = (sound_lines(lang, first=ROWS + 7, rows=1)[0] for lang in SIDES)
    english[151] = sound_lines("en", first=ROWS + 32, rows=1)[0]
    write(corpus, "train.en", english)
    write(corpus, "train.de", german)
    report = check(corpus)
    assert found(report, "val") == {("overlap_pair", ""): (1, 8)}
    assert found(report, "test") == {("overlap_source", ""): (1, 3)}
    train = found(report)
    assert train["overlap_pair", ""] == (1, 151)
    assert train["overlap_source", ""] == (1, 152)


def test_swapped_pairs(corpus):
    english, german = sound_lines("en"), sound_lines("de")
    for row in (33, 44, 55):
        english[row], german[row] = german[row], english[row]
    write(corpus, "train.en", english)
    write(corpus, "train.de", german)
    assert found(check(corpus))["swapped", ""] == (3, 34)


def test_length_outliers(corpus):
    damage(corpus, "train.de", {20: lambda line: line * 6, 30: lambda line: b"ja"})
    assert found(check(corpus)) == {("length_ratio", ""): (2, 20)}


def test_identical_sides_are_only_noted(corpus):
    damage(corpus, "train.en", {5: lambda line: b"1234"})
    damage(corpus, "train.de", {5: lambda line: b"1234"})
    report = check(corpus)
    assert found(report, notes=True) == {("identical", ""): (1, 5)}
    assert report.exit_code == 0


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_truncated_gz(corpus, share):
    (corpus / "train.de").unlink()
    path = write(corpus, "train.de.gz", sound_lines("de"))
    packed = path.read_bytes()
    path.write_bytes(packed[: int(len(packed) * share)])
    report = check(corpus)
    facts = found(report)
    lines = report.splits[0].files["de"]["lines"]
    assert facts["truncated_gz", "de"] == (1, max(lines, 1))
    assert report.exit_code == 2
    if share > 0.5:
        assert lines > 50, "what was unpacked before the truncation is kept"


def test_corrupt_gz_and_plain_text_called_gz(corpus):
    (corpus / "train.de").unlink()
    path = write(corpus, "train.de.gz", sound_lines("de"))
    packed = bytearray(path.read_bytes())
    packed[len(packed) // 2] ^= 0xFF
    path.write_bytes(packed)
    assert ("corrupt_gz", "de") in found(check(corpus))
    path.write_bytes(b"\n".join(sound_lines("de")))
    facts = found(check(corpus))
    assert facts["corrupt_gz", "de"] == (1, 1)
    assert facts["unpaired", ""] == (ROWS, 1)
    assert ("no_pairs", "") in facts


def test_gz_of_several_members_and_zero_padding_is_sound(corpus):
    lines = sound_lines("de")
    halves = (b"\n".join(lines[:90]) + b"\n", b"\n".join(lines[90:]) + b"\n")
    (corpus / "train.de").unlink()
    (corpus / "train.de.gz").write_bytes(b"".join(map(gzip.compress, halves)) + b"\0" * 512)
    assert found(check(corpus), notes=True) == {}


def test_a_corpus_without_train_is_refused(corpus):
    for lang in ("en", "de"):
        (corpus / f"train.{lang}").unlink()
    with pytest.raises(DataError, match="no train split"):
        check(corpus)


def test_missing_and_doubled_files(corpus):
    (corpus / "val.de").unlink()
    write(corpus, "test.en.gz", sound_lines("en", rows=30, first=ROWS + 30))
    report = check(corpus)
    assert found(report, "val") == {("missing_file", "de"): (1, None)}
    assert found(report, "test") == {("two_files", "en"): (1, None)}
    assert report.exit_code == 2


def test_empty_files(corpus):
    for lang in SIDES:
        (corpus / f"train.{lang}").write_bytes(b"")
    assert found(check(corpus)) == {("no_pairs", ""): (1, None)}


def test_other_files_are_left_out(corpus):
    (corpus / "README.en").write_bytes(b"\xff")
    (corpus / "notes").write_bytes(b"\xff")
    (corpus / "train.fr").write_bytes(b"\xff")
    (corpus / ".train.en.swp").write_bytes(b"\xff")
    (corpus / "sub.en").mkdir()
    assert check(corpus).count("error") == 0


def test_usage_errors_name_what_is_there(corpus):
    with pytest.raises(DataError, match="does not exist"):
        check(corpus / "nowhere")
    for lang in SIDES:
        (corpus / f"test.{lang}").rename(corpus / f"x.{lang}x")
        (corpus / f"val.{lang}").unlink()
        (corpus / f"train.{lang}").unlink()
    with pytest.raises(DataError, match="no files for language 'en'") as caught:
        check(corpus)
    assert any("enx" in line for line in caught.value.details)


def test_memory_does_not_grow_with_the_longest_line(corpus):
    # 80 MB of one line packed into 80 kB: also what a decompression bomb looks like.
    (corpus / "train.de").unlink()
    with gzip.open(corpus / "train.de.gz", "wb", compresslevel=1) as file:
        for _ in range(80):
            file.write(b"a" * (1 << 20))
        file.write(b"\n" + b"\n".join(sound_lines("de")[1:]) + b"\n")
    check(corpus)  # imports and caches are not what is measured
    tracemalloc.start()
    report = check(corpus)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found(report)["overlong", "de"] == (1, 1)
    assert peak < 16e6


def test_overlong_line_knows_whether_it_is_utf8_across_chunks(corpus):
    sign = "ä".encode()
    damage(corpus, "train.de", {4: lambda line: b"x" + sign * 100_000})
    assert found(check(corpus)) == {("overlong", "de"): (1, 4)}
    damage(corpus, "train.de", {4: lambda line: b"x" + sign * 100_000 + sign[:1]})
    assert found(check(corpus)) == {("overlong", "de"): (1, 4), ("bad_utf8", "de"): (1, 4)}


def test_json_is_strict_and_complete(corpus):
    damage(corpus, "train.de", {17: DEFECTS["bad_utf8"]})
    report = json.loads(check(corpus).dumps())
    assert report["exit_code"] == 2
    assert report["errors"] == 1
    finding = report["splits"]["train"]["findings"][0]
    assert {key: finding[key] for key in ("kind", "severity", "side", "count", "first_line")} == {
        "kind": "bad_utf8",
        "severity": "error",
        "side": "de",
        "count": 1,
        "first_line": 17,
    }


def test_multi30k_is_fit(multi30k):
    report = check(multi30k)
    assert report.exit_code == 0
    assert [split.rows for split in report.splits] == [29_000, 1_000, 1_014]
    assert found(report) == {
        ("length_ratio", ""): (3, 16510),
        ("duplicate", ""): (3, 14215),
        ("overlap_source", ""): (1, 4750),
    }
    assert found(report, "test_2016_flickr") == {}
