"""Laws of text that goes on from prompts, and of the probabilities of texts."""

import functools
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from prompted import PIECES, POSITIONS, Pieces, build, generator

from seqgen.decoding.prompts import prompt_limit
from seqgen.errors import ConfigError
from seqgen.types import BOS_ID, EOS_ID, NUM_CONTROL_IDS, PAD_ID, Batch, Sequences

PROMPTS = ["", "a", "bca\nab a", "abc b cab\nca" * 2]
KINDS = ["gpt2", "lstm"]


@functools.cache
def parallel(kind):
    """The pass that training differentiates, over whole rows of one width: no cache, no steps."""
    definition, params = build(kind)

    @jax.jit
    def log_probs(ids, lengths):
        places = jnp.arange(ids.shape[1])
        segments = (places < lengths[:, None]).astype(jnp.int32)
        rows = Sequences(ids, segments, places * segments)
        model = definition.bind(params)
        hidden = model(Batch(None, rows, ids, segments.astype(jnp.float32)))
        return jax.nn.log_softmax(model.output_logits(hidden))

    def call(rows):
        ids = np.zeros((4, POSITIONS), np.int32)
        lengths = np.ones(4, np.int32)
        for row, line in enumerate(rows):
            ids[row, : len(line)], lengths[row] = line, len(line)
        return np.asarray(log_probs(ids, lengths))

    return call


