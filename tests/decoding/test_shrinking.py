"""The batch shrinks while it is searched, and nobody can tell from the answers."""

import dataclasses

import jax
import numpy as np
import pytest
from decoding.toy_model import ToyModel, random_lines, run, sources

from seqgen.decoding import DecodeConfig, shrinking

CONFIGS = [
    DecodeConfig(),
    DecodeConfig(num_beams=3, num_return_sequences=2),
    DecodeConfig(do_sample=True, num_return_sequences=3, seed=5),
    DecodeConfig(num_beams=3, repetition_penalty=1.5, no_repeat_ngram_size=2, forced_prefix="5 4"),
]


def test_batch_sizes_are_few_and_end_small():
    assert shrinking.batch_sizes(256) == (256, 64, 16)
    assert shrinking.batch_sizes(64) == (64, 16)
    assert shrinking.batch_sizes(63) == (63,)
    assert shrinking.batch_sizes(1) == (1,)


@pytest.mark.parametrize("config", CONFIGS, ids=["greedy", "beam", "sampling", "rules"])
def test_answers_are_those_of_a_batch_that_keeps_its_size(config, monkeypatch):
    lines = random_lines(np.random.default_rng(3), 64, low=1, high=14)

    def search():
        jax.clear_caches()
        return run(ToyModel.random(2), sources(lines), config, max_len=40)

    shrunk = search()
    monkeypatch.setattr(shrinking, "batch_sizes", lambda batch: (batch,))
    whole = search()
    jax.clear_caches()
    np.testing.assert_array_equal(shrunk.ids, whole.ids)
    np.testing.assert_array_equal(shrunk.lengths, whole.lengths)
    np.testing.assert_allclose(shrunk.scores, whole.scores, atol=1e-5)
    np.testing.assert_allclose(shrunk.log_probs, whole.log_probs, atol=1e-5)
    assert shrunk.num_steps == whole.num_steps


def test_finished_sentences_are_not_computed():
    seen = []

    @jax.tree_util.register_dataclass
    @dataclasses.dataclass(frozen=True)
    class Counting(ToyModel):
        def extend(self, state, tokens, lengths):
            jax.debug.callback(lambda ids: seen.append(ids.shape[0]), tokens)
            return super().extend(state, tokens, lengths)

    # A few long sources among short ones, and an answer may be as long as its source.
    lines = random_lines(np.random.default_rng(0), 64, low=1, high=3)
    lines[7:9] = [[5] * 30, [6] * 28]
    config = DecodeConfig(max_length_ratio=1.0, max_length_offset=1, min_length=30)
    found = run(Counting.random(0), sources(lines), config, max_len=40)
    jax.effects_barrier()
    assert len(seen) == found.num_steps == found.lengths.max()
    assert found.lengths.sum() <= sum(seen) < 0.5 * 64 * found.num_steps
    assert (seen[0], seen[-1]) == (64, 16)
