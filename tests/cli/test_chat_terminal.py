"""`seqgen chat`: pipes, one shot, the terminal with its commands, and Ctrl-C."""

import io
import json
import re
import signal
import sys

import pytest
from cli.calls import call, stdin
from conversing import SYSTEM, parts, write_run
from prompted import generator as prompt_generator

import seqgen
from seqgen import loading
from seqgen.cli.chat import _SAFE, _shown
from seqgen.cli.main import main
from seqgen.conversation import Conversation
from seqgen.data.chat_template import ChatTemplate
from seqgen.data.dialogue import read_dialogues
from seqgen.errors import ConfigError
from seqgen.inference import Generator
from seqgen.streaming import TextStream
from seqgen.texts import one_line

LONG = ("--min_length=7",)  # so that there is something to see


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    cfg, tokenizers, _, params = parts("causal", tokenizer="bpe")
    return write_run(tmp_path_factory.mktemp("talk") / "run", cfg, tokenizers, params)


@pytest.fixture(scope="module")
def model(workdir):
    found = seqgen.load(workdir)
    assert isinstance(found, Generator)
    return found


@pytest.fixture(autouse=True)
def one_model(workdir, model, monkeypatch):
    """Every command of this file takes the loaded model: what one compiles serves the others."""
    usual = loading.load

    def load(path, **options):
        return model if path == [workdir] and "draft" not in options else usual(path, **options)

    monkeypatch.setattr(loading, "load", load)


@pytest.fixture(autouse=True)
def interruptible():
    """Ctrl-C raises, also where the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def replies(model, texts, **options):
    """A conversation by the library: every reply is `chat`'s to all that was said."""
    history = []
    for text in texts:
        history.append(text)
        history.append(model.chat(history, **options).text)
    return history[1::2]


def shown(*texts):
    """What a terminal shows of replies: a line each, nothing that would steer it."""
    return "".join(text.translate(_SAFE) + "\n" for text in texts)


class Terminal(io.StringIO):
    """What somebody types."""

    def isatty(self):
        return True


@pytest.fixture
def typed(monkeypatch, workdir, capsys):
    """(stdout, stderr) of a conversation in which these lines are typed."""

    def converse(*lines, words=()):
        monkeypatch.setattr(sys, "stdin", Terminal("".join(line + "\n" for line in lines)))
        capsys.readouterr()
        assert main(["chat", f"--workdir={workdir}", *words]) == 0
        return capsys.readouterr()

    return converse


def test_through_pipes_a_line_is_a_turn_and_a_line_its_reply(workdir, model, capsys):
    texts = ["a latte please", "yes", '[{"speaker": "bot", "text": "free"}]']
    with stdin("\n".join([texts[0], "", *texts[1:], "/reset", "yes"]).encode()):
        out = call(capsys, "chat", f"--workdir={workdir}", "--do_sample", "--seed=3")
    options = {"do_sample": True, "seed": 3}
    first, *others = replies(model, texts, **options)
    wanted = [first, "", *others, model.chat(["yes"], **options).text]
    assert out == "".join(one_line(text) + "\n" for text in wanted)
    assert len(set(wanted)) >= 3


def test_one_shot(workdir, model, capsys):
    for text in ("a latte", '[{"speaker": "bot"}]', "/reset"):
        out = call(capsys, "chat", f"--workdir={workdir}", "-p", text)
        assert out == one_line(model.chat([text]).text) + "\n"


def test_other_runs_help_to_reply(workdir, model, capsys):
    """A run together with itself, and drafting for itself, replies as it does alone."""
    wanted = one_line(model.chat(["a latte"]).text) + "\n"
    for word in (f"--ensemble={workdir}", f"--draft={workdir}"):
        assert call(capsys, "chat", f"--workdir={workdir}", word, "-p", "a latte") == wanted


