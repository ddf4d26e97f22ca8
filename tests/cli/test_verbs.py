"""The verbs on a small trained run: what they print is what anyone can recompute."""

import json
import math
import re
import shutil

import numpy as np
import pytest
import sacrebleu
from cli.calls import call, stdin

from seqgen.cli import compare
from seqgen.cli.main import main
from seqgen.data.lexicon import Lexicon, lexicon_fingerprint, save_lexicon
from seqgen.data.tokenizer import ByteTokenizer
from seqgen.data.tokenizer_store import Tokenizers
from seqgen.evaluation import minimum_bayes_risk
from seqgen.evaluation.config import COMPARED_METRICS

FIXED_NAMES = [
    *("split", "loss", "perplexity", "token_accuracy", "exact_match", "bleu", "chrf", "ter"),
    "signature",
]


def rows(workdir) -> list[dict]:
    text = (workdir / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


# ---- train ---------------------------------------------------------------------------------------


def test_train_records_what_was_typed(run_b):
    lines = (run_b / "overrides.txt").read_text(encoding="utf-8").splitlines()
    assert lines[1:] == ["--config.train.num_steps=240", "--config.train.seed=1"]
    assert lines[0].startswith("--config=") and lines[0].endswith("recipe.py:b")
    assert json.loads((run_b / "config.json").read_text())["train"]["seed"] == 1
    log = (run_b / "train.log").read_text(encoding="utf-8")
    assert f"  next           seqgen evaluate --workdir={run_b}\n" in log
    assert f"                 seqgen generate --workdir={run_b}\n" in log


def test_same_command_on_a_finished_run_does_nothing_more(run_a, recipe, capsys):
    before = rows(run_a)
    call(capsys, "train", f"--config={recipe}:a", f"--workdir={run_a}")
    assert rows(run_a) == before


def test_train_refuses_what_would_change_the_run(run_a, recipe, capsys):
    words = [f"--config={recipe}:a", f"--workdir={run_a}", "--config.model.embed_dim=8"]
    assert main(["train", *words]) == 2
    assert "model.embed_dim: the run has 16, the config says 8" in capsys.readouterr().err


# ---- evaluate ------------------------------------------------------------------------------------


def test_loop_cli_and_sacrebleu_by_hand_agree(run_a, tmp_path, capsys):
    file = tmp_path / "hypotheses.txt"
    words = ["--split=val", "--checkpoint=last", "--num_beams=1", "--json", f"--output={file}"]
    said = json.loads(call(capsys, "evaluate", f"--workdir={run_a}", *words))
    assert list(said)[: len(FIXED_NAMES)] == FIXED_NAMES
    assert 0 < said["bleu"] < 100 and said["loss"] > 0

    in_loop = rows(run_a)[-1]
    for name in FIXED_NAMES[1:-1]:
        assert in_loop[f"eval/{name}"] == pytest.approx(said[name], rel=1e-6), name

    from seqgen import config, data

    cfg = config.read_json(run_a / "config.json")
    references = [pair["target"] for pair in data.open_splits(cfg.data)["val"]]
    hypotheses = file.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    assert said["bleu"] == sacrebleu.corpus_bleu(hypotheses, [references]).score
    assert said["chrf"] == sacrebleu.corpus_chrf(hypotheses, [references]).score
    assert said["ter"] == sacrebleu.corpus_ter(hypotheses, [references]).score
    hits = sum(h == r for h, r in zip(hypotheses, references, strict=True))
    assert said["exact_match"] == hits / len(references)
    assert said["perplexity"] == pytest.approx(math.exp(said["loss"]))


def test_evaluate_prints_exactly_one_object(run_a, capsys):
    out = call(capsys, "evaluate", f"--workdir={run_a}", "--json", "--by_length=4,7")
    said = json.loads(out)
    assert out.count("\n") == 1
    assert said["split"] == "test" and said["examples"] == 40
    assert [row["min_words"] for row in said["by_length"]] == sorted(
        row["min_words"] for row in said["by_length"]
    )
    assert sum(row["examples"] for row in said["by_length"]) == 40


def test_evaluate_for_people_names_every_value(run_a, capsys):
    words = ["--checkpoint=avg:2", "--by_length", "--metrics=rougeL,novel2,distinct1"]
    out = call(capsys, "evaluate", f"--workdir={run_a}", *words)
    assert all(any(line.startswith(name) for line in out.splitlines()) for name in FIXED_NAMES)
    assert "source words" in out
    for name in ("bleu", "rougeL", "novel2"):
        assert re.search(rf"^{name} +[\d.]+  \(95 %: [\d.]+ to [\d.]+\)$", out, re.M), name
    assert re.search(r"^distinct1 +[\d.]+$", out, re.M)


def test_asked_metrics_are_reported_with_intervals(run_a, capsys):
    words = ["--metrics=rouge1,rougeLsum,repetition2,distinct2", "--json"]
    said = json.loads(call(capsys, "evaluate", f"--workdir={run_a}", *words))
    assert 0 < said["rougeLsum"] <= said["rouge1"] <= 100 and "rouge_signature" in said
    low, high = said["intervals"]["rouge1"]
    assert low < said["rouge1"] < high
    assert "distinct2" in said and "distinct2" not in said["intervals"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--split=tset"], "no split 'tset'"),
        (["--checkpoint=77"], "no checkpoint"),
        (["--checkpoint=bset"], "bad --checkpoint=bset"),
        (["--by_length=a"], "bad --by_length=a"),
        (["--metrics=rouge1,rogueL"], "did you mean   rougeL"),
        (["--num_beams=0"], "num_beams"),
        (["--compute_dtype=bf16"], "compute_dtype"),
        (["--quantize=int4"], "quantize"),
    ],
)
def test_evaluate_refuses_with_exit_2(run_a, capsys, words, expected):
    assert main(["evaluate", f"--workdir={run_a}", *words]) == 2
    captured = capsys.readouterr()
    assert expected in captured.err and "Traceback" not in captured.err
    assert captured.out == ""


