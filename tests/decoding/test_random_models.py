"""A thousand random models: the laws of search hold for each (minutes when compiling is slow)."""

import dataclasses

import numpy as np
import pytest
from decoding.toy_model import ToyModel, random_lines, run, sources

from seqgen.decoding import DecodeConfig
from seqgen.types import EOS_ID


def check_laws(seed):
    """Independence, rescoring, and an end even with spoilt logits."""
    rng = np.random.default_rng(seed)
    model = ToyModel.random(seed, scale=rng.choice([0.3, 1.0, 3.0]))
    lines = random_lines(rng, 6)
    order = [4, 1]
    options = {"length_penalty": float(rng.uniform(-1.5, 1.5)), "min_length": int(rng.integers(3))}
    for config in (
        DecodeConfig(**options),
        DecodeConfig(num_beams=3, num_return_sequences=2, **options),
        DecodeConfig(do_sample=True, num_return_sequences=2, top_p=0.9, seed=seed, **options),
    ):
        together = run(model, sources(lines, 10), config, max_len=32)
        apart = run(
            model, sources([lines[i] for i in order], 14), config, max_len=40, numbers=order
        )
        np.testing.assert_array_equal(apart.ids[:, :, :32], together.ids[order])
        np.testing.assert_allclose(apart.scores, together.scores[order], rtol=1e-5, atol=1e-5)
        for row, n in ((0, 0), (5, -1)):
            ids = together.ids[row, n, : together.lengths[row, n]]
            assert ids[-1] == EOS_ID
            total = model.reference_log_probs(lines[row], ids).sum()
            np.testing.assert_allclose(together.log_probs[row, n], total, rtol=1e-5, atol=1e-5)
        spoilt = dataclasses.replace(model, spoilt=np.nan, spoilt_from=int(rng.integers(4)))
        broken = run(spoilt, sources(lines, 10), config, max_len=32)
        silent = np.asarray(model.encode(sources(lines, 10)).summary)[:, 4] <= 0
        np.testing.assert_array_equal(broken.ids[silent], together.ids[silent])
        assert not np.any(np.isnan(broken.scores))


@pytest.mark.parametrize("seed", range(40))
def test_laws_on_forty_random_models(seed):
    check_laws(seed)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 1000, 100))
def test_laws_on_a_thousand_random_models(first):
    for seed in range(first, first + 100):
        check_laws(seed)
