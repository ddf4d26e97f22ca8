"""The table of models, their matched widths, and what they cost."""

import jax
import pytest

from seqgen.benchmarking import flops
from seqgen.benchmarking.cells import Cell
from seqgen.benchmarking.models import (
    MODELS,
    count_parameters,
    define,
    language_models,
    match_parameters,
)
from seqgen.benchmarking.named import check_names
from seqgen.benchmarking.worker import random_batch, random_rows
from seqgen.errors import ConfigError
from seqgen.training.compilation import count_flops


@pytest.mark.parametrize("alone", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_matched_parameters_are_within_three_percent(name, alone):
    config = match_parameters(name, 200_000, vocab=500, alone=alone)
    assert count_parameters(config, vocab=500) == pytest.approx(200_000, rel=0.03)
    assert (config.encoder.kind == "none") == (alone or name == "gpt")


def test_language_models_are_named_once_each():
    assert language_models(["gru", "lstm-attention", "gru-attention", "gpt"]) == (
        *("gru", "lstm", "gpt"),
    )


def test_the_neighbouring_widths_are_no_nearer():
    config = match_parameters("mingru", 60_000, vocab=100)
    counts = [
        abs(
            count_parameters(MODELS["mingru"].build(config.embed_dim + step, 0), vocab=100) - 60_000
        )
        for step in (-4, 0, 4)
    ]
    assert counts[1] == min(counts)


def test_what_no_width_reaches_is_refused():
    with pytest.raises(ConfigError, match="no transformer has only 10 parameters"):
        match_parameters("transformer", 10, vocab=500)


@pytest.mark.parametrize(
    ("names", "said"),
    [(["lsmt"], "did you mean   lstm"), ([], "is empty"), (["gru", "gru"], "names gru twice")],
)
def test_bad_names_are_refused(names, said):
    with pytest.raises(ConfigError, match=said):
        check_names(names, MODELS, what="bench model", option="--models")


def test_flops_of_an_lstm_by_hand():
    # Width 8: each direction of the encoder has 4 units, 16 gates; the decoder has 32 gates.
    config = MODELS["lstm"].build(8, 0)
    batch, source, target, vocab = 3, 5, 7, 20
    encoder = 2 * (8 * 16 + 4 * 16)
    bridge = 8 * 16
    decoder = 8 * 32 + 8 * 32 + 8 * 8
    output = vocab * 8
    by_hand = 2 * (batch * source * encoder + batch * bridge + batch * target * (decoder + output))
    sizes = {"batch": batch, "source_len": source, "target_len": target}
    abstract = define(config, vocab=vocab).abstract
    assert flops.forward_flops(config, abstract, **sizes) == by_hand
    assert flops.training_flops(config, abstract, **sizes) == 3 * by_hand


def test_beams_pay_for_the_target_side_only():
    config = MODELS["gru-attention"].build(8, 0)
    abstract = define(config, vocab=20).abstract
    sizes = {"batch": 2, "source_len": 6, "target_len": 6}
    one, two, three = (
        flops.forward_flops(config, abstract, **sizes, beams=beams) for beams in (1, 2, 3)
    )
    assert three - two == two - one > 0
    assert one > two - one


def test_gpt_reads_the_source_in_the_rows_of_the_target():
    # Width 8, four layers: 4 * 8 * 8 of attention and 2 * 8 * 32 of feed-forward weights each.
    config = MODELS["gpt"].build(8, 0)
    sentences, source, target, beams, vocab = 3, 5, 7, 2, 20
    vectors = sentences * (source + beams * target)
    layers = 4 * (4 * 8 * 8 + 2 * 8 * 32)
    attention = 4 * 2 * 8 * vectors * (source + target)
    output = sentences * beams * target * vocab * 8
    sizes = {"batch": sentences, "source_len": source, "target_len": target, "beams": beams}
    abstract = define(config, vocab=vocab).abstract
    by_hand = 2 * (vectors * layers + attention + output)
    assert flops.forward_flops(config, abstract, **sizes) == by_hand


@pytest.mark.parametrize("name", ["gru-attention", "transformer", "gpt"])
def test_the_formula_is_what_the_forward_program_multiplies(name):
    config = MODELS[name].build(8, 0)
    cell = Cell("train", name, length=6, tokens=12, vocab=30)
    definition = define(config, vocab=cell.vocab)

    def forward(params, batch):
        model = definition.bind(params)
        return model.output_logits(model(batch))

    program = jax.make_jaxpr(forward)(definition.abstract, random_batch(cell)).jaxpr
    sizes = {"batch": cell.batch, "source_len": cell.length, "target_len": cell.length}
    assert flops.forward_flops(config, definition.abstract, **sizes) == count_flops(program)


def test_random_rows_are_full_and_end():
    rows = random_rows(4, 9, 30, seed=1)
    assert rows.ids.shape == (4, 9) and rows.ids.min() >= 3 and rows.ids.max() < 30
    assert (rows.ids[:, -1] == 3).all() and (rows.ids[:, :-1] > 3).all()
    assert rows.segments.all() and (rows.positions == range(9)).all()
