"""Decoding with a cut vocabulary: brute force over masked logits, independence, few shapes."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoding.toy_model import ToyModel, every_target, random_lines, run, sources

from seqgen.decoding import Candidates, DecodeConfig, Shortlist, make_row_keys, search
from seqgen.decoding import shortlist as shortlist_module
from seqgen.decoding.shortlist import ShortlistedModel, candidate_sizes
from seqgen.errors import ConfigError
from seqgen.models import build_model
from seqgen.models.config import (
    ModelConfig,
    RecurrentDecoderConfig,
    RecurrentEncoderConfig,
    TransformerDecoderConfig,
    TransformerEncoderConfig,
)
from seqgen.nn.quantization import inference_params
from seqgen.types import EOS_ID, NUM_CONTROL_IDS

TOY_VOCAB = 12
OPTIONS = [
    {},
    {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.7, "min_length": 2},
    {"num_beams": 2, "suppress_unk": True},
    {"do_sample": True, "num_return_sequences": 2, "top_k": 4, "top_p": 0.95},
]


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch):
    """Sizes 4, 6, 8, 12, ..., so that tiny vocabularies are cut and padded too."""
    monkeypatch.setattr(shortlist_module, "_SMALLEST", 4)


def random_shortlist(seed, vocab=TOY_VOCAB, *, each=2, always=1):
    rng = np.random.default_rng(seed)
    table = rng.integers(NUM_CONTROL_IDS, vocab, (16, each)).astype(np.int32)
    table[0] = 0
    frequent = rng.integers(NUM_CONTROL_IDS, vocab, always).astype(np.int32)
    return Shortlist(table, frequent, vocab)


def own_ids(shortlist, line):
    """The ids that one line may be answered with, by the definition."""
    controls = range(NUM_CONTROL_IDS)
    return sorted({*controls, *shortlist.always.tolist(), *shortlist.table[line].ravel().tolist()})


def test_candidates_are_the_union_and_each_line_may_use_its_own():
    shortlist = random_shortlist(0, vocab=40, each=3, always=2)
    lines = random_lines(np.random.default_rng(0), 5)
    found = shortlist.candidates(sources(lines, 12))
    union = sorted({i for line in lines for i in own_ids(shortlist, line)})
    assert found.ids[: len(union)].tolist() == union and not found.ids[len(union) :].any()
    assert len(found.ids) in candidate_sizes(40)
    for line, allowed in zip(lines, found.allowed):
        assert np.flatnonzero(allowed).tolist() == [
            union.index(i) for i in own_ids(shortlist, line)
        ]


def test_sizes_are_few_and_end_with_the_vocabulary(monkeypatch):
    monkeypatch.undo()
    assert candidate_sizes(100) == (100,)
    assert candidate_sizes(1000) == (256, 384, 512, 768, 1000)
    sizes = candidate_sizes(256_000)
    assert len(sizes) == 21 and sizes[-1] == 256_000
    assert all(b <= 1.5 * a for a, b in itertools.pairwise(sizes))


@pytest.mark.parametrize("options", OPTIONS)
def test_all_tokens_give_the_answers_of_no_shortlist(options):
    model = ToyModel.random(3, vocab=TOY_VOCAB)
    lines = random_lines(np.random.default_rng(3), 6)
    every = np.arange(TOY_VOCAB, dtype=np.int32)
    candidates = Shortlist(np.zeros((16, 1), np.int32), every, TOY_VOCAB).candidates(sources(lines))
    config = DecodeConfig(**options)
    whole = run(model, sources(lines), config)
    cut = run(model, sources(lines), config, candidates=candidates)
    jax.tree.map(np.testing.assert_array_equal, whole, cut)


@pytest.mark.parametrize(
    ("beams", "penalty", "min_length", "unk"), [(40, 0.8, 0, True), (40, 0.0, 2, False)]
)
def test_full_width_is_brute_force_over_masked_logits(beams, penalty, min_length, unk):
    """Every target of a line's own tokens, its log-probabilities normalised over these alone."""
    model = ToyModel.random(5, vocab=TOY_VOCAB)
    shortlist = random_shortlist(5)
    lines = [line[:3] for line in random_lines(np.random.default_rng(5), 4)]
    lines = [[*line[:-1], EOS_ID] for line in lines]
    config = DecodeConfig(
        num_beams=beams,
        max_length=4,
        min_length=min_length,
        length_penalty=penalty,
        suppress_unk=not unk,
    )
    source = sources(lines)
    found = run(model, source, config, candidates=shortlist.candidates(source))
    for row, line in enumerate(lines):
        own = own_ids(shortlist, line)
        scored = []
        for places in every_target(len(own), 4, min_length, unk=unk):
            ids = [own[place] for place in places]
            log_prob = masked_log_prob(model, line, ids, own)
            scored.append((log_prob / len(ids) ** penalty, log_prob, ids))
        score, log_prob, ids = max(scored)
        assert found.ids[row, 0, : found.lengths[row, 0]].tolist() == ids
        assert found.scores[row, 0] == pytest.approx(score, rel=1e-5)
        assert found.log_probs[row, 0] == pytest.approx(log_prob, rel=1e-5)


