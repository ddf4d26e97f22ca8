"""Several loaded models as one `Generator`: limits, vocabularies, what is measured."""

import jax
import numpy as np
import pytest
from decoding.test_search_on_models import LINES, built
from decoding.toy_model import random_lines, sources
from prompted import Pieces
from prompted import generator as language_model
from test_inference import Letters, lines, make

from seqgen import companions
from seqgen.decoding import DecodeConfig
from seqgen.decoding.ensemble import EnsembleDefinition
from seqgen.errors import ConfigError
from seqgen.inference import Generator
from seqgen.types import BOS_ID, Batch


def test_an_ensemble_answers_and_scores_as_any_model():
    """Of different seeds: its answers are its own, and `score` gives their log-probability."""
    config = DecodeConfig(batch_size=8)
    parts = [make(config, seed=seed) for seed in (0, 1)]
    both = companions.join(parts, ["a", "b"], mean="probs")
    texts = lines(9)
    answers = both.generate(texts, num_beams=3)
    found = [answer[0].log_prob for answer in answers]
    np.testing.assert_allclose(
        both.score(texts, [answer[0].ids for answer in answers]), found, rtol=1e-4
    )
    single = [part.generate(texts, num_beams=3) for part in parts]
    assert all(any(a[0].ids != b[0].ids for a, b in zip(answers, one)) for one in single)


def test_limits_are_the_smallest():
    parts = [make(max_source_len=9), make(max_target_len=7), make(max_source_len=12)]
    assert companions.join(parts, ["a", "b", "c"], mean="log_probs").limits == (9, 7)


class Foreign(Letters):
    fingerprint = "foreign"


def test_what_does_not_fit_together_is_refused():
    toy = make()
    foreign = Generator(toy.definition, toy.params, Letters(), Foreign())
    for parts, mean, message in (
        ([toy, foreign], "probs", "the target tokenizers of a and b differ"),
        ([toy, language_model("lstm")], "probs", "not asked the same"),
        ([toy, toy], "median", "probs or log_probs"),
    ):
        with pytest.raises(ConfigError, match=message):
            companions.join(parts, ["a", "b"], mean=mean)
    assert Pieces.fingerprint != Letters.fingerprint


@pytest.mark.parametrize("mean", ["probs", "log_probs"])
def test_measured_as_its_members_are(mean):
    """One model twice has its own loss; of two, it is at most the mean of theirs (Jensen)."""
    rng = np.random.default_rng(0)
    targets = random_lines(rng, len(LINES))
    batch = Batch(
        sources(LINES, 12),
        sources([[BOS_ID, *line[:-1]] for line in targets], 12),
        sources(targets, 12).ids,
        (sources(targets, 12).segments > 0).astype(np.float32),
    )
    (one, first), (other, second) = built("gru", "lstm"), built("transformer", "transformer")

    def measured(definitions, params):
        definition = EnsembleDefinition(tuple(definitions), mean)
        step = companions.make_eval_step(definition)
        values = step({str(i): part for i, part in enumerate(params)}, batch)
        return float(values["loss"].mean()), float(values["accuracy"].mean())

    model = one.bind(first)
    log_probs = jax.nn.log_softmax(model.output_logits(model(batch)))
    chosen = np.take_along_axis(np.asarray(log_probs), batch.labels[..., None], -1)[..., 0]
    weight = batch.weights.sum()
    alone = measured([one, one], [first, first])
    np.testing.assert_allclose(alone[0], -(chosen * batch.weights).sum() / weight, rtol=1e-5)
    hits = (np.asarray(log_probs).argmax(-1) == batch.labels) * batch.weights
    np.testing.assert_allclose(alone[1], hits.sum() / weight, rtol=1e-5)
    both = measured([one, other], [first, second])[0]
    apart = measured([other, other], [second, second])[0]
    assert both < (alone[0] + apart) / 2
