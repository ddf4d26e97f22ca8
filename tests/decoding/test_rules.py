"""Each rule on logits against plain Python and against Hugging Face's, with traced numbers."""

import functools

import jax
import numpy as np
import pytest
from decoding import rules_reference as reference
from decoding.toy_model import encode

from seqgen.decoding import bans, penalties
from seqgen.decoding.filters import keep_min_p, keep_typical
from seqgen.decoding.id_tables import forced_ids, stop_ids, word_table
from seqgen.errors import ConfigError
from seqgen.types import EOS_ID, UNK_ID

VOCAB, ROOM = 12, 14
RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(3, 2, VOCAB)).astype(np.float32) * 3
# Few different ids, so that they repeat; what stands after the position must not be read.
IDS = RNG.integers(4, 8, (3, 2, ROOM)).astype(np.int32)
POSITIONS = (0, 1, 2, 5, 13, 14)
WORDS = ["5", "6 7", "4 5 6", "7 7 7 7 4"]


def each_row(position):
    for row in np.ndindex(3, 2):
        yield row, IDS[row][:position].tolist()


@functools.cache
def jitted(function):
    return jax.jit(function)


def banned(function, position, *args):
    """Where the logits are -inf; elsewhere they must stand as they were."""
    found = np.asarray(jitted(function)(LOGITS, IDS, np.int32(position), *args))
    np.testing.assert_array_equal(np.where(np.isinf(found), LOGITS, found), LOGITS)
    return np.isinf(found)