def recomputed_greedy(kind, prompts, new_tokens):
    """(ids, log-probability) of each prompt, every token from a pass over all before it."""
    rows = [[BOS_ID, *Pieces().encode(prompt)] for prompt in prompts]
    begun = [len(row) for row in rows]
    totals, done = np.zeros(len(rows)), [False] * len(rows)
    for _ in range(new_tokens):
        log_probs = parallel(kind)(rows)
        for row, line in enumerate(rows):
            if done[row]:
                continue
            scores = log_probs[row, len(line) - 1].copy()
            scores[[PAD_ID, BOS_ID]] = -np.inf
            token = int(scores.argmax())
            totals[row] += scores[token]
            done[row] = token == EOS_ID
            line.append(token)
    return [
        (tuple(i for i in line[first:] if i != EOS_ID), total)
        for line, first, total in zip(rows, begun, totals)
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_text_is_that_of_no_cache_and_no_steps(kind):
    """Ragged prompts, read in one pass, in one batch; the empty one begins behind BOS."""
    answers = [found[0] for found in generator(kind).generate(PROMPTS)]
    wanted = recomputed_greedy(kind, PROMPTS, 16)
    assert [answer.ids for answer in answers] == [ids for ids, _ in wanted]
    np.testing.assert_allclose(
        [answer.log_prob for answer in answers], [total for _, total in wanted], atol=1e-4
    )
    assert len({answer.ids for answer in answers}) >= 3
    for answer in answers:
        assert (answer.finish_reason == "length") == (len(answer.ids) == 16)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("gpt2", {"num_beams": 3, "num_return_sequences": 2}),
        ("lstm", {"num_beams": 3, "num_return_sequences": 2}),
        ("gpt2", {"do_sample": True, "num_return_sequences": 3, "temperature": 1.2}),
    ],
)
def test_answers_do_not_depend_on_the_batch_and_score_as_they_say(kind, options):
    model = generator(kind)
    together = model.generate(PROMPTS, **options)
    (alone,) = model.generate(PROMPTS[:1], **options)  # drawn with the key of line 1
    assert [answer.ids for answer in alone] == [answer.ids for answer in together[0]]
    np.testing.assert_allclose(
        [answer.log_prob for answer in alone], [a.log_prob for a in together[0]], atol=1e-5
    )
    reasons = set()
    for n in range(len(alone)):
        row = [answers[n] for answers in together]
        reasons |= {answer.finish_reason for answer in row}
        for ended in (True, False):
            which = [i for i, a in enumerate(row) if (a.finish_reason == "eos") == ended]
            prompts, ids = [PROMPTS[i] for i in which], [row[i].ids for i in which]
            again = model.score(prompts, ids, include_eos=ended)
            np.testing.assert_allclose(again, [row[i].log_prob for i in which], atol=1e-4)
    assert reasons == {"eos", "length"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_alone_scores_as_in_the_training_pass(kind):
    model, texts = generator(kind), ["bca\nab", "a", "", "abcab b"]
    ids = [Pieces().encode(text) for text in texts]
    log_probs = parallel(kind)([[BOS_ID, *line] for line in ids])
    for row, found in enumerate(model.token_scores(texts)):
        labels = [*ids[row], EOS_ID]
        np.testing.assert_allclose(found, log_probs[row, np.arange(len(labels)), labels], atol=1e-4)
    open_ended = model.token_scores(texts, include_eos=False)
    assert [len(row) for row in open_ended] == [len(line) for line in ids]
    np.testing.assert_allclose(open_ended[0], model.token_scores(texts)[0][:-1], atol=1e-5)
    np.testing.assert_allclose(model.score([""] * 4, texts), model.score(texts), atol=1e-5)


def straddling(answer):
    """A string of the text that is parted between two tokens and stands there first, if any."""
    pieces = [PIECES[i - NUM_CONTROL_IDS] for i in answer.ids]
    for count in range(2, len(pieces)):
        string = pieces[count - 1][-1] + pieces[count][0]
        before = "".join(pieces[:count])
        if string not in before:
            return before[:-1], string, count + 1
    return None


@pytest.mark.parametrize("options", [{}, {"do_sample": True, "temperature": 1.2}])
def test_an_answer_ends_where_a_stop_string_is_whole(options):
    model = generator("gpt2")
    whole = [found[0] for found in model.generate(PROMPTS, **options)]
    row, (text, stop, count) = next(
        (row, found) for row, answer in enumerate(whole) if (found := straddling(answer))
    )
    stopped = [found[0] for found in model.generate(PROMPTS, stop=["ccc!", stop], **options)]
    assert stopped[row].text == (text if PROMPTS[row] else text.removeprefix(" "))
    assert stopped[row].finish_reason == "stop"
    # No step more than it takes, and what is returned is what was scored.
    assert stopped[row].ids == whole[row].ids[:count]
    again = model.score([PROMPTS[row]], [stopped[row].ids], include_eos=False)
    assert stopped[row].log_prob == pytest.approx(again[0], abs=1e-4)
    for answer, unstopped in zip(stopped, whole):
        assert stop not in answer.text
        if stop not in "".join(PIECES[i - NUM_CONTROL_IDS] for i in unstopped.ids):
            assert answer == unstopped


def test_a_beam_ends_at_a_stop_string_as_at_eos():
    options = {"num_beams": 3, "num_return_sequences": 2}
    found = [
        a for answers in generator("gpt2").generate(PROMPTS, stop="b", **options) for a in answers
    ]
    assert {answer.finish_reason for answer in found} == {"stop", "length"}
    for answer in found:
        spelt = "".join(PIECES[i - NUM_CONTROL_IDS] for i in answer.ids)
        assert ("b" in spelt) == (answer.finish_reason == "stop")
        assert "b" not in answer.text and spelt.lstrip().startswith(answer.text.lstrip())
        assert "b" not in "".join(PIECES[i - NUM_CONTROL_IDS] for i in answer.ids[:-1])


def test_the_text_fits_behind_its_prompt():
    """The space before a word is kept behind a prompt and taken off where the text begins."""
    model, tokens = generator("lstm"), Pieces()
    for seed in range(3):
        found = model.generate(PROMPTS, do_sample=True, num_return_sequences=3, seed=seed)
        for prompt, answers in zip(PROMPTS, found):
            for answer in answers:
                both = [*tokens.encode(prompt), *answer.ids]
                assert prompt + answer.text == tokens.decode(both)


def test_prompts_of_a_bucket_and_other_values_compile_nothing():
    model = generator("gpt2")
    model.generate(PROMPTS)
    model.generate(PROMPTS, do_sample=True)
    model.score(PROMPTS, [[5]] * 4)
    before = model.definition.traces
    longer = ["ab" * n for n in (2, 16, 13, 0)]
    model.generate(longer, stop=("\n", "cab"), min_length=3, suppress_unk=True)
    model.generate(longer, do_sample=True, temperature=0.5, top_k=3, top_p=0.9, seed=9, stop="b")
    model.score(longer, ["abc", "a", "b", ""])
    assert model.definition.traces == before


def test_a_position_table_bounds_prompt_and_answer_together(caplog):
    """48 positions: the last token of an answer is not read, so 48 - prompt + 1 fit."""
    model = generator("gpt2")
    with caplog.at_level(logging.WARNING):
        (kept,), (cut,), (free,) = model.generate(["ab" * 31, "ba" + "ab" * 40, "a"], min_length=99)
    assert [record.getMessage() for record in caplog.records] == [
        "line 2: prompt of 42 tokens cut to its last 32, so that an answer has room"
    ]
    assert [len(answer.ids) for answer in (kept, cut, free)] == [16, 16, 16]
    assert {answer.finish_reason for answer in (kept, cut, free)} == {"length"}
    again, *_ = model.generate(["ab" * 32] * 4, min_length=99)
    assert again[0].ids == cut.ids
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        (long,), (short,) = model.generate(["ab" * 24, "ab" * 4], max_new_tokens=99, min_length=99)
    assert "max_new_tokens=99: this model has 48 positions" in caplog.text
    assert [len(long.ids), len(short.ids)] == [24, 44]


def test_room_is_kept_for_the_answer():
    config = generator("gpt2").decode_config
    assert prompt_limit(config, None) == config.max_source_length
    assert prompt_limit(config, 48) == 33
    assert prompt_limit(config.replace(max_new_tokens=1000), 48) == 25
    assert prompt_limit(config, 1) == 1


def test_options_of_other_models_are_refused():
    with pytest.raises(ConfigError, match="max_length: read only by models of pairs"):
        generator("gpt2").stream(["a"], max_length=4)
    with pytest.raises(ValueError, match="2 sources and 1 targets"):
        generator("gpt2").score(["a", "b"], ["c"])
