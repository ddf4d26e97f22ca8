import dataclasses
import json
import math
import time

import numpy as np
import pytest
from toy_training import toy_batch, toy_batches, toy_definition, toy_facts

from seqgen.errors import ConfigError, DivergedError, StorageError
from seqgen.training.checkpoint import CheckpointStore
from seqgen.training.config import OptimizerConfig, TrainConfig
from seqgen.training.loop import train
from seqgen.training.meter import Meter
from seqgen.training.progress import Progress
from seqgen.training.run_directory import RunDirectory
from seqgen.training.signals import StopSignals
from seqgen.training.state import state_digest
from seqgen.training.writers import read_rows, total_step_seconds

OPTIMIZER = OptimizerConfig(learning_rate=0.02, schedule="constant")


class Lines(Progress):
    def __init__(self):
        super().__init__()
        self.lines = []

    def _print(self, text):
        self.lines.append(text)


def go(path, *, batches=toy_batches, evaluators=(), identity=None, stop=None, **options):
    """One `train` call; gives the outcome and what was said."""
    defaults = {
        "num_steps": 8,
        "log_every_steps": 2,
        "eval_every_steps": 4,
        "checkpoint_every_steps": 2,
        "tensorboard": False,
        "best_metric": "eval/score",
    }
    progress = Lines()
    with RunDirectory(path) as run:
        outcome = train(
            toy_definition(),
            train_cfg=TrainConfig(**(defaults | options)),
            optimizer_cfg=OPTIMIZER,
            compute_dtype="float32",
            batches=batches,
            run=run,
            evaluators=evaluators,
            identity=identity,
            progress=progress,
            stop=stop,
        )
    return outcome, progress.lines


def stream(path):
    rows = read_rows(path / "metrics.jsonl")
    return [(row["step"], row.get("loss_hex"), row.get("batch_hash")) for row in rows]


def scorer(scores, calls=None):
    def evaluate(params, step):
        if calls is not None:
            calls.append(step)
        return {"eval/score": scores[step]}, [{"source": "a b", "hypothesis": f"at {step}"}]

    return evaluate


def test_events_tell_what_happened_to_the_run(tmp_path):
    score = scorer({4: 1.0, 8: 2.0})
    go(tmp_path, num_steps=4, checkpoint_every_steps=0, evaluators=[score])
    go(tmp_path, checkpoint_every_steps=0, evaluators=[score])
    rows = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert all(set(row) >= {"time", "event", "step"} for row in rows)
    assert [(row["event"], row["step"]) for row in rows] == [
        *[("started", 0), ("best", 4), ("save", 4), ("finished", 4)],
        *[("resumed", 4), ("best", 8), ("save", 8), ("finished", 8)],
    ]


def test_one_row_a_logged_step_with_its_own_loss(tmp_path):
    go(tmp_path / "a", log_every_steps=1, eval_every_steps=0, checkpoint_every_steps=0)
    go(tmp_path / "b", log_every_steps=3, eval_every_steps=0, checkpoint_every_steps=0)
    every = {step: (loss, digest) for step, loss, digest in stream(tmp_path / "a")}
    sparse = stream(tmp_path / "b")
    assert sorted(every) == list(range(1, 9))
    assert [row[0] for row in sparse] == [3, 6, 8]
    for step, loss, digest in sparse:
        assert every[step] == (loss, digest)
    row = read_rows(tmp_path / "a" / "metrics.jsonl")[4]
    assert float.fromhex(row["loss_hex"]) == row["train/loss"]
    assert np.float32(row["train/loss"]) == row["train/loss"], "the float32 value itself"
    facts = toy_facts(toy_batch(4))
    assert row["tokens"] == facts.tokens
    assert row["pad_frac"] == pytest.approx(facts.pad_fraction, abs=1e-4)
    assert row["train/perplexity"] == pytest.approx(math.exp(row["train/nll"]))


def test_train_six_equals_three_and_three_more(tmp_path):
    whole, _ = go(tmp_path / "whole", num_steps=6)
    go(tmp_path / "cut", num_steps=3)
    cut, lines = go(tmp_path / "cut", num_steps=6)
    assert "resumed at step 3" in lines
    assert state_digest(whole.state) == state_digest(cut.state)
    assert whole.host.batch_hash == cut.host.batch_hash
    assert stream(tmp_path / "whole")[-1] == stream(tmp_path / "cut")[-1]


def test_signal_saves_that_very_step_and_exits_75(tmp_path, monkeypatch):
    whole, _ = go(tmp_path / "whole")
    monkeypatch.setenv("SEQGEN_FAULT", "loop.step_done@step=5:term")
    stopped, lines = go(tmp_path / "cut")
    assert (stopped.exit_code, stopped.status, stopped.step) == (75, "interrupted", 5)
    assert "saved step 5; the same command resumes" in lines
    assert RunDirectory(tmp_path / "cut").status()["state"] == "interrupted"
    monkeypatch.delenv("SEQGEN_FAULT")
    resumed, _ = go(tmp_path / "cut")
    assert resumed.exit_code == 0
    assert state_digest(resumed.state) == state_digest(whole.state)
    assert stream(tmp_path / "cut") == stream(tmp_path / "whole")


