"""Laws of beam search, on a model whose best sequences can be enumerated."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from decoding.toy_model import ToyModel, every_target, random_lines, run, sources

from seqgen.decoding import DecodeConfig, beam_search, target_log_probs
from seqgen.decoding.constraints import length_limits
from seqgen.types import BOS_ID, EOS_ID, PAD_ID

LINES = random_lines(np.random.default_rng(7), 4)


toy = functools.cache(ToyModel.random)


def penalty(length, alpha, kind):
    return {"length": length**alpha, "wu": ((5 + length) / 6) ** alpha, "none": 1.0}[kind]


@functools.cache
def enumerated(vocab, max_length, min_length, seed, row):
    targets = list(every_target(vocab, max_length, min_length))
    model = toy(seed, vocab=vocab)
    totals = [model.reference_log_probs(LINES[row], target).sum() for target in targets]
    return targets, np.asarray(totals)


@pytest.mark.parametrize("kind", ["length", "wu", "none"])
def test_full_width_is_brute_force(kind):
    """A beam wide enough for every prefix finds the N best of ALL sequences, in order."""
    vocab, max_length, answers = 6, 4, 5
    # 27 live prefixes of three words each, every one with its EOS, all rank within the beam.
    for alpha, min_length in [(1.0, 0), (0.0, 0), (-0.8, 0), (2.5, 1), (-2.0, 2), (0.6, 0)]:
        config = DecodeConfig(
            num_beams=120,
            num_return_sequences=answers,
            length_penalty=alpha,
            length_penalty_kind=kind,
            max_length=max_length,
            min_length=min_length,
        )
        found = run(toy(3, vocab=vocab), sources(LINES), config, max_len=max_length)
        for row in range(len(LINES)):
            targets, totals = enumerated(vocab, max_length, min_length, 3, row)
            scores = totals / [penalty(len(target), alpha, kind) for target in targets]
            best = np.argsort(-scores)[:answers]
            np.testing.assert_allclose(found.scores[row], scores[best], rtol=1e-5)
            np.testing.assert_allclose(found.log_probs[row], totals[best], rtol=1e-5)
            for n, place in enumerate(best):
                ids = found.ids[row, n, : found.lengths[row, n]]
                assert ids.tolist() == targets[place]


@pytest.mark.parametrize("stop", ["safe", "first", "heuristic"])
def test_scores_are_teacher_forced_scores(stop):
    config = DecodeConfig(
        num_beams=4, num_return_sequences=4, early_stopping=stop, length_penalty=0.7
    )
    for seed in range(4):
        found = run(toy(seed), sources(LINES), config)
        for row, line in enumerate(LINES):
            for n in range(4):
                length = found.lengths[row, n]
                total = toy(seed).reference_log_probs(line, found.ids[row, n, :length]).sum()
                np.testing.assert_allclose(found.log_probs[row, n], total, rtol=1e-5)
                np.testing.assert_allclose(found.scores[row, n], total / length**0.7, rtol=1e-5)


def test_rescoring_by_the_contract_equals_search():
    config = DecodeConfig(num_beams=3)
    found = run(toy(), sources(LINES), config)
    log_probs = jax.jit(functools.partial(target_log_probs, toy()))(
        sources(LINES), found.ids[:, 0], found.lengths[:, 0]
    )
    np.testing.assert_allclose(log_probs.sum(axis=1), found.log_probs[:, 0], rtol=1e-5)
    for row, line in enumerate(LINES):
        length = found.lengths[row, 0]
        expected = toy().reference_log_probs(line, found.ids[row, 0, :length])
        np.testing.assert_allclose(log_probs[row, :length], expected, rtol=1e-4)
        assert not np.any(log_probs[row, length:])


@pytest.mark.parametrize(
    ("stop", "kind", "alpha"),
    [("first", "length", 1.0), ("safe", "wu", 0.0)],
)
def test_beam_of_one_is_greedy(stop, kind, alpha):
    """The beam search itself at K = 1, not the shortcut that `num_beams=1` takes."""
    config = DecodeConfig(early_stopping=stop, length_penalty_kind=kind, length_penalty=alpha)
    shape = dataclasses.replace(config.shape(), early_stopping=stop)
    for seed in range(8):
        greedy = run(toy(seed), sources(LINES), config)
        beam = beam_of_one(toy(seed), sources(LINES), config.values(), shape)
        for field in ("ids", "lengths"):
            np.testing.assert_array_equal(getattr(beam, field), getattr(greedy, field))
        np.testing.assert_allclose(beam.scores, greedy.scores, rtol=1e-5)
        np.testing.assert_allclose(beam.log_probs, greedy.log_probs, rtol=1e-5)


@functools.partial(jax.jit, static_argnames="shape")
def beam_of_one(model, source, values, shape):
    limits = length_limits(values, source.segments.sum(1), max_len=16)
    return beam_search.beam_search(
        model, model.encode(source), limits, shape=shape, values=values, max_len=16
    )


@pytest.mark.parametrize("kind", ["length", "wu"])
def test_early_stop_never_changes_the_answers(kind, monkeypatch):
    """The same search with nothing but empty beams ending it gives the same N best."""
    config = DecodeConfig(num_beams=3, num_return_sequences=2, length_penalty_kind=kind)
    stopped, whole = {}, {}
    cases = [(seed, alpha) for seed in range(15) for alpha in (1.0, 0.3, -0.2, -0.5)]
    for seed, alpha in cases:
        wanted = config.replace(length_penalty=alpha)
        stopped[seed, alpha] = run(toy(seed), sources(LINES), wanted)

    def only_empty_beams(state, shape, values):
        return dataclasses.replace(state, done=state.live_log_probs[:, 0] == -np.inf)

    monkeypatch.setattr(beam_search, "mark_done", only_empty_beams)
    jax.clear_caches()
    for seed, alpha in cases:
        wanted = config.replace(length_penalty=alpha)
        whole[seed, alpha] = run(toy(seed), sources(LINES), wanted)
    jax.clear_caches()
    for case in cases:
        np.testing.assert_array_equal(stopped[case].ids, whole[case].ids)
        np.testing.assert_array_equal(stopped[case].scores, whole[case].scores)
    # It does stop early, or the law would be empty.
    assert sum(int(stopped[case].num_steps) for case in cases) < sum(
        int(whole[case].num_steps) for case in cases
    )


def test_fewer_answers_are_the_first_of_more():
    more = DecodeConfig(num_beams=4, num_return_sequences=4)
    for seed in range(6):
        many = run(toy(seed), sources(LINES), more)
        one = run(toy(seed), sources(LINES), more.replace(num_return_sequences=1))
        np.testing.assert_array_equal(one.ids[:, 0], many.ids[:, 0])
        np.testing.assert_array_equal(one.scores[:, 0], many.scores[:, 0])
        assert np.all(np.diff(many.scores, axis=1) <= 0)
        for row in range(len(LINES)):
            assert len({tuple(ids) for ids in many.ids[row].tolist()}) == 4


@pytest.mark.parametrize("stop", ["safe", "first"])
def test_answers_do_not_depend_on_neighbours_padding_or_order(stop):
    """Neighbours that search longer, wider padding and a longer cache change nothing."""
    config = DecodeConfig(
        num_beams=3, num_return_sequences=2, max_length_ratio=1.5, early_stopping=stop
    )
    lines = random_lines(np.random.default_rng(1), 12)
    order = [11, 3, 0, 7]
    for seed in range(6):
        together = run(toy(seed), sources(lines), config, max_len=24)
        again = [lines[i] for i in order]
        apart = run(toy(seed), sources(again, 16), config, max_len=32)
        np.testing.assert_array_equal(apart.ids[:, :, :24], together.ids[order])
        np.testing.assert_array_equal(apart.lengths, together.lengths[order])
        np.testing.assert_allclose(apart.scores, together.scores[order], atol=1e-5)
        backwards = run(toy(seed), sources(lines[::-1]), config, max_len=24)
        np.testing.assert_array_equal(backwards.ids[::-1], together.ids)


def test_lengths_keep_their_limits():
    config = DecodeConfig(
        num_beams=3, num_return_sequences=3, max_length_ratio=0.5, max_length_offset=3
    )
    own = np.asarray([len(line) // 2 + 3 for line in LINES])
    found = run(toy(2), sources(LINES, 20), config)
    assert np.all(found.lengths <= own[:, None])
    assert np.any(found.lengths == own[:, None])
    forced = run(toy(2), sources(LINES, 20), config.replace(min_length=4))
    assert np.all(forced.lengths >= np.minimum(4 + 1, own)[:, None])
    assert not np.array_equal(forced.lengths, found.lengths)
    for hypotheses in (found, forced):
        check_shape_of_ids(hypotheses)


def check_shape_of_ids(found):
    """Each hypothesis: words, one EOS, padding; neither PAD nor BOS among the words."""
    for ids, length in zip(found.ids.reshape(-1, found.ids.shape[-1]), found.lengths.reshape(-1)):
        assert ids[length - 1] == EOS_ID
        assert not set(ids[: length - 1].tolist()) & {PAD_ID, BOS_ID, EOS_ID}
        assert not np.any(ids[length:])


def test_unknown_token_can_be_suppressed():
    config = DecodeConfig(num_beams=4, num_return_sequences=4)
    free = run(toy(0), sources(LINES), config)
    assert np.any(free.ids == 1)
    held = run(toy(0), sources(LINES), config.replace(suppress_unk=True))
    assert not np.any(held.ids == 1)


def test_ties_go_to_the_lowest_id():
    """With all logits equal, the order of ids decides and is the same everywhere."""
    model = toy(0, scale=0.0)
    config = DecodeConfig(
        num_beams=3, num_return_sequences=3, max_length=4, min_length=2, length_penalty=-1.0
    )
    found = run(model, sources(LINES), config, max_len=4)
    expected = [[1, 1, EOS_ID, 0], [1, 1, 1, EOS_ID], [1, 1, 4, EOS_ID]]
    for row in range(len(LINES)):
        assert found.ids[row].tolist() == expected


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("beams", [1, 3])
def test_spoilt_logits_end_and_leave_neighbours_alone(value, beams):
    """Rows whose logits break after two tokens end; the others answer as if alone."""
    config = DecodeConfig(num_beams=beams, num_return_sequences=beams, max_length=10)
    spoilt_model = toy(4, spoilt=value, spoilt_from=2)
    lines = random_lines(np.random.default_rng(3), 10)
    found = run(spoilt_model, sources(lines), config)
    sound = run(toy(4), sources(lines), config)
    summary = np.asarray(toy(4).encode(sources(lines)).summary)[:, 4]
    assert 0 < np.sum(summary > 0) < len(lines)
    for row in range(len(lines)):
        if summary[row] > 0:
            kept = found.lengths[row] > 0
            assert np.all(found.lengths[row] <= 3)
            assert np.all(np.isfinite(found.scores[row]) == kept)
            assert not np.any(found.ids[row][~kept])
        else:
            np.testing.assert_array_equal(found.ids[row], sound.ids[row])
            np.testing.assert_array_equal(found.scores[row], sound.scores[row])


def test_all_spoilt_ends_at_once():
    model = toy(1, spoilt=np.nan)
    model = dataclasses.replace(model, by_source=abs(model.by_source))
    found = run(model, sources(LINES), DecodeConfig(num_beams=2, max_length=30), max_len=30)
    assert found.num_steps == 1
    assert np.all(found.lengths == 0)
    assert np.all(found.scores == -np.inf)
