import json
import subprocess
import sys

import pytest

from seqgen.errors import ConfigError
from seqgen.evaluation import scores

REFERENCES = [
    "Ein Mann steht auf einer Straße.",
    "Zwei Hunde rennen über die Wiese, und ein Kind lacht.",
    "Das ist ein Test.",
    "Eine Frau im roten Kleid tanzt.",
]
HYPOTHESES = [
    "Ein Mann steht an einer Straße.",
    "Zwei Hunde laufen über eine Wiese, und ein Kind lacht.",
    "das ist ein Test.",
    "Eine Frau im roten Kleid tanzt.",
]


@pytest.fixture
def files(tmp_path):
    for name, lines in (("hyp", HYPOTHESES), ("ref", REFERENCES)):
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("lowercase", [False, True])
def test_scores_equal_the_sacrebleu_program(files, lowercase):
    words = [sys.executable, "-m", "sacrebleu", str(files / "ref"), "-i", str(files / "hyp")]
    words += [
        "-m",
        "bleu",
        "chrf",
        "ter",
        "-w",
        "6",
        *(["-lc", "--chrf-lowercase"] if lowercase else []),
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    theirs = {row["name"].split("|")[0].lower(): row for row in json.loads(done.stdout)}
    ours = scores.corpus_scores(HYPOTHESES, REFERENCES, lowercase=lowercase)
    assert round(ours["bleu"], 6) == theirs["bleu"]["score"]
    assert round(ours["chrf"], 6) == theirs["chrf2"]["score"]
    assert round(ours["ter"], 6) == theirs["ter"]["score"]
    assert ours["signature"] == theirs["bleu"]["signature"]


def test_exact_match_is_the_share_of_equal_lines():
    assert scores.corpus_scores(HYPOTHESES, REFERENCES)["exact_match"] == 0.25
    assert scores.corpus_scores(HYPOTHESES, REFERENCES, lowercase=True)["exact_match"] == 0.5
    assert scores.exact_match(["a "], ["a"]) == 0.0


def test_only_what_is_asked_for_is_measured():
    assert set(scores.corpus_scores(["a"], ["a"], metrics=("exact_match",))) == {"exact_match"}


def test_unequal_numbers_of_lines_are_refused():
    with pytest.raises(ValueError, match="1 hypotheses for 2 references"):
        scores.corpus_scores(["a"], ["a", "b"])
    with pytest.raises(ValueError, match="0 hypotheses for 0 references"):
        scores.corpus_scores([], [])


def test_three_ways_differ_in_tokens_and_case():
    pytest.importorskip("sacremoses")
    ways = scores.bleu_three_ways(HYPOTHESES, REFERENCES, lang="de")
    assert ways["moses_lowercase"]["signature"].count("tok:none") == 1
    assert "case:lc|eff:no|tok:13a" in ways["13a_lowercase"]["signature"]
    assert ways["13a_cased"]["bleu"] < ways["13a_lowercase"]["bleu"]
    assert scores.moses_lowercase(['Er sagt: "Hm?" & geht.'], "de") == [
        'er sagt : " hm ? " & geht .'
    ]


def test_missing_sacremoses_is_named_with_its_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacremoses", None)
    scores._moses_tokenizer.cache_clear()
    with pytest.raises(ConfigError, match=r"pip install -e '.\[moses\]'"):
        scores.moses_lowercase(["x"], "de")