def test_a_signal_within_an_evaluation_saves_without_finishing_it(tmp_path):
    stop = StopSignals()

    def interrupted(params, step):
        stop.requested = True
        stop.check()
        raise AssertionError

    outcome, _ = go(tmp_path, evaluators=[interrupted], stop=stop, checkpoint_every_steps=0)
    assert (outcome.status, outcome.step, outcome.exit_code) == ("interrupted", 4, 75)
    calls = []
    resumed, _ = go(tmp_path, evaluators=[scorer({4: 1.0, 8: 2.0}, calls)])
    assert calls == [4, 8]  # the evaluation that was cut short is made
    assert resumed.status == "finished"


def test_a_signal_within_the_last_evaluation_leaves_the_run_unfinished(tmp_path):
    stop = StopSignals()

    def interrupted(params, step):
        stop.requested = True
        stop.check()
        raise AssertionError

    options = {"num_steps": 4, "checkpoint_every_steps": 0}
    outcome, _ = go(tmp_path, evaluators=[interrupted], stop=stop, **options)
    assert (outcome.status, outcome.step, outcome.exit_code) == ("interrupted", 4, 75)
    calls = []
    resumed, _ = go(tmp_path, evaluators=[scorer({4: 1.0}, calls)], **options)
    assert calls == [4] and resumed.status == "finished"


def test_times_do_not_depend_on_how_often_they_are_logged(tmp_path):
    """Each step waits the same for its data; a meter that measured calls alone would see less."""

    def slow(start):
        for batch in toy_batches(start):
            time.sleep(0.02)
            yield batch

    for every in (1, 3, 8):
        path = tmp_path / str(every)
        go(path, batches=slow, log_every_steps=every, eval_every_steps=0, checkpoint_every_steps=0)
        row = read_rows(path / "metrics.jsonl")[-1]
        assert 20 <= row["step_ms"] < 200
        assert row["data_wait_ms"] >= 20
        assert row["data_wait"] >= 0.8 * 20 / row["step_ms"]


