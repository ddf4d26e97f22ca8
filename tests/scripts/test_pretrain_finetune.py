"""What pre-training reads, and the page that compares twins."""

import gzip
import importlib
import json
import sys

import pytest

from seqgen.errors import DataError


@pytest.fixture(scope="module")
def modules(root):
    sys.path.insert(0, str(root / "scripts"))
    try:
        names = ("pretraining_text", "pretrain_finetune_page", "pretrain_finetune")
        return [importlib.import_module(name) for name in names]
    finally:
        sys.path.pop(0)


def write_corpora(folder):
    verses = "".join(f"verse {i}\nand {i}\n \n" for i in range(110))
    (folder / "poetry_pd").mkdir(parents=True)
    with gzip.open(folder / "poetry_pd/train.txt.gz", "wt") as file:
        file.write(verses)
    (folder / "poetry_pd/dev.txt").write_text("held out\n")
    turns = [{"speaker": "user", "text": "hi\n there"}, {"speaker": "system", "text": " "}]
    pairs = [{"source": f"long text {i}", "target": "synopsis"} for i in range(3)]
    for name, rows in (("schema_guided", [{"turns": turns}]), ("debian_synopsis", pairs)):
        (folder / name).mkdir()
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / name / "train.jsonl").write_text(lines)
    return folder


def test_text_is_documents_of_train_files_with_one_in_fifty_held_out(modules, tmp_path):
    text, *_ = modules
    facts = text.write_text(write_corpora(tmp_path / "data"), tmp_path / "text")
    assert {name: row["documents"] for name, row in facts.items()} == {
        "poetry_pd": 110,
        "schema_guided": 1,
        "debian_synopsis": 3,
    }
    train, val = ((tmp_path / f"text/{name}.txt").read_text() for name in ("train", "val"))
    assert sum(row["bytes"] for row in facts.values()) == len(train) + len(val)
    held = val.split("\n\n")
    expected = ["verse 0\nand 0", "verse 50\nand 50", "verse 100\nand 100", "hi there"]
    assert held == [*expected, "long text 0", ""]
    assert train.split("\n\n")[:2] == ["verse 1\nand 1", "verse 2\nand 2"]
    assert not set(held[:-1]) & set(train.split("\n\n"))
    assert "held out" not in train + val and "synopsis" not in train + val
    assert text.write_text(tmp_path / "gone", tmp_path / "text") == facts, "made once"
    with pytest.raises(DataError, match="no text to pre-train on"):
        text.write_text(tmp_path / "gone", tmp_path / "other")


def curve(*losses):
    return [{"seconds": 60.0 * (i + 1), "loss": loss} for i, loss in enumerate(losses)]


def test_the_page_shows_both_times_and_who_was_better(modules):
    _, pages, _ = modules

    def run(perplexity, *losses):
        scores = {"perplexity": perplexity}
        return {"steps": 30, "seconds": 180.0, "scores": scores, "curve": curve(*losses)}

    task = {
        "task": "talk",
        "recipe": "dialogue/talk",
        "corpus": "chats",
        "score": "perplexity",
        "less_is_better": True,
        "pretraining_seconds": 600.0,
        "arms": {
            pages.PRETRAINED: [run(10.0, 3.0, 2.5, 2.4), run(14.0, 2.6, 2.7, 2.8)],
            pages.SCRATCH: [run(12.0, 4.0, 3.0, 2.5), run(13.0, 4.0, 3.0, 2.6)],
        },
    }
    assert pages.caught_up(task) == [120.0, 60.0]
    text = pages.to_markdown(pages.task_blocks(task))
    assert "better with 1 of 2 seeds (less is better)" in text
    assert "after 1.5 min of fine-tuning, 11.5 with pre-training" in text
    assert "| pre-trained | 12 | 10, 14 | 30 | 3.0 | 13.0 |" in text
    assert "| from scratch | 12.5 | 12, 13 | 30 | 3.0 | 3.0 |" in text
    task["arms"][pages.SCRATCH][1]["curve"] = curve(2.0)
    assert pages.caught_up(task) == [120.0, None]
    assert "with 1 of 2 seeds." in pages.to_markdown(pages.task_blocks(task))


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_whole_comparison_runs_and_is_not_repeated(modules, tmp_path):
    """Every task, tiny: the second call reads what the first one left."""
    program = modules[2]
    data = tmp_path / "data"
    verses = "".join(f"the fox sees dog {i}\nand runs {i}\n\n" for i in range(120))
    write(data / "poetry_pd/train.txt", verses)
    words = ("one fox", "two dogs", "no cat", "a cow")
    turns = [{"speaker": s, "text": t} for s, t in zip(("A", "B") * 2, words, strict=True)]
    coffee = [{**t, "speaker": {"A": "user", "B": "assistant"}[t["speaker"]]} for t in turns]
    rows = {
        "topical_chat": {"turns": turns},
        "taskmaster4_coffee": {"turns": coffee},
        "debian_synopsis": {"source": "the fox runs and sees a dog", "target": "fox runs"},
        "toxicity_davidson": {"text": "the fox runs", "label": "neither"},
    }
    other = {"text": "no dog", "label": "hate"}
    for name, row in rows.items():
        lines = [row, other if name == "toxicity_davidson" else row] * 20
        text = "".join(json.dumps(line) + "\n" for line in lines)
        write(data / f"{name}/train.jsonl", text)
        write(data / f"{name}/dev.jsonl", "".join(json.dumps(line) + "\n" for line in lines[:4]))
    options = [
        *(f"--data={data}", f"--runs={tmp_path / 'runs'}", f"--output={tmp_path / 'page'}"),
        *("--seeds=0", "--pretrain_steps=4", "--steps=4", "--width=16", "--layers=1"),
        *("--heads=2", "--vocab_size=330", "--block_len=32", "--batch_tokens=128"),
        *("--set=train.tensorboard=false", "--set=train.compute_dtype=float32"),
    ]
    program.main(options)
    result = json.loads((tmp_path / "page/result.json").read_text())
    assert [task["task"] for task in result["tasks"]] == list(program.TASKS)
    for task in result["tasks"]:
        assert [len(runs) for runs in task["arms"].values()] == [1, 1]
        assert task["pretraining_seconds"] > 0
        starts = [runs[0]["curve"][0]["loss"] for runs in task["arms"].values()]
        assert starts[0] != starts[1], "both began alike"
    page = (tmp_path / "page/README.md").read_text()
    assert all(f"## {name}" in page for name in program.TASKS)
    logs = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("metrics.jsonl")}
    program.main(options)
    assert logs == {path: path.stat().st_mtime_ns for path in logs}
    again = json.loads((tmp_path / "page/result.json").read_text())
    assert again["tasks"] == result["tasks"]
    program.main([*options, "--tasks=toxicity", "--equal_time"])
    (task,) = json.loads((tmp_path / "page/result.json").read_text())["tasks"]
    plain, longer = (task["arms"][name][0] for name in (program.SCRATCH, program.LONGER))
    times = plain["seconds"], task["pretraining_seconds"]
    assert longer["steps"] == round(plain["steps"] * sum(times) / times[0])


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