def masked_log_prob(model, line, target, own):
    """The target's log-probability where all tokens but `own` have a logit of -inf (float64)."""
    total = 0.0
    for end in range(len(target)):
        logits = [model.reference_log_probs(line, [*target[:end], token])[-1] for token in own]
        total += logits[own.index(target[end])] - np.log(np.exp(logits).sum())
    return total


@pytest.mark.parametrize("options", OPTIONS)
def test_a_line_does_not_depend_on_its_batch(options):
    """Other neighbours mean another union of another size; a line's answers stay."""
    model = ToyModel.random(7, vocab=40)
    shortlist = random_shortlist(7, vocab=40, each=3)
    lines = random_lines(np.random.default_rng(7), 9)
    config = DecodeConfig(max_length=10, **options)
    whole, order = sources(lines), [5, 2]
    together = run(model, whole, config, candidates=shortlist.candidates(whole))
    part = sources([lines[i] for i in order], 14)
    few = shortlist.candidates(part)
    assert few.ids.shape != shortlist.candidates(whole).ids.shape
    apart = run(model, part, config, max_len=20, numbers=order, candidates=few)
    np.testing.assert_array_equal(apart.ids[:, :, :16], together.ids[order])
    np.testing.assert_array_equal(apart.lengths, together.lengths[order])
    np.testing.assert_allclose(apart.scores, together.scores[order], atol=1e-5)
    for line, answers in zip(lines, together.ids):
        assert set(answers.ravel().tolist()) <= set(own_ids(shortlist, line))


VOCAB = 40
LAYERS = {"num_layers": 1, "num_heads": 2, "ff_dim": 16}
MODELS = {
    "transformer": ModelConfig(
        embed_dim=16,
        encoder=TransformerEncoderConfig(**LAYERS),
        decoder=TransformerDecoderConfig(**LAYERS),
        tie_embeddings="all",
        output_bias=True,
    ),
    "gru": ModelConfig(
        embed_dim=16,
        encoder=RecurrentEncoderConfig(kind="gru", num_layers=1, hidden_dim=16),
        decoder=RecurrentDecoderConfig(
            kind="gru", num_layers=1, hidden_dim=16, attention="luong_general"
        ),
        tie_embeddings="none",
        output_bias=False,
    ),
}


@functools.cache
def built(name, dtype, int8):
    definition = build_model(
        MODELS[name], source_vocab_size=VOCAB, target_vocab_size=VOCAB, compute_dtype=dtype
    )
    params = jax.jit(definition.init)(jax.random.key(2))
    if name == "transformer":
        bias = np.random.default_rng(0).normal(0.0, 0.3, VOCAB).astype(np.float32)
        params["output_bias"] = jnp.asarray(bias)
    params = inference_params(params, definition.summed_axes, compute_dtype=dtype, int8=int8)
    return definition, params


