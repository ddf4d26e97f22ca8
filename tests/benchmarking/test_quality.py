"""Curves read off at equal budgets, and the trainings behind them."""

import dataclasses

import pytest
import rows

from seqgen.benchmarking import curves, pace, quality, suite
from seqgen.benchmarking.cells import FULL, SMOKE
from seqgen.benchmarking.named import check_names
from seqgen.benchmarking.results import Results
from seqgen.benchmarking.tasks import TASKS, Training
from seqgen.errors import ConfigError

BOTH = dataclasses.replace(SMOKE, first_only=())
TRAINING = Training(
    task="number_words",
    scale="smoke",
    model="mingru",
    seed=0,
    dtype="float32",
    folder="",
    data_dir="",
    minutes=25.0,
)


def test_a_curve_is_read_on_the_line_between_its_points():
    curve = rows.training_row("gru", 0)["curve"]
    assert curves.read_at(curve, "tokens", 100, "loss") == 3.0
    assert curves.read_at(curve, "tokens", 150, "loss") == pytest.approx(2.5)
    assert curves.read_at(curve, "seconds", 2.25, "score") == pytest.approx(0.5625)
    assert curves.read_at(curve, "flops", 3e6, "loss") == 1.0


def test_nothing_is_extrapolated():
    curve = rows.training_row("gru", 0)["curve"]
    assert curves.read_at(curve, "tokens", 99, "loss") is None
    assert curves.read_at(curve, "tokens", 301, "loss") is None
    assert curves.read_at([], "tokens", 1, "loss") is None


def test_who_keeps_the_best_checkpoint_loses_nothing_by_learning_on():
    curve = rows.training_row("gru", 0)["curve"]  # losses 3, 2, 1 at 100, 200, 300 tokens
    curve[2]["loss"] = 5.0
    assert curves.lowest_loss(curve, "tokens", 300) == curves.lowest_loss(curve, "tokens", 250) == 2
    assert curves.lowest_loss(curve, "tokens", 150) == pytest.approx(2.5)
    assert curves.lowest_loss(curve, "tokens", 301) is None


def test_equal_time_is_another_order_than_equal_tokens():
    fast = [rows.training_row("fast", 0, speed=2.0)["curve"]]
    slow = [rows.training_row("slow", 0)["curve"]]
    both = {"fast": fast, "slow": slow}
    assert curves.common_budget([*fast, *slow], "seconds") == 1.5
    at_time = curves.at_equal(both, "seconds", 1.5, "loss")
    assert at_time["fast"]["median"] == 1.0 and at_time["slow"]["median"] == pytest.approx(2.5)
    at_tokens = curves.at_equal(both, "tokens", 300, "loss")
    assert at_tokens["fast"] == at_tokens["slow"]


def test_seeds_make_a_range_and_a_missing_one_none():
    first, second = (rows.training_row("gru", seed)["curve"] for seed in (0, 1))
    second = [{**point, "loss": point["loss"] + 1} for point in second]
    found = curves.at_equal({"gru": [first, second]}, "tokens", 200, "loss")["gru"]
    assert found == {"min": 2.0, "median": 2.5, "max": 3.0}
    assert curves.at_equal({"gru": [first, second[:1]]}, "tokens", 200, "loss")["gru"] is None


def test_a_curve_from_logged_rows():
    logged = [
        {"step": 10, "step_ms": 100.0, "tokens_seen": 50},
        {"step": 20, "step_ms": 50.0, "tokens_seen": 90, "eval/loss": 2.0, "eval/bleu": 7.0},
        {"step": 30, "step_ms": 50.0, "tokens_seen": 130, "eval/loss": None},
    ]
    (point,) = curves.make_curve(logged, score="bleu", flops_per_token=10.0, step_seconds=0.05)
    wanted = {"step": 20, "tokens": 90, "flops": 900.0, "loss": 2.0, "score": 7.0}
    assert point == {**wanted, "seconds": pytest.approx(1.0)}


