"""Cells and plans: one factor at a time, and names that last."""

import dataclasses
import json

import pytest

from seqgen.benchmarking.cells import FULL, QUICK, SMOKE, Cell, cells_of, varied, with_models
from seqgen.errors import ConfigError

PARTS = ("train", "decode", "memory")


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("plan", [FULL, QUICK, SMOKE], ids=lambda plan: plan.scale)
def test_every_cell_differs_from_its_base_in_one_factor_at_most(plan, part):
    cells = cells_of(plan, part)
    assert len({cell.key for cell in cells}) == len(cells)
    for model in plan.models_of(part):
        base, *others = [cell for cell in cells if cell.model == model]
        assert all(len(varied(cell, base)) == 1 for cell in others)
        fields = [f.name for f in dataclasses.fields(Cell)]
        for cell in others:
            assert sum(getattr(cell, name) != getattr(base, name) for name in fields) == 1


def test_the_full_plan_sweeps_what_it_promises():
    cells = cells_of(FULL, "train")
    assert {cell.length for cell in cells} >= {16, 64, 256, 1024, 4096}
    assert {cell.model for cell in cells} == set(FULL.models)
    swept = {factor for cell in cells for factor in varied(cell, cells_of(FULL, "train")[0])}
    assert swept == {"length", "tokens", "parameters", "devices"}
    beams = {cell.beams for cell in cells_of(FULL, "decode")}
    assert beams == {1, 5}


def test_the_length_sweep_keeps_the_tokens():
    for cell in cells_of(FULL, "train"):
        if cell.tokens == 4096 and cell.devices == 1:
            assert cell.batch * cell.length == 4096


def test_keys_do_not_change():
    assert Cell("train", "gru").key == (
        "train/gru length=64 tokens=4096 parameters=1000000 vocab=1000 beams=1 devices=1 "
        "dtype=float32"
    )
    assert Cell("gemm", dtype="bfloat16").key == "gemm dtype=bfloat16"


def test_a_cell_survives_json():
    cell = Cell("decode", "lstm-attention", length=16, beams=5)
    assert Cell.from_dict(json.loads(json.dumps(vars(cell)))) == cell


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"what": "trian", "model": "gru"}, "did you mean   train"),
        ({"what": "train", "model": "gro"}, "did you mean   gru"),
        ({"what": "train", "model": "gru", "dtype": "float23"}, "did you mean   float32"),
        ({"what": "train", "model": "gru", "length": 1}, "length of at least 2"),
        ({"what": "train", "model": "gru", "tokens": 0}, "tokens of at least 1"),
        ({"what": "train", "modle": "gru"}, "not a cell"),
    ],
)
def test_bad_cells_are_refused(values, said):
    with pytest.raises(ConfigError, match=said):
        Cell.from_dict(values)


def test_other_models_are_swept_as_far_as_the_plan_sweeps_them():
    assert with_models(FULL, ["lstm", "simple"]).swept == ("lstm",)
    assert with_models(FULL, ["simple"]).swept == ("simple",)
    assert with_models(SMOKE, ["simple"]).swept == ()


def test_rows_divide_over_devices():
    assert Cell("train", "gru", tokens=640, length=64, devices=4).batch == 8
    assert Cell("train", "gru", tokens=64, length=64, devices=4).batch == 4
