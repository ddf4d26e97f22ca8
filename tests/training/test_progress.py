import io
import time

import pytest
from rich.console import Console

from seqgen.training import progress as progress_module
from seqgen.training.progress import (
    LiveProgress,
    Progress,
    StepView,
    clock,
    fit_columns,
    make_progress,
    short_number,
    step_columns,
)

VIEW = StepView(
    step=1240,
    num_steps=5000,
    values={
        "train/loss": 2.3141,
        "train/perplexity": 10.115,
        "train/accuracy": 0.581,
        "lr": 3e-4,
        "grad_norm": 0.812,
    },
    tokens_per_second=12400.0,
    step_ms=41.2,
    wait_share=0.02,
    pad_share=0.06,
    checkpoint=1200,
    seconds_left=161,
)


def test_the_line_has_what_the_design_shows():
    line = " ".join(step_columns(VIEW))
    assert line == (
        "train 1,240/5,000 25% ▇───── loss 2.314 ppl 10.12 acc .58 lr 3.0e-04 gnorm 0.81 "
        "| 12.4k tok/s 41 ms wait 2% pad 6% | ckpt 1.2k | eta 2m41s"
    )


@pytest.mark.parametrize("width", range(10, 200, 7))
def test_columns_drop_from_the_right(width):
    columns = step_columns(VIEW)
    line = fit_columns(columns, width)
    assert len(line) <= width
    assert " ".join(columns).startswith(line)
    if width >= len(columns[0]):
        kept = len(line)
        assert kept == len(" ".join(columns)) or kept + 1 + len(columns[0]) > 0
        assert any(line == " ".join(columns[:n]) for n in range(1, len(columns) + 1))


def test_missing_and_small_values_do_not_crash():
    view = StepView(0, 0, {"train/loss": None}, 0.0, 0.0, 0.0, 0.0, None, 0.0)
    assert "loss -" in " ".join(step_columns(view))


def test_numbers_and_times():
    assert [short_number(v) for v in (0, 999, 12400, 3.2e6)] == ["0", "999", "12.4k", "3.2M"]
    assert [clock(v) for v in (0, 59.6, 161, 7384)] == ["0s", "1m00s", "2m41s", "2h03m"]


def test_without_a_terminal_lines_are_plain(monkeypatch):
    monkeypatch.setattr(progress_module, "PHASE_SILENCE", 0.05)
    stream, logged = io.StringIO(), []
    progress = make_progress(stream=stream, log=logged.append)
    assert type(progress) is Progress
    with progress.phase("quick"):
        pass
    with progress.phase("compile train step"):
        time.sleep(0.2)
    progress.step(VIEW)
    best = {"metric": "eval/bleu", "value": 30.0, "step": 500}
    progress.evaluation(
        1000, {"eval/loss": 2.5, "eval/bleu": 31.5}, best=best, samples=[{"source": "a " * 200}]
    )
    text = stream.getvalue()
    assert "\x1b" not in text
    lines = text.splitlines()
    assert lines[0] == "compile train step ..."
    assert lines[1].startswith("compile train step: 0.")
    assert lines[2].startswith("train 1,240/5,000")
    assert "bleu 31.5 (+1.5 to the best, step 500)" in lines[3]
    assert len(lines[4]) < 200
    assert lines[1:] == logged, "the heartbeat is for the eye only"
    assert progress.seconds["compile"] >= 0.2


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_on_a_terminal_one_line_is_redrawn_within_the_width(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Terminal()
    progress = make_progress(stream=stream)
    assert isinstance(progress, LiveProgress)
    progress._console = Console(file=stream, width=40, force_terminal=True)
    progress._live.console = progress._console
    progress.step(VIEW)
    progress.line("a message")
    rendered = progress._render()
    assert rendered.plain == fit_columns(step_columns(VIEW), 39)
    with progress.phase("save step 5"):
        assert progress._render().plain.startswith("save step 5 ...")
    progress.close()
    text = stream.getvalue()
    assert "a message" in text
    assert "\x1b[3" not in text, "NO_COLOR is respected"
    assert "\x1b[?25h" in text, "the cursor comes back"


def test_a_dumb_terminal_gets_plain_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    assert type(make_progress(stream=Terminal())) is Progress
