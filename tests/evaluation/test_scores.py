import json
import subprocess
import sys

import pytest

from seqgen.errors import ConfigError
from seqgen.evaluation import scores
from seqgen.evaluation.config import EvaluationConfig
from seqgen.evaluation.line_statistics import require_tokenizer

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


def by_program(folder, num_references, *options):
    """{metric: what the program `sacrebleu` says}."""
    names = [str(folder / f"ref{k}" if k else folder / "ref") for k in range(num_references)]
    words = [sys.executable, "-m", "sacrebleu", *names, "-i", str(folder / "hyp")]
    words += ["-m", "bleu", "chrf", "ter", "-w", "6", *options]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return {row["name"].split("|")[0].lower(): row for row in json.loads(done.stdout)}


def assert_equal(ours, theirs):
    assert round(ours["bleu"], 6) == theirs["bleu"]["score"]
    assert round(ours["chrf"], 6) == theirs["chrf2"]["score"]
    assert round(ours["ter"], 6) == theirs["ter"]["score"]
    assert ours["signature"] == theirs["bleu"]["signature"]


@pytest.mark.parametrize("lowercase", [False, True])
def test_scores_equal_the_sacrebleu_program(files, lowercase):
    options = ["-lc", "--chrf-lowercase"] if lowercase else []
    rules = EvaluationConfig(lowercase=lowercase)
    ours = scores.corpus_scores(HYPOTHESES, REFERENCES, rules=rules)
    assert_equal(ours, by_program(files, 1, *options))


def test_several_references_equal_the_sacrebleu_program(files):
    second = ["Da steht ein Mann.", "Zwei Hunde laufen, ein Kind lacht.", "Ein Test.", "Sie tanzt."]
    (files / "ref1").write_text("\n".join(second) + "\n", encoding="utf-8")
    ours = scores.corpus_scores(HYPOTHESES, list(map(list, zip(REFERENCES, second))))
    assert_equal(ours, by_program(files, 2))
    assert "nrefs:2" in ours["signature"]
    alone = scores.corpus_scores(HYPOTHESES, REFERENCES)
    assert ours["bleu"] > alone["bleu"] and ours["chrf"] > alone["chrf"]


def test_a_reference_that_is_missing_is_no_empty_reference():
    uneven = [[REFERENCES[0], REFERENCES[0]], *REFERENCES[1:]]  # nothing that one has not
    found = scores.corpus_scores(HYPOTHESES, uneven)
    alone = scores.corpus_scores(HYPOTHESES, REFERENCES)
    assert "nrefs:var" in found["signature"] and "nrefs:1" in alone["signature"]
    for metric in ("bleu", "chrf", "ter", "exact_match"):
        assert found[metric] == pytest.approx(alone[metric]), metric
    with pytest.raises(ValueError, match="example 1 has no reference"):
        scores.corpus_scores(["a", "b"], ["a", []])


def test_chinese_is_scored_by_its_characters(files):
    hypotheses, references = ["我爱你们，真的。", "猫在睡觉"], ["我爱你，真的。", "猫睡觉"]
    for name, lines in (("hyp", hypotheses), ("ref", references)):
        (files / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    rules = EvaluationConfig(tokenize="zh")
    found = scores.corpus_scores(hypotheses, references, rules=rules)
    options = ["-tok", "zh", "--ter-normalized", "--ter-asian-support"]
    assert_equal(found, by_program(files, 1, *options))
    assert "tok:zh" in found["signature"] and "asian:yes" in found["ter_signature"]
    # One sign too many in each of two lines, of 7 and 3 signs.
    assert found["ter"] == pytest.approx(100 * 2 / 10)
    assert scores.corpus_scores(hypotheses, references)["bleu"] == 0.0


def test_a_tokenizer_whose_package_is_missing_is_named_with_its_remedy(monkeypatch):
    from sacrebleu.tokenizers import tokenizer_ja_mecab

    monkeypatch.setattr(tokenizer_ja_mecab, "MeCab", None)
    with pytest.raises(ConfigError, match=r"pip install 'sacrebleu\[ja\]'"):
        require_tokenizer(EvaluationConfig(tokenize="ja-mecab"))
    require_tokenizer(EvaluationConfig(tokenize="zh"))


def test_exact_match_is_the_share_of_equal_lines():
    assert scores.corpus_scores(HYPOTHESES, REFERENCES)["exact_match"] == 0.25
    assert (
        scores.corpus_scores(HYPOTHESES, REFERENCES, rules=EvaluationConfig(lowercase=True))[
            "exact_match"
        ]
        == 0.5
    )
    assert scores.corpus_scores(["a "], ["a"])["exact_match"] == 0.0
    assert scores.corpus_scores(["a", "b"], [["x", "a"], ["y"]])["exact_match"] == 0.5


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