class MaskedModel:
    """The whole output layer, with -inf for what is not a sentence's own: the slow way."""

    def __init__(self, model, allowed):
        self.model, self.allowed = model, allowed

    def __getattr__(self, name):
        return getattr(self.model, name)

    def output_logits(self, hidden, columns=None):
        allowed = jnp.repeat(self.allowed, hidden.shape[0] // len(self.allowed), axis=0)
        return jnp.where(allowed, self.model.output_logits(hidden), -jnp.inf)


@pytest.mark.parametrize(
    ("name", "dtype", "int8", "options"),
    [
        ("transformer", "float32", False, {"num_beams": 3, "num_return_sequences": 2}),
        ("transformer", "bfloat16", False, {}),
        ("transformer", "float32", True, {"num_beams": 3}),
        ("gru", "float32", False, {"do_sample": True, "num_return_sequences": 2}),
        ("gru", "float32", True, {}),
    ],
)
def test_real_models_answer_as_with_masked_logits(name, dtype, int8, options):
    """Tied table with bias, own table without; float32, bfloat16 and 8-bit weights."""
    definition, params = built(name, dtype, int8)
    lines = random_lines(np.random.default_rng(1), 5)
    source = sources(lines, 12)
    candidates = random_shortlist(1, vocab=VOCAB, each=2, always=2).candidates(source)
    allowed = np.zeros((len(lines), VOCAB), bool)
    for row, own in enumerate(candidates.allowed):
        allowed[row, candidates.ids[own]] = True
    config = DecodeConfig(min_length=3, max_length_ratio=1.0, max_length_offset=2, **options)
    keys = make_row_keys(0, np.arange(len(lines)))
    common = {"shape": config.shape(), "max_len": 12}

    @jax.jit
    def both(params, candidates, allowed):
        model = definition.bind(params)
        given = (source, keys)
        cut = search(model, *given, values=config.values(), candidates=candidates, **common)
        return cut, search(MaskedModel(model, allowed), *given, values=config.values(), **common)

    cut, want = jax.device_get(both(params, candidates, allowed))
    np.testing.assert_array_equal(cut.ids, want.ids)
    np.testing.assert_allclose(cut.scores, want.scores, atol=1e-5)
    assert (cut.lengths > 3).all()


def equations(jaxpr, inside=False):
    """(is it inside a loop, equation) of a program and all that it calls."""
    for equation in jaxpr.eqns:
        yield inside, equation
        loop = inside or equation.primitive.name in ("while", "scan")
        for value in equation.params.values():
            for part in value if isinstance(value, (tuple, list)) else (value,):
                part = getattr(part, "jaxpr", part)
                if hasattr(part, "eqns"):
                    yield from equations(part, loop)


def test_the_columns_are_gathered_once_a_batch_not_at_every_step():
    definition, params = built("gru", "float32", False)
    source = sources(random_lines(np.random.default_rng(1), 3), 12)
    candidates = Candidates(np.arange(24, dtype=np.int32), np.ones((3, 24), bool))
    config = DecodeConfig()

    def answer(params, candidates):
        model = definition.bind(params)
        keys = make_row_keys(0, np.arange(3))
        shape, values = config.shape(), config.values()
        return search(
            model, source, keys, shape=shape, values=values, max_len=12, candidates=candidates
        )

    found = [
        (inside, equation.outvars[0].aval.shape)
        for inside, equation in equations(jax.make_jaxpr(answer)(params, candidates).jaxpr)
        if equation.primitive.name in ("gather", "dot_general")
    ]
    assert [inside for inside, shape in found if shape == (24, 16)] == [False]
    assert (True, (3, 1, 24)) in found  # the logits of a step
    assert not any(VOCAB in shape for _, shape in found)


def test_contrastive_search_among_candidates_is_refused():
    source = sources(random_lines(np.random.default_rng(1), 2))
    candidates = random_shortlist(1).candidates(source)
    with pytest.raises(ConfigError, match="contrastive_k=3 with candidates"):
        run(ToyModel.random(1), source, DecodeConfig(contrastive_k=3), candidates=candidates)


def test_a_shortlisted_model_keeps_the_contract():
    """What is consumed at once is what is consumed a token at a time; `rewind` goes back."""
    definition, params = built("transformer", "float32", False)
    source = sources(random_lines(np.random.default_rng(4), 2), 8)
    candidates = random_shortlist(4, vocab=VOCAB).candidates(source)
    tokens = np.random.default_rng(4).integers(4, 9, (2, 3))

    @jax.jit
    def outputs(params):
        model = ShortlistedModel(definition.bind(params), candidates)
        encoded = model.encode(source)
        start = model.init_decode(encoded, max_len=4, rewindable=True)
        ones = jnp.ones(2, jnp.int32)
        whole, state = model.extend(start, tokens, 3 * ones)
        state = model.rewind(state, ones)
        steps = []
        for at in (1, 2):
            output, state = model.extend(state, tokens[:, at : at + 1], ones)
            steps.append(output.hidden)
        return model.output_logits(whole.hidden), jnp.concatenate(steps, 1)

    whole, stepped = outputs(params)
    np.testing.assert_allclose(stepped, whole[:, 1:], rtol=1e-5, atol=1e-5)
    assert (np.isfinite(whole) == candidates.allowed[:, None]).all()