def test_bfloat16_is_near_float32_and_named_in_the_report(run_a, capsys):
    exact, rounded = (
        json.loads(
            call(capsys, "evaluate", f"--workdir={run_a}", f"--compute_dtype={name}", "--json")
        )
        for name in ("float32", "bfloat16")
    )
    assert (exact["compute_dtype"], rounded["compute_dtype"]) == ("float32", "bfloat16")
    assert rounded["loss"] != exact["loss"]
    assert rounded["loss"] == pytest.approx(exact["loss"], rel=0.01)


def test_int8_changes_the_answers_scores_alone(run_a, capsys):
    exact, rounded = (
        json.loads(call(capsys, "evaluate", f"--workdir={run_a}", f"--quantize={name}", "--json"))
        for name in ("none", "int8")
    )
    assert (exact["quantize"], rounded["quantize"]) == ("none", "int8")
    assert rounded["loss"] == exact["loss"]


# ---- generate ------------------------------------------------------------------------------------

LINES = ["a b", "", "c a b c a", "a " * 300, "ж 漢 🙂", "b", "  "]


@pytest.fixture(scope="module")
def answers(run_a, tmp_path_factory):
    folder = tmp_path_factory.mktemp("generate")
    (folder / "in").write_text("\n".join(LINES) + "\n", encoding="utf-8")
    words = [f"--workdir={run_a}", f"--input={folder / 'in'}", f"--output={folder / 'out'}"]
    assert main(["generate", *words]) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["in", "out"], "no temporary is left"
    return (folder / "out").read_text(encoding="utf-8")


def test_generate_answers_line_for_line(answers):
    lines = answers.split("\n")
    assert lines.pop() == ""
    assert len(lines) == len(LINES)
    assert lines[1] == "" and lines[6] == "" and lines[0] != ""


def test_generate_reads_stdin_with_any_line_end(run_a, capsys, answers):
    data = "\r\n".join(LINES).encode()  # CRLF, and no end of the last line
    with stdin(data):
        assert call(capsys, "generate", f"--workdir={run_a}") == answers


