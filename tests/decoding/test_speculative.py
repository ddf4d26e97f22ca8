"""Speculative decoding: the model's own greedy text, the model's own distribution."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoding import test_search_on_models as real
from decoding.toy_model import ToyModel, encode, random_lines, run, sources
from prompted import Pieces, build
from prompted import generator as language_model

from seqgen import companions
from seqgen.decoding import DecodeConfig, make_row_keys, search
from seqgen.decoding.speculative import accept_drawn, residual
from seqgen.errors import ConfigError
from seqgen.inference import Generator

LINES = random_lines(np.random.default_rng(5), 5)
SOURCES = sources(LINES)
toy = functools.cache(ToyModel.random)
TRACES = []


@functools.partial(jax.jit, static_argnames=("shape", "max_len"))
def _speculate(model, draft, source, keys, values, *, shape, max_len):
    TRACES.append(shape)
    options = {"shape": shape, "values": values, "max_len": max_len}
    return search(model, source, keys, draft=draft, **options)


def drafted(model, draft, source, config, *, max_len=16, numbers=None):
    numbers = np.arange(len(source.ids)) if numbers is None else np.asarray(numbers)
    keys, values = make_row_keys(config.seed, numbers), config.values(encode)
    shape = config.shape(drafted=True)
    return jax.device_get(
        _speculate(model, draft, source, keys, values, shape=shape, max_len=max_len)
    )


def same(found, wanted):
    np.testing.assert_array_equal(found.ids, wanted.ids)
    np.testing.assert_array_equal(found.lengths, wanted.lengths)
    np.testing.assert_allclose(found.scores, wanted.scores, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.log_probs, wanted.log_probs, rtol=1e-4, atol=1e-5)


RULES = DecodeConfig(
    repetition_penalty=1.4,
    no_repeat_ngram_size=3,
    bad_words=("5", "6 7"),
    stop_token_ids=(6,),
    min_length=2,
    max_length=12,
    num_draft_tokens=3,
)


@pytest.mark.parametrize("config", [DecodeConfig(num_draft_tokens=3), RULES], ids=["bare", "rules"])
def test_greedy_text_is_the_models_own_whatever_the_draft_is(config):
    """Another model, a spoilt one, the model itself: which needs the fewest passes there can be."""
    for seed in range(3):
        wanted = run(toy(seed), SOURCES, config)
        for draft in (toy(seed + 7), ToyModel.random(seed, spoilt=np.float32(np.nan))):
            same(drafted(toy(seed), draft, SOURCES, config), wanted)
        itself = drafted(toy(seed), toy(seed), SOURCES, config)
        same(itself, wanted)
        assert itself.num_steps == max(math.ceil(n / 4) for n in wanted.lengths[:, 0])


def test_spoilt_logits_end_their_own_sentence_alone():
    model = ToyModel.random(1, spoilt=np.float32(np.nan), spoilt_from=2)
    config = DecodeConfig(num_draft_tokens=2)
    same(drafted(model, toy(3), SOURCES, config), run(model, SOURCES, config))


@pytest.mark.parametrize(
    ("target", "proposing"),
    [
        (("transformer", "transformer"), ("gru", "lstm")),
        (("gru", "lstm"), ("gru", "transformer")),
        (("none", "transformer"), ("none", "gru")),
    ],
    ids=["rnn-draft", "rnn-target", "decoders-alone"],
)
def test_real_models_keep_their_greedy_text(target, proposing):
    config = DecodeConfig(max_length_ratio=1.0, max_length_offset=4, num_draft_tokens=2)
    wanted = real.run(target, real.LINES, config)
    (definition, params), (other, other_params) = real.built(*target), real.built(*proposing)

    @jax.jit
    def call(params, other_params, source, keys):
        options = {"shape": config.shape(drafted=True), "values": config.values(), "max_len": 16}
        model, draft = definition.bind(params), other.bind(other_params)
        return search(model, source, keys, draft=draft, **options)

    source, keys = sources(real.LINES, 12), make_row_keys(0, np.arange(len(real.LINES)))
    same(jax.device_get(call(params, other_params, source, keys)), wanted)
    order = np.array([5, 1])
    apart = sources([real.LINES[i] for i in order], 20)
    apart = jax.device_get(call(params, other_params, apart, keys[order]))
    np.testing.assert_array_equal(apart.ids, wanted.ids[order])


def test_prompts_and_stop_strings():
    """A recurrent language model proposes to a Transformer, by the text interface."""
    plain = language_model("gpt2")
    small = Generator(*build("lstm"), Pieces(), Pieces(), reads_prompts=True)
    both = companions.with_draft(plain, small, ("a", "b"))
    prompts = ["", "a", "bca\nab a", "abc b cab\nca" * 2]
    for options in ({}, {"stop": ("ca", "b\n"), "num_draft_tokens": 3}):
        found = both.generate(prompts, **options)
        options.pop("num_draft_tokens", None)
        for answer, wanted in zip(found, plain.generate(prompts, **options)):
            assert (answer[0].ids, answer[0].text) == (wanted[0].ids, wanted[0].text)
            assert answer[0].finish_reason == wanted[0].finish_reason
            assert answer[0].log_prob == pytest.approx(wanted[0].log_prob, abs=1e-4)
    with pytest.raises(ConfigError, match="one sample a line"):
        both.generate(prompts, num_beams=2)
    with pytest.raises(ConfigError, match="only with a draft"):
        plain.generate(prompts, num_draft_tokens=2)


def test_a_stream_hands_out_whatever_a_pass_kept():
    """The model drafts for itself, so each piece but the last is of all tokens of a pass."""
    plain = language_model("gpt2")
    both = companions.with_draft(plain, plain, ("a", "b"))
    options = {"num_draft_tokens": 3, "min_length": 7}
    (wanted,) = both.generate(["bca\nab a"], **options)
    stream = both.stream_text("bca\nab a", **options)
    pieces = list(stream)
    assert stream.answer == wanted[0] and "".join(pieces) == wanted[0].text
    count = len(wanted[0].ids) + (wanted[0].finish_reason == "eos")
    assert len(pieces) == math.ceil(count / 4) > 1


def test_kept_and_replaced_proposals_have_the_models_distribution():
    """P(kept) + P(refused) * residual = p, exactly; and as often as that among many draws."""
    rng = np.random.default_rng(0)
    p, q = (rng.dirichlet(np.full(6, 0.5)).astype(np.float32) for _ in range(2))
    kept = np.minimum(p, q)
    spare = np.asarray(residual(jnp.asarray(p), jnp.asarray(q)))
    np.testing.assert_allclose(kept + (1 - kept.sum()) * spare, p, atol=1e-6)
    np.testing.assert_array_equal(residual(jnp.asarray(p), jnp.asarray(p)), p)
    drafts = rng.choice(6, 20000, p=q / q.sum())
    each = np.broadcast_to(p, (20000, 6)), np.broadcast_to(q, (20000, 6))
    stands = np.asarray(accept_drawn(*each, drafts, np.float32(rng.random(20000))))
    for token in range(6):
        count = np.sum(stands & (drafts == token))
        expected = 20000 * kept[token]
        assert abs(count - expected) < 5 * math.sqrt(expected + 1)


@pytest.mark.parametrize("options", [{}, {"temperature": 0.7, "top_k": 3}])
def test_samples_follow_the_model_and_not_the_draft(options):
    """The first two tokens of many samples against their exact probabilities."""
    line, count = [5, 9, 3], 3000
    config = DecodeConfig(do_sample=True, max_length=3, num_draft_tokens=2, **options)
    model = toy(2, vocab=6)
    found = drafted(model, toy(9, vocab=6), sources([line] * count), config)

    def probabilities(ids):
        logits = model.reference_logits(line, ids) / config.temperature
        logits[[0, 2]] = -np.inf
        if config.top_k:
            logits[logits < np.sort(logits)[-config.top_k]] = -np.inf
        return np.exp(logits) / np.exp(logits).sum()

    first = probabilities([])
    firsts, pairs = found.ids[:, 0, 0], found.ids[:, 0, :2]
    for token in range(6):
        near = 5 * math.sqrt(count * first[token] + 1)
        assert abs(np.sum(firsts == token) - count * first[token]) < near
        if token == 3:
            continue
        second = probabilities([token])
        for other in range(6):
            expected = count * first[token] * second[other]
            seen = np.sum((pairs == [token, other]).all(1))
            assert abs(seen - expected) < 5 * math.sqrt(expected + 1)


def test_values_do_not_compile_again_and_lines_do_not_depend_on_their_batch():
    options = {"repetition_penalty": 1.4, "max_length": 12, "num_draft_tokens": 2}
    base = DecodeConfig(do_sample=True, top_p=0.9, **options)
    del TRACES[:]
    outcomes = set()
    for changed in ({}, {"temperature": 2.0}, {"top_k": 2}, {"repetition_penalty": 3.0}):
        config = base.replace(do_sample=True, **changed)
        found = drafted(toy(4), toy(5), SOURCES, config, max_len=24)
        outcomes.add(found.ids.tobytes())
    assert len(TRACES) == 1 and len(outcomes) > 2
    order = [4, 1]
    again = sources([LINES[i] for i in order], 14)
    apart = drafted(toy(4), toy(5), again, config, max_len=24, numbers=order)
    np.testing.assert_array_equal(apart.ids, found.ids[order])