@pytest.mark.parametrize("position", POSITIONS)
def test_penalties_equal_a_count(position):
    counts = jitted(functools.partial(penalties.count_tokens, vocab=VOCAB))(IDS, position)
    repetition = jitted(penalties.penalise_repetition)(LOGITS, counts, 1.7)
    both = jitted(penalties.penalise_frequency)(LOGITS, counts, 0.3)
    both = jitted(penalties.penalise_presence)(both, counts, 0.9)
    for row, ids in each_row(position):
        assert np.asarray(counts)[row].tolist() == [ids.count(i) for i in range(VOCAB)]
        want = reference.repetition(LOGITS[row], ids, 1.7)
        np.testing.assert_allclose(repetition[row], want, rtol=1e-6)
        want = reference.frequency_and_presence(LOGITS[row], ids, 0.3, 0.9)
        np.testing.assert_allclose(both[row], want, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(jitted(penalties.penalise_repetition)(LOGITS, counts, 1), LOGITS)


def test_no_ngram_comes_twice():
    for position in POSITIONS:
        for size in (1, 2, 3, 5, ROOM, ROOM + 9):
            found = banned(bans.ban_repeated_ngrams, position, np.int32(size))
            for row, ids in each_row(position):
                want = [reference.repeats_ngram(ids, token, size) for token in range(VOCAB)]
                assert found[row].tolist() == want, (position, size)
    assert jitted(bans.ban_repeated_ngrams)._cache_size() == 1


def test_words_are_banned_where_their_beginning_stands():
    ids = [encode(word) for word in WORDS]
    table = word_table(WORDS, encode)
    assert table.shape == (4, 8)
    for position in POSITIONS:
        found = banned(bans.ban_words, position, table)
        for row, before in each_row(position):
            want = [reference.ends_bad_word(before, token, ids) for token in range(VOCAB)]
            assert found[row].tolist() == want
    one = banned(bans.ban_words, 3, word_table(["9"], encode))
    assert np.all(one == (np.arange(VOCAB) == 9))


def test_tables_have_few_shapes_and_leave_out_what_cannot_come():
    assert word_table([], encode) is None
    assert word_table([f"4 {UNK_ID}", ""], encode) is None
    table = np.asarray(word_table(["4", "5 6 7", f"{UNK_ID}", "8"], encode))
    assert table.tolist() == [
        [-1, -1, -1, 4],
        [-1, 5, 6, 7],
        [-1, -1, -1, 8],
        [-1, -1, -1, -1],
    ]
    assert forced_ids("", encode) is None
    assert np.asarray(forced_ids("4 5 6", encode)).tolist() == [4, 5, 6, -1]
    with pytest.raises(ConfigError, match="target vocabulary"):
        forced_ids(f"4 {UNK_ID}", encode)
    assert stop_ids((EOS_ID,)) is None
    assert np.asarray(stop_ids((9, EOS_ID, 7, 8, 7))).tolist() == [7, 8, 9, 9]


def test_stop_tokens_are_banned_while_the_answer_is_short():
    ids = stop_ids((5, 9, 11))
    ban = jitted(bans.ban_tokens)
    assert not np.any(np.isinf(ban(LOGITS, ids, False)))
    held = np.isinf(ban(LOGITS, ids, True))
    assert np.all(held == np.isin(np.arange(VOCAB), [5, 9, 11]))


def test_a_prefix_comes_whatever_is_banned_while_there_is_room():
    free = np.where(np.arange(VOCAB) == 9, -np.inf, LOGITS)
    prefix = forced_ids("9 4 8", encode)
    rooms = np.asarray([1, 2, 98])
    force = jitted(bans.force_prefix)
    for position in range(6):
        found = np.asarray(force(LOGITS, free, position, rooms, prefix))
        for row, room in enumerate(rooms):
            want = free[row]
            if position < min(3, room):
                want = np.where(np.arange(VOCAB) == [9, 4, 8][position], LOGITS[row], -np.inf)
            np.testing.assert_array_equal(found[row], want)


def sorted_typical(logits, p):
    """Locally typical tokens by a sort, in float64."""
    log_probs = np.asarray(logits, np.float64)
    log_probs = log_probs - np.log(np.exp(log_probs).sum())
    probs = np.exp(log_probs)
    seen = probs > 0
    entropy = -(probs[seen] * log_probs[seen]).sum()
    order = np.argsort(np.where(seen, abs(-log_probs - entropy), np.inf))
    before = np.cumsum(probs[order]) - probs[order]
    kept = np.zeros(len(probs), bool)
    kept[order[: max(1, int(np.sum(before < p)))]] = True
    return kept


def test_min_p_and_typical_equal_a_sort():
    rng = np.random.default_rng(2)
    logits = (rng.normal(size=(40, 50)) * rng.choice([0.1, 1, 10], (40, 1))).astype(np.float32)
    logits[:, 7] = -np.inf
    for p in (0.0, 0.02, 0.3, 0.8, 1.0):
        kept = np.isfinite(np.asarray(jitted(keep_min_p)(logits, np.float32(p))))
        probs = np.exp(np.asarray(logits, np.float64))
        want = probs >= p * probs.max(-1, keepdims=True)
        np.testing.assert_array_equal(kept, want & np.isfinite(logits))
    for p in (0.0, 0.05, 0.5, 0.9, 0.99):
        found = np.asarray(jitted(keep_typical)(logits, np.float32(p)))
        np.testing.assert_array_equal(found[np.isfinite(found)], logits[np.isfinite(found)])
        for row, line in enumerate(logits):
            np.testing.assert_array_equal(np.isfinite(found[row]), sorted_typical(line, p))


def test_rules_are_hugging_faces():
    torch = pytest.importorskip("torch")
    hf = pytest.importorskip("transformers.generation.logits_process")
    logits, position = LOGITS.reshape(-1, VOCAB), 12
    ids = IDS.reshape(-1, ROOM)[:, :position]
    counts = penalties.count_tokens(IDS, position, VOCAB)
    pairs = [
        (
            hf.RepetitionPenaltyLogitsProcessor(1.7),
            penalties.penalise_repetition(LOGITS, counts, 1.7),
        ),
        (
            hf.NoRepeatNGramLogitsProcessor(2),
            jitted(bans.ban_repeated_ngrams)(LOGITS, IDS, np.int32(position), np.int32(2)),
        ),
        (
            hf.NoBadWordsLogitsProcessor([encode(word) for word in WORDS], eos_token_id=EOS_ID),
            jitted(bans.ban_words)(LOGITS, IDS, position, word_table(WORDS, encode)),
        ),
        (hf.MinPLogitsWarper(0.2), keep_min_p(LOGITS, np.float32(0.2))),
        (hf.TypicalLogitsWarper(0.6), keep_typical(LOGITS, np.float32(0.6))),
    ]
    for theirs, ours in pairs:
        want = theirs(torch.from_numpy(ids).long(), torch.from_numpy(logits.copy())).numpy()
        changed = np.sum(want != logits)
        assert changed > 0
        np.testing.assert_allclose(np.asarray(ours).reshape(want.shape), want, rtol=1e-6)
