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
from seqgen.decoding.short_sources import cut_sources
from seqgen.errors import ConfigError
from seqgen.inference import Generator
from seqgen.texts import Texts
from seqgen.types import BOS_ID, EOS_ID, Batch


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


class ShortSighted:
    """A definition whose model is as a table of positions is: it takes no longer source."""

    def __init__(self, definition, limit):
        self.definition, self.limit = definition, limit

    def bind(self, params):
        model, limit = self.definition.bind(params), self.limit

        class Model:
            def encode(self, source, *, key=None):
                assert source.ids.shape[1] <= limit
                return model.encode(source, key=key)

            def __getattr__(self, name):
                return getattr(model, name)

        return Model()


def test_sources_too_long_for_a_draft_are_cut_for_it_alone():
    plain, toy = make(DecodeConfig(batch_size=4)), make(seed=1)
    draft = Generator(
        ShortSighted(toy.definition, 5), toy.params, Letters(), Letters(), max_source_len=5
    )
    both = companions.with_draft(plain, draft, ("a", "b"))
    texts = [*lines(3), "abcdefghijkl" * 2]
    found, wanted = both.generate(texts), plain.generate(texts)
    assert [row[0].ids for row in found] == [row[0].ids for row in wanted]
    assert both.limits == plain.limits


def test_a_cut_source_is_what_the_model_itself_would_be_given():
    given = [[4, 5, 6, 7, 8, EOS_ID], [4, 5, 6, 7, EOS_ID], [9, EOS_ID], [4, 5, 6, EOS_ID]]
    texts = Texts(Letters(), Letters(), 4, None, reads_prompts=False)
    spelt = [Letters().decode(ids[:-1]) for ids in given]
    own = [texts.encode(text, 0, DecodeConfig()) for text in spelt]
    found = cut_sources(jax.tree.map(jax.numpy.asarray, sources(given, 12)), 4)
    wanted = sources(own, 4)
    for name in ("ids", "segments", "positions"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))
    assert cut_sources(wanted, 4) is wanted


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