def test_minutes_are_a_number_of_steps_at_the_pace():
    training = dataclasses.replace(TRAINING, scale="full", minutes=8.0, step_seconds=0.1)
    assert training.num_steps == 120  # a fortieth of 480 s
    assert dataclasses.replace(training, step_seconds=0.11).num_steps == 100  # the last logged
    assert dataclasses.replace(training, step_seconds=60.0).num_steps == 10
    assert dataclasses.replace(TRAINING, step_seconds=1e-9).num_steps == 4  # all of the task
    assert training.config().train.num_steps == 120
    assert training.pace_key == dataclasses.replace(training, seed=1).pace_key


def test_a_pace_is_the_mean_over_the_shapes_as_often_as_they_come(monkeypatch):
    taken = iter([(0.1, 0.2), (0.3, 0.4)])
    monkeypatch.setattr(
        pace.machine, "measure", lambda call, **_: pace.machine.Timing(next(taken), calls=1)
    )
    training = dataclasses.replace(TRAINING, scale="full", task="copy")  # two shapes
    monkeypatch.setattr(pace, "PROBED_BATCHES", 40)
    row = pace.measure_pace(training, repeats=2)
    assert row["shapes"] == 2
    low, high = row["seconds"]["samples"]
    assert high - low == pytest.approx(0.1) and 0.1 < low < 0.3


@pytest.mark.parametrize(
    ("scale", "task"), [(scale, task) for scale, tasks in TASKS.items() for task in tasks]
)
@pytest.mark.parametrize(("model", "kind"), [("mingru", "mingru"), ("gpt", "none")])
def test_every_task_is_a_valid_experiment(scale, task, model, kind, tmp_path):
    options = {"scale": scale, "task": task, "model": model, "data_dir": str(tmp_path)}
    training = dataclasses.replace(TRAINING, **options)
    cfg, recipe = training.config(), training.recipe()
    text = recipe.language_model
    assert cfg.train.seed == 0 and cfg.evaluation.metrics == (() if text else (recipe.score,))
    assert cfg.model.encoder.kind == ("none" if text else kind)
    assert cfg.data.contiguous == text and cfg.data.streams == (text and model == "mingru")


def test_a_training_gives_a_curve_and_resumes(tmp_path):
    training = dataclasses.replace(TRAINING, folder=str(tmp_path / "run"), step_seconds=0.5)
    row = quality.train_one(training)
    assert (row["status"], row["steps"]) == ("finished", 4)
    assert [point["step"] for point in row["curve"]] == [2, 4]
    first, last = row["curve"]
    assert 0 < first["tokens"] < last["tokens"] and (first["seconds"], last["seconds"]) == (
        1.0,
        2.0,
    )
    assert last["flops"] == pytest.approx(last["tokens"] * row["flops_per_token"])
    assert row["test"]["loss"] > 0 and "exact_match" in row["test"]
    again = quality.train_one(training)
    assert again["curve"] == row["curve"]


def test_a_language_model_is_compared_by_the_bits_of_a_byte(tmp_path, monkeypatch):
    recipe = dataclasses.replace(
        TASKS["full"]["language_model"],
        parameters=5_000,
        data={"source": "plain_text", "block_len": 16, "num_rows": 4},
        tokenizer={"kind": "char", "vocab_size": 30, "byte_fallback": False},
        eval_every=2,
        num_steps=2,
    )
    monkeypatch.setitem(TASKS["smoke"], "language_model", recipe)
    for split, lines in (("train", 60), ("val", 4)):
        (tmp_path / f"{split}.txt").write_text("the fox and the dog\n" * lines)
    options = {"folder": str(tmp_path / "run"), "data_dir": str(tmp_path)}
    row = quality.train_one(dataclasses.replace(TRAINING, task="language_model", **options))
    (point,) = row["curve"]
    assert point["tokens"] == 2 * 4 * 16
    assert row["score"] == "bits_per_byte"
    assert row["test"] == {
        "split": "val",
        "loss": pytest.approx(point["loss"]),
        "bits_per_byte": pytest.approx(point["score"]),
    }
    assert 6 * 4_000 < row["flops_per_token"] < 6 * 6_000  # each number multiplies each token once


