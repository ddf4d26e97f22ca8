"""The programs of benchmarks/peers: arguments, protocol, equal models on both sides."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest


@pytest.fixture(scope="module")
def folder(root):
    return root / "benchmarks" / "peers"


@pytest.fixture
def load(folder, monkeypatch):
    """Imports a program as its siblings see it."""
    monkeypatch.syspath_prepend(str(folder))

    def load(name):
        monkeypatch.delitem(sys.modules, name, raising=False)
        return __import__(name)

    return load


def run(folder, program, *words, **options):
    command = [sys.executable, str(folder / program), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


@pytest.mark.parametrize(
    ("program", "words", "says"),
    [
        ("train_seqgen.py", ["--model", "elman"], "invalid choice"),
        ("decode_seqgen.py", ["--batch", "7"], "invalid choice"),
        ("drive.py", ["--malloc", "none", "true"], "invalid choice"),
        ("measure.py", ["--only", "no-such-row"], "--list shows them all"),
    ],
)
def test_work_that_cannot_be_done_is_refused_at_once(folder, program, words, says):
    result = run(folder, program, *words)
    assert result.returncode == 2 and says in result.stderr.splitlines()[-1], result.stderr


def test_models_have_the_parameters_of_the_torch_peers(load):
    torch = pytest.importorskip("torch")
    ours, theirs = load("train_seqgen"), load("torch_models")
    with torch.device("meta"):  # shapes alone
        peers = {name: theirs.build_torch_model(name) for name in ours.MODELS}
    for name, peer in peers.items():
        abstract = ours.build_definition(name, compute_dtype="float32").abstract
        count = sum(leaf.size for leaf in jax.tree.leaves(abstract))
        # Torch has two biases a gate, of which one would do; ours has one (a GRU's candidate two).
        second = 0
        if name.startswith("lstm"):
            second = sum(p.numel() for n, p in peer.named_parameters() if "bias_hh" in n)
        assert count == sum(p.numel() for p in peer.parameters()) - second, name


def test_batches_hold_what_the_loader_would_give(load):
    work, program = load("work"), load("train_seqgen")
    rows = np.array([[2, 7, 8, 3], [2, 9, 3, 0]], np.int32)
    given = work.PeerBatch(source=rows[:, 1:], target=rows[:, :-1], labels=rows[:, 1:])
    batch = program.to_batch(given)
    assert batch.labels.tolist() == [[7, 8, 3], [9, 3, 0]]
    assert batch.target.ids.tolist() == [[2, 7, 8], [2, 9, 0]]
    assert batch.weights.tolist() == batch.target.segments.tolist() == [[1, 1, 1], [1, 1, 0]]
    assert batch.source.positions.tolist() == [[0, 1, 2], [0, 1, 0]]
    assert work.count_tokens([given]) == 5


def test_characters_are_batches_without_sources(load):
    work, program = load("work"), load("train_seqgen")
    ids = work.make_characters("gpt-12x64")
    batches, tokens = program.character_batches("gpt-12x64")
    assert tokens == len(batches) * 12 * 64 == ids[..., 1:].size
    assert ids.min() >= 0 and ids.max() < work.GPT_VOCAB
    first = batches[0]
    assert first.source is None and first.weights.all() and first.target.segments.all()
    np.testing.assert_array_equal(first.target.ids[:, 1:], first.labels[:, :-1])
    np.testing.assert_array_equal(first.labels, ids[0, :, 1:])
    assert (first.target.positions == np.arange(64)).all()


PEER = """
import sys, time
sys.path.insert(0, {folder!r})
from protocol import serve
serve({name!r}, lambda: time.sleep(0.01) or 1.5, tokens=10)
"""


@pytest.fixture
def fake_peers(folder, tmp_path):
    """Commands of two programs that speak the protocol and do nothing."""
    commands = []
    for name in ("first", "second"):
        path = tmp_path / f"{name}.py"
        path.write_text(PEER.format(folder=str(folder), name=name), encoding="utf-8")
        commands.append(f"{sys.executable} {path}")
    return commands


def test_driver_imports_no_jax(folder):
    """It runs beside what it measures."""
    code = "import drive, sys; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=folder).returncode == 0


def test_driver_asks_in_turn_and_prints_ratios(folder, fake_peers):
    result = run(folder, "drive.py", "--rounds=3", "--pause=0", *fake_peers)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["name"] for line in lines] == ["first", "second"], result.stderr
    assert lines[0]["ratio"] == 1 and all(line["rounds"] == 3 for line in lines)
    assert all(line["loss"] == 1.5 and len(line["warmup_s"]) == 2 for line in lines)


def test_driver_names_the_program_that_failed(folder, fake_peers):
    broken = f"{sys.executable} -c 'raise SystemExit(\"no such corpus\")'"
    result = run(folder, "drive.py", fake_peers[0], broken)
    assert result.returncode == 1 and "no such corpus" in result.stderr


def test_row_is_measured_judged_and_written(load, fake_peers):
    measure, bars, page = load("measure"), load("bars"), load("page")
    row = bars.Row(
        "train-fake",
        {
            "torch float32": fake_peers[0].partition(" ")[2],
            "seqgen float32": fake_peers[1].partition(" ")[2],
            "seqgen int8": "decode_seqgen.py --batch 7",
        },
        (
            bars.Bar(1e9, ("seqgen float32",), ("torch float32",)),
            bars.Bar(0.5, ("seqgen int8",), ("torch float32",)),
        ),
    )
    found = measure.measure(row, peers_python=sys.executable, rounds=1, pause=0, malloc="default")
    assert list(found["programs"]) == ["torch float32", "seqgen float32"]
    assert "invalid choice" in found["missing"]["seqgen int8"]
    speed, memory, missing = page.verdicts(row, found)
    assert "missed" in speed and "peak memory" in memory and "not measured" in missing
    text = "\n".join(page.table(row, json.loads(json.dumps(found))))
    assert "| seqgen float32 |" in text and "invalid choice" in text


def test_table_has_every_bar_of_training_and_decoding(load):
    measure, work = load("measure"), load("work")
    names = [row.name for row in measure.ROWS]
    models = load("train_seqgen").MODELS
    training = [name for name in names if name.startswith("train")]
    assert all(any(name.startswith(f"train-{model}") for name in training) for model in models)
    assert len(names) == len(set(names)) == len(training) + 2 * 2 * len(work.DECODE_BATCHES) + 2
    for row in measure.ROWS:
        for bar in row.bars:
            assert set(bar.ours) | set(bar.theirs) <= set(row.programs)
