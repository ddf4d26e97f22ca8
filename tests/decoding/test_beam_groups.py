"""Diverse beam search against plain Python, and its laws."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoding.beam_reference import diverse_answers
from decoding.toy_model import ToyModel, random_lines, run, sources

from seqgen.decoding import DecodeConfig
from seqgen.decoding.penalties import count_choices, penalise_choices
from seqgen.errors import ConfigError

LINES = random_lines(np.random.default_rng(3), 5)
SOURCES = sources(LINES)
toy = functools.cache(ToyModel.random)
DIVERSE = DecodeConfig(
    num_beams=6, num_beam_groups=3, num_return_sequences=3, length_penalty=0.0, max_length=8
)


def test_choices_are_counted_and_cost():
    tokens = jnp.array([[1, 4, 4], [0, 2, 2]])
    alive = jnp.array([[True, True, True], [True, True, False]])
    counts = count_choices(tokens, alive, 5)
    np.testing.assert_array_equal(counts, [[0, 1, 0, 0, 2], [1, 0, 1, 0, 0]])
    penalised = penalise_choices(jnp.ones((2, 2, 5)), counts, jnp.float32(0.5))
    np.testing.assert_array_equal(penalised[0, 1], [1, 0.5, 1, 1, 0])


@pytest.mark.parametrize("strength", [0.3, 2.0])
def test_groups_are_those_of_plain_python(strength):
    config = DIVERSE.replace(diversity_penalty=strength)
    for seed in range(6):
        found = run(toy(seed), SOURCES, config)
        for row, line in enumerate(LINES):
            wanted = diverse_answers(
                toy(seed), line, beams=6, groups=3, strength=strength, limit=8, answers=3
            )
            for n, (score, own, ids) in enumerate(wanted):
                assert found.ids[row, n, : found.lengths[row, n]].tolist() == ids
                np.testing.assert_allclose(found.scores[row, n], score, rtol=1e-4)
                np.testing.assert_allclose(found.log_probs[row, n], own, rtol=1e-4)


def test_without_strength_each_group_is_a_beam_search():
    config = DIVERSE.replace(diversity_penalty=0.0, length_penalty=0.7)
    alone = run(toy(1), SOURCES, DecodeConfig(num_beams=2, length_penalty=0.7, max_length=8))
    found = run(toy(1), SOURCES, config)
    for n in range(3):
        np.testing.assert_array_equal(found.ids[:, n], alone.ids[:, 0])
        np.testing.assert_allclose(found.scores[:, n], alone.scores[:, 0], rtol=1e-5)


def test_strength_makes_answers_differ():
    """A group of one beam never begins as another one did, if that costs more than anything."""
    config = DIVERSE.replace(num_beams=3, diversity_penalty=50.0, min_length=1)
    strong = run(toy(1), SOURCES, config).ids[:, :, 0]
    plain = run(toy(1), SOURCES, config.replace(num_beam_groups=1)).ids[:, :, 0]
    assert all(len(set(row.tolist())) == 3 for row in strong)
    assert any(len(set(row.tolist())) < 3 for row in plain)


def test_a_line_does_not_depend_on_its_batch():
    together = run(toy(2), SOURCES, DIVERSE)
    order = [4, 1]
    again = sources([LINES[i] for i in order], 14)
    apart = run(toy(2), again, DIVERSE, max_len=24, numbers=order)
    np.testing.assert_array_equal(apart.ids[:, :, :16], together.ids[order])
    np.testing.assert_allclose(apart.scores, together.scores[order], atol=1e-5)


def test_strength_is_traced_and_contradictions_are_refused():
    one, other = DIVERSE.values(), DIVERSE.replace(diversity_penalty=1.5).values()
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for options, message in (
        ({"num_beams": 5}, "must be a multiple"),
        ({"num_beams": 1}, "only by beam search"),
        ({"num_beam_groups": 1, "diversity_penalty": 1.0}, "num_beam_groups of 2 or more"),
    ):
        with pytest.raises(ConfigError, match=message):
            DIVERSE.replace(num_return_sequences=1, **options)
