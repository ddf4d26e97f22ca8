"""Searches beyond the beam, as the verbs run and refuse them."""

import json

import pytest
from cli.calls import call, stdin

from seqgen import load
from seqgen.cli.main import main


def test_an_ensemble_is_evaluated_and_generates(run_a, run_b, capsys):
    def loss(*words):
        words = [f"--workdir={run_a}", "--split=val", "--json", *words]
        return json.loads(call(capsys, "evaluate", *words))

    alone, twice = loss(), loss(f"--ensemble={run_a}")
    assert twice["loss"] == pytest.approx(alone["loss"], rel=1e-5)
    assert (twice["bleu"], twice["ensemble"]) == (alone["bleu"], [str(run_a)] * 2)
    both = loss(f"--ensemble={run_b}", "--ensemble_mean=log_probs")
    assert both["loss"] != alone["loss"] and both["ensemble_mean"] == "log_probs"
    with stdin(b"a b\nc a b\n"):
        out = call(capsys, "generate", f"--workdir={run_a}", f"--ensemble={run_b}")
    answers = load([run_a, run_b]).generate(["a b", "c a b"])
    assert out.splitlines() == [answer[0].text for answer in answers]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--ensemble=nowhere"], "nowhere"),
        (["--ensemble_mean=probs"], "only for an ensemble"),
        (["--ensemble=SELF", "--ensemble_mean=median"], "probs or log_probs"),
        (["--ensemble=SELF", "--shortlist=5"], "an ensemble of 2 runs"),
        (["--num_beams=4", "--num_beam_groups=3"], "must be a multiple"),
        (["--num_beams=4", "--diversity_penalty=1"], "num_beam_groups of 2 or more"),
        (["--required_words=a"], "only by beam search"),
        (["--num_beams=2", "--required_words=c", "--bad_words=c"], "what bad_words forbid"),
        (["--num_beams=2", "--required_words=a b c", "--max_length=3"], "line 1"),
        (["--num_beams=2", "--coverage_penalty=0.2"], "this model has none"),
    ],
)
def test_what_makes_no_sense_exits_2(run_a, capsys, words, expected):
    words = [word.replace("SELF", str(run_a)) for word in words]
    with stdin(b"a b\n"):
        assert main(["generate", f"--workdir={run_a}", *words]) == 2
    captured = capsys.readouterr()
    assert expected in captured.err and "Traceback" not in captured.err
    assert captured.out == "" and captured.err.count("\n") < 25


def test_required_words_and_groups_come_by_flags(run_a, capsys):
    words = ["--num_beams=4", "--required_words=c b", "--required_words=a a"]
    words += ["--num_beam_groups=2", "--diversity_penalty=9", "--num_return_sequences=2"]
    with stdin(b"a b\nb\n"):
        lines = call(capsys, "generate", f"--workdir={run_a}", *words).splitlines()
    assert len(lines) == 4 and all("c b" in line and "a a" in line for line in lines)


def test_a_draft_changes_no_answer(run_a, run_b, capsys):
    def answers(*words):
        with stdin(b"a b\nc a b c\n\nb\n"):
            return call(capsys, "generate", f"--workdir={run_a}", *words)

    draft = f"--draft={run_b}"
    assert answers(draft, "--num_draft_tokens=3") == answers()
    assert answers("--contrastive_k=3", "--penalty_alpha=0").count("\n") == 4
    with stdin(b"a b\n"):
        assert main(["generate", f"--workdir={run_a}", draft, "--num_beams=2"]) == 2
    assert "one sample a line" in capsys.readouterr().err
    words = ["--split=val", "--json", f"--workdir={run_a}"]
    drafted, plain = (json.loads(call(capsys, "evaluate", *words, *more)) for more in ([draft], []))
    assert drafted.pop("draft") == str(run_b) and drafted == plain
