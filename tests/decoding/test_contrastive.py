"""Contrastive search against plain numpy, on a toy model and on prompts of a real one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoding.toy_model import ToyModel, random_lines, run, sources
from prompted import VOCAB, Pieces, build
from prompted import generator as language_model

from seqgen.decoding import DecodeConfig, make_row_keys, search
from seqgen.decoding.contrastive import contrastive_scores, unit
from seqgen.errors import ConfigError
from seqgen.types import BOS_ID, EOS_ID, PAD_ID, Batch, Sequences

LINES = random_lines(np.random.default_rng(5), 5)
SOURCES = sources(LINES)
toy = functools.cache(ToyModel.random)
CONTRASTIVE = DecodeConfig(contrastive_k=3, max_length=10)


def cosine(one, other):
    return one @ other / np.linalg.norm(one) / np.linalg.norm(other)


def best_candidate(log_probs, states, history, alpha):
    """Index by equation 5: log-probabilities and states of the candidates, states so far."""
    scores = [
        (1 - alpha) * np.exp(log_prob) - alpha * max(cosine(state, old) for old in history)
        for log_prob, state in zip(log_probs, states)
    ]
    return int(np.argmax(scores))


def test_scores_equal_numpy():
    rng = np.random.default_rng(0)
    probs, hidden = rng.random((2, 3)), rng.normal(size=(2, 3, 5))
    history, seen = rng.normal(size=(2, 4, 5)), np.array([[1, 1, 1, 1], [0, 1, 1, 0]], bool)
    found = contrastive_scores(
        jnp.float32(probs), unit(jnp.asarray(hidden)), unit(jnp.asarray(history)), seen, 0.3
    )
    for row in range(2):
        for k in range(3):
            nearest = max(cosine(hidden[row, k], old) for old in history[row][seen[row]])
            np.testing.assert_allclose(
                found[row, k], 0.7 * probs[row, k] - 0.3 * nearest, rtol=1e-5, atol=1e-6
            )


@pytest.mark.parametrize("alpha", [0.3, 0.8])
def test_search_is_that_of_plain_numpy(alpha):
    """A toy model's hidden states are its logits."""
    config = CONTRASTIVE.replace(penalty_alpha=alpha)
    for seed in range(4):
        model = toy(seed)
        found = run(model, SOURCES, config)
        for row, line in enumerate(LINES):
            ids, total, history = [], 0.0, [model.reference_logits(line, [])]
            while not ids or ids[-1] != EOS_ID:
                logits = model.reference_logits(line, ids)
                log_probs = logits - np.log(np.exp(logits).sum())
                allowed = log_probs.copy()
                allowed[[PAD_ID, BOS_ID]] = -np.inf
                if len(ids) == 9:
                    allowed[np.arange(len(allowed)) != EOS_ID] = -np.inf
                tokens = [t for t in np.argsort(-allowed)[:3] if np.isfinite(allowed[t])]
                states = [model.reference_logits(line, [*ids, t]) for t in tokens]
                best = best_candidate(allowed[tokens], states, history, alpha)
                ids.append(int(tokens[best]))
                history.append(states[best])
                total += log_probs[ids[-1]]
            assert found.ids[row, 0, : len(ids)].tolist() == ids
            np.testing.assert_allclose(found.log_probs[row, 0], total, rtol=1e-4)


def test_without_weight_it_is_greedy_and_values_do_not_compile_again():
    greedy = run(toy(1), SOURCES, DecodeConfig(max_length=10))
    found = run(toy(1), SOURCES, CONTRASTIVE.replace(penalty_alpha=0.0))
    np.testing.assert_array_equal(found.ids, greedy.ids)
    np.testing.assert_allclose(found.scores, greedy.scores, rtol=1e-5)
    traces = []

    def call(source, keys, values, shape):
        traces.append(shape)
        return search(toy(1), source, keys, shape=shape, values=values, max_len=16)

    jitted = jax.jit(call, static_argnames="shape")
    keys = make_row_keys(0, np.arange(len(LINES)))
    for alpha in (0.0, 0.5, 0.9):
        config = CONTRASTIVE.replace(penalty_alpha=alpha)
        again = jitted(SOURCES, keys, config.values(), config.shape())
    assert len(traces) == 1 and not np.array_equal(again.ids, found.ids)


def test_a_line_does_not_depend_on_its_batch():
    together = run(toy(2), SOURCES, CONTRASTIVE)
    order = [4, 1]
    again = sources([LINES[i] for i in order], 14)
    apart = run(toy(2), again, CONTRASTIVE, max_len=24, numbers=order)
    np.testing.assert_array_equal(apart.ids[:, :, :16], together.ids[order])
    np.testing.assert_allclose(apart.scores, together.scores[order], atol=1e-5)


@pytest.mark.parametrize("kind", ["gpt2", "lstm"])
def test_prompts_are_part_of_the_history(kind):
    """Every step recomputed from scratch: no cache, no beams."""
    definition, params = build(kind)

    @jax.jit
    def whole(ids):
        places = jnp.arange(ids.shape[1])
        rows = Sequences(ids, jnp.ones_like(ids), jnp.broadcast_to(places, ids.shape))
        model = definition.bind(params)
        hidden = model(Batch(None, rows, ids, jnp.ones(ids.shape)))
        return hidden, jax.nn.log_softmax(model.output_logits(hidden))

    def read(rows):
        padded = np.zeros((4, 40), np.int32)
        padded[: len(rows)] = [row + [0] * (40 - len(row)) for row in rows]
        hidden, log_probs = whole(padded)  # causal: what stands behind a row changes nothing
        return np.asarray(hidden, np.float64), np.asarray(log_probs)

    prompts = ["bca\nab a", "abc b cab\nca"]
    options = {"contrastive_k": 4, "penalty_alpha": 0.7, "max_new_tokens": 8}
    answers = language_model(kind).generate(prompts, **options)
    for prompt, answer in zip(prompts, answers):
        row, ids = [BOS_ID, *Pieces().encode(prompt)], []
        while len(ids) < 8 and (not ids or ids[-1] != EOS_ID):
            hidden, log_probs = read([row])
            allowed = log_probs[0, len(row) - 1].copy()
            allowed[[PAD_ID, BOS_ID]] = -np.inf
            tokens = np.argsort(-allowed)[:4]
            states = read([[*row, int(token)] for token in tokens])[0][:, len(row)]
            best = best_candidate(allowed[tokens], states, hidden[0, : len(row)], 0.7)
            ids.append(int(tokens[best]))
            row = [*row, ids[-1]]
        assert answer[0].ids == tuple(i for i in ids if i != EOS_ID)


def test_contradictions_are_refused():
    for options, message in (
        ({"num_beams": 2}, "one answer"),
        ({"do_sample": True}, "one answer"),
    ):
        with pytest.raises(ConfigError, match=message):
            DecodeConfig(contrastive_k=4, **options)
    with pytest.raises(ConfigError, match="only by contrastive search"):
        DecodeConfig().replace(penalty_alpha=0.5)


def test_candidates_are_at_most_256_and_the_vocabulary():
    with pytest.raises(ConfigError, match=r"contrastive_k: 257\n.*int, 0..256"):
        DecodeConfig(contrastive_k=257)
    model = language_model("gpt2")
    assert model.options(contrastive_k=VOCAB).contrastive_k == VOCAB
    with pytest.raises(ConfigError, match=f"a vocabulary of {VOCAB} tokens"):
        model.options(contrastive_k=VOCAB + 1)