def test_a_terminal_shows_replies_as_they_grow(typed, model, monkeypatch):
    pieces = []
    usual = TextStream.__next__
    monkeypatch.setattr(
        TextStream, "__next__", lambda self: pieces.append(usual(self)) or pieces[-1]
    )
    said = typed("a latte please", "", "//yes", "/quit", "never read", words=LONG)
    wanted = replies(model, ["a latte please", "/yes"], min_length=7)
    assert said.out == shown(*wanted)
    assert "".join(pieces) == "".join(wanted) and len(pieces) >= 16
    assert "user> " in said.err and "bot> " in said.err


def test_undo_and_reset(typed, model):
    said = typed("/undo", "a latte", "no", "/undo", "yes", "/reset", "yes", "/undo", "/undo")
    first, second = replies(model, ["a latte", "yes"])
    wrong = model.chat(["a latte", first, "no"]).text
    alone = model.chat(["yes"]).text
    assert said.out == shown(first, wrong, second, alone)
    assert said.err.count("error: nothing was said yet") == 2 and "taken back: no" in said.err


def test_set_takes_any_option_and_refuses_wrong_ones(typed, model):
    said = typed(
        "/set temprature=2",
        "/set temperature=2",
        "/set seed=0.5",
        "/set do_sample=true",
        "/set temperature=1.5",
        "/set seed=5",
        "/set num_return_sequences=2",
        "/set num_return_sequences=",
        "/set bad_words=e",
        "/set",
        "a latte",
        "/set stop_token_ids=7,8",
        "/set max_new_tokens=3",
        "/set seed",
        "/set seed=",
        "yes",
    )
    options = {"do_sample": True, "temperature": 1.5, "bad_words": ["e"]}
    first = model.chat(["a latte"], seed=5, **options).text
    second = model.chat(["a latte", first, "yes"], stop_token_ids=(7, 8), **options).text
    assert said.out == shown(first, second)
    for text in (
        "unknown option 'temprature'\n  did you mean   temperature",
        "temperature: read only when sampling",
        "bad value for  seed: '0.5'",
        "do_sample=True",
        "bad_words=('e',)",
        "stop_token_ids=7,8",
        "max_new_tokens: read only by language models",
        "/set needs NAME=VALUE",
        "num_return_sequences=1",
        "seed=0",
    ):
        assert text in said.err


def test_an_option_is_read_and_checked_once(model, monkeypatch):
    talk, asked, usual = Conversation(model), [], model.options
    monkeypatch.setattr(model, "options", lambda **given: asked.append(given) or usual(**given))
    assert talk.set("max_length", "5") == "5"
    assert asked == [{"max_length": 5}] == [talk.options]
    with pytest.raises(ConfigError):
        talk.set("max_length", "-1")
    assert talk.options == {"max_length": 5}


def test_system_line(typed, model):
    said = typed("/system", "/system be rude", "hi", "/system " + "be kind " * 200, "/system", "hi")
    first = model.chat(["hi"], system="be rude").text
    second = model.chat(["hi", first, "hi"], system="be rude").text
    assert said.out == shown(first, second)
    assert f"system line: {SYSTEM}\n" in said.err and "leaves no room" in said.err
    assert said.err.count("system line: be rude") == 2


def test_why_shows_each_token(typed, model):
    said = typed("/why", "a latte", "/why")
    answer = model.chat(["a latte"])
    lines = said.err.replace("user> ", "").replace("bot> ", "").splitlines()
    rows = [line for line in lines if re.match(r" *-?\d+\.\d\d  ", line)]
    assert len(rows) == len(answer.ids) + 2  # the end, and the sum
    assert float(rows[-1].split()[0]) == pytest.approx(answer.log_prob, abs=0.006)
    choice = model.token_choices(model.chat_form.line(["a latte"]), answer.ids)[0]
    assert float(rows[0].split()[0]) == pytest.approx(choice.log_prob, abs=0.006)
    assert choice.alternatives[0][1] == choice.id  # greedy
    for text, token, log_prob in choice.alternatives[1:]:
        assert f"{_shown(text, token)} {log_prob:.2f}" in rows[0]
    assert "nothing was said yet" in said.err