def test_compiling_counts_as_no_step(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("seqgen.training.meter.time.perf_counter", lambda: now[0])
    meter, facts = Meter(), [next(toy_batches(0))[1]]
    meter.start_step()
    meter.dispatched(facts, compiled=True)
    now[0] += 8
    meter.finished()
    meter.dispatched(facts, compiled=False)
    now[0] += 4  # the host compiles the program of the next step
    meter.finished(compiled=True)
    assert meter.train_seconds == 0.0
    meter.dispatched(facts, compiled=False)
    now[0] += 2
    meter.finished()
    assert meter.train_seconds == 2.0


def test_another_best_metric_starts_the_ranking_anew(tmp_path):
    go(tmp_path, num_steps=4, evaluators=[scorer({4: 31.0})])
    other = {"best_metric": "eval/loss", "keep_checkpoints": 1}

    def loss(params, step):
        return {"eval/loss": 2.0}, []

    outcome, _ = go(tmp_path, evaluators=[loss], **other)
    assert outcome.host.best == {"metric": "eval/loss", "value": 2.0, "step": 8}
    assert CheckpointStore(tmp_path).best_step() == 8


def test_rows_after_the_restored_step_are_cut_and_written_again(tmp_path):
    calls = []
    evaluators = [scorer({4: 1.0, 8: 2.0}, calls)]
    go(tmp_path / "whole", evaluators=evaluators)
    go(tmp_path / "cut", evaluators=evaluators, keep_checkpoints=9)
    store = CheckpointStore(tmp_path / "cut", asynchronous=False)
    for step in store.steps():
        if step > 4:
            (tmp_path / "cut" / "checkpoints" / str(step)).rename(tmp_path / f"gone-{step}")
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 9, "torn')
    calls.clear()
    go(tmp_path / "cut", evaluators=evaluators)
    assert calls == [8], "the evaluation of step 4 is in its checkpoint"
    assert stream(tmp_path / "cut") == stream(tmp_path / "whole")
    rows = {row["step"]: row for row in read_rows(tmp_path / "cut" / "metrics.jsonl")}
    assert rows[4]["eval/score"] == 1.0
    assert rows[8]["eval/score"] == 2.0
    assert len(rows) == 4


def test_a_finished_run_repeats_nothing(tmp_path):
    calls = []
    go(tmp_path, evaluators=[scorer({4: 1.0, 8: 2.0}, calls)])
    before = (tmp_path / "metrics.jsonl").read_bytes()
    outcome, _ = go(tmp_path, evaluators=[scorer({}, calls)])
    assert (outcome.status, outcome.step) == ("finished", 8)
    assert calls == [4, 8]
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_patience_ends_the_run_at_the_same_step_after_a_resume(tmp_path):
    scores = {4: 1.0, 8: 3.0, 12: 2.0, 16: 3.0, 20: 9.0}
    outcome, lines = go(tmp_path, num_steps=20, patience=2, evaluators=[scorer(scores)])
    assert (outcome.status, outcome.step, outcome.exit_code) == ("early_stopped", 16, 0)
    assert outcome.host.best == {"metric": "eval/score", "value": 3.0, "step": 8}
    assert 8 in CheckpointStore(tmp_path, asynchronous=False).steps()
    assert any("(-1 to the best, step 8)" in line for line in lines)
    again, _ = go(tmp_path, num_steps=20, patience=2, evaluators=[scorer(scores)])
    assert (again.status, again.step) == ("early_stopped", 16)


def test_lower_is_better_for_losses(tmp_path):
    def evaluate(params, step):
        return {"eval/loss": {4: 2.0, 8: 1.0, 12: 3.0}[step]}, []

    outcome, _ = go(
        tmp_path,
        num_steps=12,
        best_metric="eval/loss",
        evaluators=[evaluate],
        keep_checkpoints=2,
        checkpoint_every_steps=2,
    )
    assert outcome.host.best["step"] == 8
    assert CheckpointStore(tmp_path, asynchronous=False).best_step() == 8


def test_the_best_is_saved_between_intervals(tmp_path):
    go(tmp_path, evaluators=[scorer({4: 5.0, 8: 1.0})], checkpoint_every_steps=3)
    store = CheckpointStore(tmp_path, asynchronous=False)
    assert store.best_step() == 4


def test_evaluators_get_the_moving_average(tmp_path):
    seen = {}

    def evaluate(params, step):
        seen[step] = state_digest(params)
        return {"eval/score": 0.0}, []

    outcome, _ = go(tmp_path, ema_decay=0.9, evaluators=[evaluate])
    assert seen[8] == state_digest(outcome.state.ema) != state_digest(outcome.state.params)


def poisoned(start):
    for index, (batch, facts) in enumerate(toy_batches(start), start):
        if index >= 3:
            batch = dataclasses.replace(batch, weights=np.full_like(batch.weights, np.nan))
        yield batch, facts


def test_divergence_ends_with_exit_3_and_the_last_good_parameters(tmp_path):
    with pytest.raises(DivergedError, match="4 steps in a row") as caught:
        go(tmp_path, batches=poisoned, max_bad_steps=4)
    assert caught.value.exit_code == 3
    rows = read_rows(tmp_path / "metrics.jsonl")
    assert rows[-1]["train/loss"] is None
    assert rows[-1]["train/loss_nonfinite"] == "nan"
    assert rows[-1]["bad"] == 1
    assert RunDirectory(tmp_path).status()["state"] == "failed"
    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    store = CheckpointStore(tmp_path, asynchronous=False)
    params = store.find_params(toy_definition().abstract, "last").params
    good, _ = go(tmp_path / "good", num_steps=3)
    assert state_digest(params) == state_digest(good.state.params)


def test_bad_steps_are_told_one_by_one(tmp_path):
    def once(start):
        for index, (batch, facts) in enumerate(toy_batches(start), start):
            if index == 2:
                batch = dataclasses.replace(batch, weights=np.full_like(batch.weights, np.nan))
            yield batch, facts

    outcome, lines = go(tmp_path, batches=once)
    assert [line for line in lines if line.startswith("step 3 was skipped")]
    assert int(outcome.state.counters["bad_steps"]) == 1
    assert any("1 skipped steps" in line for line in lines)


def test_a_changed_corpus_is_refused_by_name(tmp_path):
    go(tmp_path, num_steps=2, identity={"data": {"train.en": "aa"}})
    with pytest.raises(ConfigError, match=r"data\.train\.en"):
        go(tmp_path, num_steps=4, identity={"data": {"train.en": "bb"}})


def test_a_failed_save_does_not_end_training_but_the_last_one_does(tmp_path, monkeypatch):
    monkeypatch.setenv("SEQGEN_FAULT", "ckpt.synced@step=4:enospc")
    outcome, lines = go(tmp_path / "a")
    assert outcome.status == "finished"
    assert any("checkpoint 4 was NOT saved" in line for line in lines)
    assert any("1 failed saves" in line for line in lines)
    monkeypatch.setenv("SEQGEN_FAULT", "ckpt.synced@step=8:enospc")
    with pytest.raises(StorageError) as caught:
        go(tmp_path / "b")
    assert caught.value.exit_code == 5


def test_accumulation_counts_every_micro_batch(tmp_path):
    outcome, _ = go(tmp_path, num_steps=4, accumulation_steps=3)
    assert outcome.host.batches == 12
    assert outcome.host.tokens == sum(toy_facts(toy_batch(i)).tokens for i in range(12))


def test_samples_are_kept_and_the_end_has_ten_lines(tmp_path):
    _, lines = go(tmp_path, evaluators=[scorer({4: 1.0, 8: 2.0})])
    assert (tmp_path / "samples" / "4.txt").read_text() == "source: a b\nhypothesis: at 4\n"
    start = next(i for i, line in enumerate(lines) if line.startswith("finished at step 8"))
    assert 9 <= len(lines) - start <= 11


def test_the_seconds_of_all_steps_from_logged_rows():
    rows = [{"step": 10, "step_ms": 100.0}, {"step": 30, "step_ms": 50.0}, {"step": 30, "eval": 1}]
    assert total_step_seconds(rows) == pytest.approx(2.0)