def test_generate_survives_bad_utf8_and_says_so(run_a, capsys):
    with stdin(b"a \xff b\n\xe2\x82\nc\n"):
        assert main(["generate", f"--workdir={run_a}"]) == 0
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 3
    assert "2 lines of - are not valid UTF-8" in captured.err


@pytest.mark.parametrize("precision", ["--compute_dtype=bfloat16", "--quantize=int8"])
def test_generate_answers_in_less_precision_too(run_a, capsys, precision):
    def scored(*words):
        with stdin(b"a b c\nc c\n"):
            out = call(capsys, "generate", f"--workdir={run_a}", "--scores", *words)
        return [float(line.split("\t")[0]) for line in out.splitlines()]

    exact, rounded = scored(), scored(precision)
    assert rounded != exact
    assert rounded == pytest.approx(exact, rel=0.05)


def test_generate_n_best_is_sorted_by_score(run_a, capsys):
    with stdin(b"a b c\nc c\n"):
        out = call(
            capsys, "generate", f"--workdir={run_a}", "--scores", "--num_beams=4",
            "--num_return_sequences=3",
        )  # fmt: skip
    pairs = [line.split("\t", 1) for line in out.splitlines()]
    assert len(pairs) == 6
    for group in (pairs[:3], pairs[3:]):
        scores = [float(score) for score, _ in group]
        assert scores == sorted(scores, reverse=True)
        assert len({text for _, text in group}) == 3


def test_generate_samples_by_seed(run_a, capsys):
    def sample(seed):
        with stdin(b"a b c a b\n" * 4):
            words = ["--do_sample", "--temperature=3", f"--seed={seed}"]
            return call(capsys, "generate", f"--workdir={run_a}", *words)

    assert sample(1) == sample(1) != sample(2)


def test_generate_keeps_the_rules(run_a, capsys):
    def answer(*words):
        with stdin(b"a b c a b c\nc c c\n\n"):
            return call(capsys, "generate", f"--workdir={run_a}", *words).splitlines()

    plain = answer()
    assert any("c" in line for line in plain)
    assert not any("c" in line for line in answer("--bad_words=c", "--bad_words=a b"))
    forced = answer("--forced_prefix=b b", "--num_beams=2", "--repetition_penalty=1.5")
    assert forced[0].startswith("b b") and forced[1].startswith("b b")
    for line in answer("--no_repeat_ngram_size=1", "--max_length=4"):
        assert len(set(line)) == len(line) <= 3  # tokens are characters


def test_generate_puts_out_the_sample_nearest_to_all(run_a, capsys):
    words = [f"--workdir={run_a}", "--do_sample", "--temperature=2", "--num_return_sequences=4"]
    with stdin(b"a b c\nc a\n\n"):
        samples = call(capsys, "generate", *words).split("\n")
    with stdin(b"a b c\nc a\n\n"):
        chosen = call(capsys, "generate", *words, "--mbr").split("\n")
    assert len(samples) == 3 * 4 + 1 and len(chosen) == 3 + 1
    for line in range(3):
        group = samples[4 * line : 4 * line + 4]
        assert chosen[line] == group[minimum_bayes_risk.choose(group)]
    with stdin(b"a\n"):
        assert main(["generate", f"--workdir={run_a}", "--mbr"]) == 2
    assert "--do_sample --num_return_sequences=16" in capsys.readouterr().err


def test_generate_of_nothing_is_nothing(run_a, capsys):
    with stdin(b""):
        assert main(["generate", f"--workdir={run_a}"]) == 0
    assert capsys.readouterr() == ("", "answered 0 lines\n")


def test_generate_says_at_the_end_how_fast_it_was(run_a, capsys):
    """One token more than symbols an answer, for its end; none for the empty line."""
    with stdin(b"a b\n\nc c\n"):
        assert main(["generate", f"--workdir={run_a}"]) == 0
    captured = capsys.readouterr()
    numbers = r"in ([\d.]+) s: ([\d.]+) lines/s, ([\d,]+) tokens/s, first answer after ([\d.]+) s\n"
    said = re.fullmatch(f"answered 3 lines {numbers}", captured.err)
    assert said, captured.err
    seconds, lines, tokens, first = (float(text.replace(",", "")) for text in said.groups())
    assert 0 <= first <= seconds + 0.06
    generated = sum(len(line) + 1 for line in captured.out.splitlines() if line)
    assert tokens / lines == pytest.approx(generated / 3, abs=1 / lines + 0.1)