@pytest.fixture
def trained(monkeypatch):
    """Trainings that a worker would have got; what it says is taken from `answers` first."""
    orders, answers = [], []

    def ask(order, *, seconds, grace=0.0):
        del seconds
        if "pace" in order:
            return {"seconds": rows.timing(0.01), "shapes": 1}
        assert grace > 0
        training = Training(**order["train"])
        orders.append(training)
        if answers:
            return answers.pop(0)
        found = rows.training_row(training.model, training.seed)
        return {name: found[name] for name in ("curve", "status", "test", "score", "parameters")}

    monkeypatch.setattr(quality, "ask_worker", ask)
    return orders, answers


def measure(folder, plan, *, data_dir="", minutes=1.0):
    said = []
    work = suite.Suite(
        Results(folder, command=""), repeats=5, dtype="float32", seconds=60, say=said.append
    )
    quality.measure(work, plan, folder=folder, data_dir=data_dir, minutes=minutes)
    return said


def test_longer_trainings_go_on_and_finished_ones_rest(trained, tmp_path):
    orders, _ = trained
    measure(tmp_path, BOTH)
    assert [training.model for training in orders] == ["gru", "transformer"]
    measure(tmp_path, BOTH)
    assert len(orders) == 2
    measure(tmp_path, BOTH, minutes=2.0)
    assert [training.folder for training in orders[2:]] == [t.folder for t in orders[:2]]
    assert {training.step_seconds for training in orders} == {0.01}


def test_without_a_pace_there_is_no_training(trained, tmp_path, monkeypatch):
    monkeypatch.setattr(quality, "ask_worker", lambda order, **_: {"error": "too slow"})
    measure(tmp_path, BOTH)
    found = Results(tmp_path, command="").rows.values()
    errors = [row["error"] for row in found if row["what"] == "compare"]
    assert errors == ["its pace is not known: too slow"] * 2


def test_the_full_plan_trains_each_model_once_a_task_and_seed(trained, tmp_path):
    orders, _ = trained
    said = measure(tmp_path, FULL)
    assert len(orders) == len(FULL.models) * 2 * 2
    assert "compare: multi30k is left out: --data_dir=DIR wants its corpus in DIR/multi30k" in said
    orders.clear()
    (tmp_path / "multi30k").mkdir()
    measure(tmp_path, FULL, data_dir=str(tmp_path))
    assert {training.data_dir for training in orders} == {str(tmp_path / "multi30k")}
    assert [(t.task, t.model, t.seed) for t in orders] == [
        ("multi30k", model, 0) for model in FULL.swept
    ]
    assert len({training.key for training in orders}) == 4


def test_language_models_have_no_source_to_attend_to(trained, tmp_path):
    orders, _ = trained
    (tmp_path / "tinyshakespeare").mkdir()
    plan = dataclasses.replace(FULL, tasks=("language_model", "dialogue"))
    said = measure(tmp_path, plan, data_dir=str(tmp_path))
    assert [(training.model, training.seed) for training in orders] == [
        (model, seed) for model in ("lstm", "gru", "mingru", "transformer") for seed in (0, 1)
    ]
    (place,) = [line for line in said if "left out" in line]
    assert place.endswith(str(tmp_path / "taskmaster4_coffee"))


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["copi"], "unknown bench task 'copi'[\\s\\S]*did you mean   copy"),
        ([], "--tasks is empty"),
        (["copy", "copy"], "--tasks names copy twice"),
    ],
)
def test_bad_names_of_tasks_are_refused(names, said):
    with pytest.raises(ConfigError, match=said):
        check_names(names, TASKS["full"], what="bench task", option="--tasks")


def test_an_interrupted_training_is_no_row(trained, tmp_path):
    _, answers = trained
    answers.append({"error": "Interrupted: the same command goes on"})
    with pytest.raises(suite.Interrupted):
        measure(tmp_path, BOTH)
    answers.append({"error": "ended with 1: boom"})
    measure(tmp_path, BOTH)
    found = Results(tmp_path, command="").rows.values()
    broken, whole = (row for row in found if row["what"] == "compare")
    assert broken["error"] == "ended with 1: boom" and "curve" in whole