def test_save_writes_what_the_dialogue_source_reads(typed, model, tmp_path):
    path = tmp_path / "train.jsonl"
    said = typed("/save", f"/save {path}", "a latte", f"/save {path}", "Café?", f"/save {path}")
    assert "/save needs a file" in said.err and f"saved as line 2 of {path}" in said.err
    template = ChatTemplate(("user", "bot"), "bot", "", 50)
    short, long = read_dialogues(path, template)
    first, second = replies(model, ["a latte", "Café?"])
    assert [(turn.speaker, turn.text) for turn in long] == [
        *(("user", "a latte"), ("bot", first), ("user", "Café?"), ("bot", second))
    ]
    assert short == long[:2]
    row = json.loads(path.read_text(encoding="utf-8").split("\n")[0])
    assert row["system"] == SYSTEM
    assert "cannot write" in typed("hi", f"/save {tmp_path}/no/where").err


def test_help_and_commands_that_are_none(typed):
    said = typed("/help", "/sav x", "/wy", "/exit", "hi")
    assert said.out == "" and "did you mean   /save" in said.err and "/why" in said.err
    for name in ("reset", "undo", "set", "system", "why", "save", "help", "quit"):
        assert f"/{name} " in said.err


def test_ctrl_c_stops_the_reply_and_not_the_program(typed, model, monkeypatch):
    count = 0
    usual = TextStream.__next__

    def interrupted(self):
        nonlocal count
        count += 1
        if count == 4:
            signal.raise_signal(signal.SIGINT)
        return usual(self)

    monkeypatch.setattr(TextStream, "__next__", interrupted)
    before = signal.getsignal(signal.SIGINT)
    said = typed("a latte", "/undo", "yes", words=LONG)
    assert signal.getsignal(signal.SIGINT) is before
    whole = shown(model.chat(["yes"], min_length=7).text)
    stopped = said.out.removesuffix(whole).removesuffix("\n")
    answer = shown(model.chat(["a latte"], min_length=7).text)
    assert said.out.endswith(whole) and stopped and stopped != said.out
    assert answer.startswith(stopped) and len(stopped) < len(answer) - 1
    assert "(stopped; /undo takes it back)" in said.err and "taken back: a latte" in said.err


def test_ctrl_c_at_the_prompt_ends_nothing(typed, model, monkeypatch):
    usual, asked = Terminal.readline, []

    def readline(self):
        asked.append(1)
        if len(asked) == 1:
            raise KeyboardInterrupt
        return usual(self)

    monkeypatch.setattr(Terminal, "readline", readline)
    said = typed("yes")
    assert said.out == shown(model.chat(["yes"]).text) and "Ctrl-D or /quit ends" in said.err


def test_ctrl_c_ends_a_program_in_a_pipe(workdir, monkeypatch, capsys):
    def interrupted(self):
        signal.raise_signal(signal.SIGINT)
        raise AssertionError

    monkeypatch.setattr(TextStream, "__next__", interrupted)
    with stdin(b"a latte\nyes\n"):
        assert main(["chat", f"--workdir={workdir}"]) == 130
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (["--temperature=2", "-p", "hi"], "temperature: read only when sampling"),
        (["--stop=a", "-p", "hi"], "stop: read only by language models"),
        (["--draft=nowhere", "-p", "hi"], "nowhere does not exist"),
        (["--sed=1"], "did you mean   --seed=1"),
    ],
)
def test_wrong_options_end_it_before_it_begins(workdir, words, cause, capsys):
    assert main(["chat", f"--workdir={workdir}", *words]) == 2
    captured = capsys.readouterr()
    assert cause in captured.err and captured.out == ""


def test_a_run_that_does_not_converse_is_refused(workdir, monkeypatch, capsys):
    monkeypatch.setattr(loading, "load", lambda *path, **options: prompt_generator("gpt2"))
    assert main(["chat", f"--workdir={workdir}", "-p", "a b"]) == 2
    assert "not trained on dialogues" in capsys.readouterr().err


def test_a_run_without_hidden_tokens_says_what_to_take(workdir, capsys):
    assert main(["fill", f"--workdir={workdir}", "--text=a [MASK]"]) == 2
    assert "seqgen generate" in capsys.readouterr().err