def test_a_shortlist_is_learnt_once_and_kept_in_the_run(run_a, tmp_path, capsys):
    """Three symbols and a blank: a shortlist of four is all that a reversal needs."""
    run = tmp_path / "run"
    shutil.copytree(run_a, run)
    words = ["evaluate", f"--workdir={run}", "--json"]
    whole, cut = (json.loads(call(capsys, *words, f"--shortlist={n}")) for n in (0, 4))
    assert (whole["shortlist"], cut["shortlist"]) == (0, 4)
    assert cut["loss"] == whole["loss"] and cut["bleu"] == pytest.approx(whole["bleu"], abs=0.2)
    written = (run / "shortlist.npz").stat().st_mtime_ns
    with stdin(b"a b c\nc c\n"):
        exact = call(capsys, "generate", f"--workdir={run}")
    with stdin(b"a b c\nc c\n"):
        assert call(capsys, "generate", f"--workdir={run}", "--shortlist=4") == exact
    assert (run / "shortlist.npz").stat().st_mtime_ns == written
    assert not (run_a / "shortlist.npz").exists()


def test_a_shortlist_of_other_tokenizers_is_refused(run_a, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(run_a, run)
    other = Tokenizers(ByteTokenizer(), ByteTokenizer())
    empty = np.zeros((ByteTokenizer().vocab_size, 100), np.int32)
    save_lexicon(Lexicon(empty, empty[:0, 0], lexicon_fingerprint(other)), run / "shortlist.npz")
    with stdin(b"a\n"):
        assert main(["generate", f"--workdir={run}", "--shortlist=5"]) == 2
    said = capsys.readouterr().err
    assert "shortlist.npz was learnt with other tokenizers" in said and "remove it" in said
    with stdin(b"a\n"):
        assert main(["generate", f"--workdir={run}", "--shortlist=500"]) == 2
    assert "bad shortlist: 500" in capsys.readouterr().err


def test_generate_leaves_an_old_output_whole_when_it_fails(run_a, tmp_path, capsys):
    out = tmp_path / "out"
    out.write_text("old\n")
    words = [f"--workdir={run_a}", f"--input={tmp_path / 'none'}", f"--output={out}"]
    assert main(["generate", *words]) == 2
    assert "cannot read" in capsys.readouterr().err
    assert out.read_text() == "old\n" and len(list(tmp_path.iterdir())) == 1


def test_generate_names_an_unwritable_place(run_a, tmp_path, capsys):
    with stdin(b"a\n"):
        assert main(["generate", f"--workdir={run_a}", f"--output={tmp_path}/no/out"]) == 5
    assert "cannot write" in capsys.readouterr().err


# ---- compare -------------------------------------------------------------------------------------


def test_compare_finds_the_better_trained_run(run_a, run_b, capsys):
    said = json.loads(call(capsys, "compare", run_a, run_b, "--metric=chrf", "--json"))
    scores = [
        json.loads(call(capsys, "evaluate", f"--workdir={run}", "--json"))["chrf"]
        for run in (run_a, run_b)
    ]
    assert [said["a"]["score"], said["b"]["score"]] == pytest.approx(scores)
    assert said["difference"]["score"] == pytest.approx(scores[1] - scores[0])
    assert said["is_real"] and said["verdict"].startswith("b is better")


def test_compare_offers_the_metrics_that_have_a_better_side():
    assert compare.METRICS == COMPARED_METRICS


def test_compare_of_a_run_with_itself_is_chance(run_a, capsys):
    out = call(capsys, "compare", run_a, run_a, "--draws=100", "--metric=rouge2")
    assert "no real difference" in out and "+0.00   95 % +0.00..+0.00" in out
