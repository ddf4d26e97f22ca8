"""Answers in words: every figure in them is one of the rows', and what is not there is not said."""

import re

import rows

from seqgen.benchmarking.answers import answer_blocks, by_length
from seqgen.benchmarking.cells import Cell

SECONDS = {  # of a training step, by length
    "transformer": {16: 0.02, 64: 0.02, 256: 0.02},
    "gru": {16: 0.01, 64: 0.02, 256: 0.08},
    "gru-attention": {16: 0.02, 64: 0.05, 256: 0.16},
    "mingru": {16: 0.01, 64: 0.01, 256: 0.01},
}


def make(part="train"):
    cells = (
        (Cell(part, model, length=length, tokens=1024), seconds)
        for model, lengths in SECONDS.items()
        for length, seconds in sorted(lengths.items(), key=lambda item: item[0] != 64)
    )
    return [rows.row_of(cell, **rows.answer(cell, median=seconds)) for cell, seconds in cells]


def texts(found):
    return [block.text for block in answer_blocks(found) if block.kind == "text"]


def test_the_length_sweep_is_the_base_point_and_what_differs_from_it_in_length_alone():
    other = rows.row_of(Cell("train", "gru", tokens=512))
    speeds = by_length([*make(), other], "train", "tokens_per_second")
    assert speeds["gru"] == {n: 1024 / SECONDS["gru"][n] for n in (16, 64, 256)}


def test_speeds_are_told_beside_the_transformers():
    blocks = answer_blocks(make())
    (table,) = (block.rows for block in blocks if block.kind == "table")
    assert table[0][1:] == ("16", "64", "256")
    told = {line[0]: line[1:] for line in table[1:]}
    assert told["gru"] == ("2.00", "1.00", "0.25")
    assert told["mingru"] == ("2.00", "2.00", "2.00")
    (faster,) = (text for text in texts(make()) if text.startswith("Faster"))
    assert "gru at length 16;" in faster and "mingru at every length" in faster
    assert "gru-attention" not in faster


def test_the_price_of_attention_and_the_gain_of_parallel_time():
    said = "\n".join(texts(make()))
    assert (
        "trains at this share of its speed without, by length: gru 0.50 at 16, 0.50 at 256" in said
    )
    assert "gru's speed: 1.00 at length 16, 2.00 at length 64, 8.00 at length 256" in said


def test_one_sentence_alone():
    found = make("decode")
    for model, seconds in (("transformer", 0.3), ("gru", 0.1)):
        cell = Cell("decode", model, tokens=64)
        found.append(rows.row_of(cell, **rows.answer(cell, median=seconds)))
    (said,) = (text for text in texts(found) if "alone" in text)
    assert said.endswith("64 tokens, greedy, in milliseconds: gru 100.0, transformer 300.0.")


def test_quality_is_ranked_at_budgets_that_all_reached():
    found = [rows.training_row("gru", seed) for seed in (0, 1)]
    found.append(rows.training_row("lstm", 0, speed=2.0))
    said = "\n".join(texts(found))
    # In equal seconds the faster one is further: 1.5 s are 3 of its steps, and 1.5 of the other's.
    assert re.search(
        r"lowest validation loss by equal training seconds: lstm 1\.000, gru 2\.500\.", said
    )
    assert "lowest validation loss by equal target tokens: gru 1.000, lstm 1.000." in said
    assert "exact match on sources of 4 to 7 / 8 and more words: gru 0.90 / 0.80" in said


def test_nothing_is_said_of_what_was_not_measured():
    assert answer_blocks([]) == []
    assert answer_blocks([rows.row_of(Cell("train", "gru"))]) == []
    failed = {**rows.row_of(Cell("memory", "transformer")), "error": "out of memory"}
    del failed["temp_bytes"]
    assert answer_blocks([failed]) == []
