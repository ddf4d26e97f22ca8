"""Text in, text out: order, shapes, odd lines, scores, streaming."""

import functools
import logging
import math

import jax
import numpy as np
import pytest
from decoding.toy_model import ToyModel, sources

from seqgen import config, programs, search_options
from seqgen.building import make_generator
from seqgen.data import Tokenizers
from seqgen.data.base_tokenizer import BaseTokenizer
from seqgen.decoding import DecodeConfig, Shortlist, make_row_keys, search, shortlist
from seqgen.errors import ConfigError
from seqgen.inference import Generator
from seqgen.types import EOS_ID


class Letters(BaseTokenizer):
    """A tokenizer of the letters a to l; anything else is left out."""

    vocab_size = 16
    fingerprint = "letters"

    def encode(self, text):
        return [ord(letter) - ord("a") + 4 for letter in text if "a" <= letter <= "l"]

    def piece_bytes(self, token_id):
        return self.decode([token_id]).encode()

    def save(self, path):
        path.write_text(self.fingerprint)

    def decode(self, ids):
        return "".join(chr(int(i) - 4 + ord("a")) for i in ids if i >= 4)


class ToyDefinition:
    """Binds the tables of a toy model and counts how often it is traced."""

    def __init__(self):
        self.traces = 0

    def bind(self, params):
        self.traces += 1
        return ToyModel(**params)


def make(config=None, *, seed=0, **options):
    toy = ToyModel.random(seed, **options.pop("toy", {}))
    params = {name: getattr(toy, name) for name in ("by_pair", "by_position", "by_source")}
    params["spoilt"] = np.float32(toy.spoilt)
    return Generator(ToyDefinition(), params, Letters(), Letters(), config, **options)


def lines(count, seed=0, longest=14):
    rng = np.random.default_rng(seed)
    letters = [chr(ord("a") + i) for i in range(12)]
    return ["".join(rng.choice(letters, rng.integers(1, longest))) for _ in range(count)]


@pytest.fixture(scope="module")
def generator():
    return make(DecodeConfig(batch_size=8))


def test_a_position_table_that_holds_both_sides_limits_both():
    cfg = config.from_dict(
        {
            "model": {
                "encoder": {"kind": "none", "source_prefix": True},
                "decoder": {"positions": "learned", "max_positions": 40},
            },
            "data": {"max_source_len": 12, "max_target_len": 20},
        }
    )
    toy = make()
    made = make_generator(cfg, toy.definition, toy.params, Tokenizers(Letters(), Letters()))
    texts = made._texts
    source = len(texts.encode("a" * 50, 0, made.decode_config))
    assert (source, len(texts.encode_target("a" * 50, 0, behind=[], include_eos=True))) == (12, 28)


def test_answers_stand_in_the_order_of_the_lines(generator):
    texts = lines(21)
    together = generator.generate(texts, num_beams=3)
    assert len(together) == len(texts)
    backwards = generator.generate(texts[::-1], num_beams=3)[::-1]
    for one, other in zip(together, backwards):
        assert one[0].ids == other[0].ids
        assert one[0].score == pytest.approx(other[0].score, abs=1e-5)
    assert len({answers[0].text for answers in together}) > 10
    for answer in (hypothesis for answers in together for hypothesis in answers):
        assert answer.text == Letters().decode(answer.ids)
        assert answer.score == pytest.approx(answer.log_prob / (len(answer.ids) + 1), rel=1e-5)


def test_batch_size_and_window_change_no_answer(generator):
    """Greedy, searched and drawn alike, with lines sorted and cut in another way."""
    texts = lines(15, seed=1, longest=8)
    for options in ({"num_beams": 3}, {"do_sample": True, "temperature": 1.3}):
        whole = generator.generate(texts, **options)
        pieces = generator.generate(texts, batch_size=2, **options)
        assert [a[0].ids for a in whole] == [a[0].ids for a in pieces]


def test_scores_equal_those_of_the_search(generator):
    texts = lines(9, seed=2)
    answers = generator.generate(texts, num_beams=3, num_return_sequences=2)
    for n in range(2):
        totals = generator.score(texts, [answer[n].ids for answer in answers])
        found = [answer[n].log_prob for answer in answers]
        np.testing.assert_allclose(totals, found, rtol=1e-5)
    tokens = generator.token_scores(texts, [answer[0].ids for answer in answers])
    assert [len(row) for row in tokens] == [len(answer[0].ids) + 1 for answer in answers]
    toy = ToyModel.random(0)
    expected = toy.reference_log_probs(
        [*Letters().encode(texts[3]), EOS_ID], [*answers[3][0].ids, EOS_ID]
    )
    np.testing.assert_allclose(tokens[3], expected, rtol=1e-4)


def test_targets_may_be_text(generator):
    assert generator.score(["abc"], ["bd"]) == generator.score(["abc"], [[5, 7]])
    assert generator.score([""], [""])[0] < 0
    with pytest.raises(ValueError, match="2 sources and 1 targets"):
        generator.score(["a", "b"], ["c"])


def test_empty_lines_have_the_empty_answer(generator):
    texts = ["abc", "", "  \t", "fed"]
    answers = generator.generate(texts, num_beams=2, num_return_sequences=2)
    for row in (1, 2):
        assert [hypothesis.text for hypothesis in answers[row]] == ["", ""]
        assert all(math.isnan(hypothesis.log_prob) for hypothesis in answers[row])
    without = generator.generate(["abc", "fed"], num_beams=2, num_return_sequences=2)
    assert [answers[0][0].ids, answers[3][0].ids] == [a[0].ids for a in without]
    assert generator.generate([]) == []


def test_another_script_and_very_long_lines_get_answers(generator, caplog):
    texts = ["наука", "漢字", "ab" * 300, "a"]
    with caplog.at_level(logging.WARNING):
        answers = generator.generate(texts, max_length=20)
    assert all(np.isfinite(answer[0].score) for answer in answers)
    assert not caplog.records


def test_lines_past_the_model_are_cut_with_a_warning(caplog):
    """A position table ends at 20 source tokens and 12 target tokens."""
    generator = make(max_source_len=20, max_target_len=12)
    with caplog.at_level(logging.WARNING):
        answers = generator.generate(["abc", "abcdefghij" * 4])
    assert [record.getMessage() for record in caplog.records] == [
        "line 2: source of 41 tokens cut to 20, the longest this model takes"
    ]
    cut = generator.generate(["abc", "abcdefghijabcdefghi"])
    assert answers[1][0].ids == cut[1][0].ids
    assert all(len(answer[0].ids) + 1 <= 12 for answer in answers)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        make().generate(["abcd" * 5], max_source_length=8)
    assert "cut to 8" in caplog.text


def test_logits_that_are_not_numbers_are_reported(caplog):
    generator = make(toy={"spoilt": np.nan}, seed=1)
    generator.params["by_source"] = abs(generator.params["by_source"])
    with caplog.at_level(logging.WARNING):
        answers = generator.generate(["abc", "de"], num_beams=2)
    assert [answer[0].text for answer in answers] == ["", ""]
    assert [answer[0].score for answer in answers] == [-np.inf, -np.inf]
    assert "line 1: the model gives no numbers" in caplog.text
    assert "line 2: " in caplog.text


def test_streaming_reads_a_window_at_a_time():
    generator = make(DecodeConfig(batch_size=1, max_length=4))
    read, told = [], []

    def endless():
        for number in range(10**9):
            read.append(number)
            yield "abcde"[: 1 + number % 5]

    answers = generator.stream(endless(), progress=told.append)
    first = [next(answers) for _ in range(40)]
    assert len(first) == 40
    assert len(read) == 64  # two windows of 32 batches of one line
    assert told == list(range(1, 65))
    assert [a[0].ids for a in first[:5]] == [a[0].ids for a in first[5:10]]


def test_draws_depend_on_line_numbers_across_windows():
    generator = make(DecodeConfig(batch_size=1, do_sample=True, max_length=8, temperature=2.0))
    texts = ["abcd"] * 40
    drawn = generator.generate(texts)
    assert drawn == generator.generate(texts)
    assert drawn[:32] == generator.generate(texts[:32])
    assert len({answers[0].ids for answers in drawn}) > 25


def test_options_are_checked_at_the_call(generator):
    with pytest.raises(ConfigError, match="did you mean   num_beams"):
        generator.stream(["a"], num_beans=2)
    with pytest.raises(ConfigError, match="top_p"):
        generator.generate(["a"], top_p=7.0)
    with pytest.raises(ConfigError, match="stop: read only by language models"):
        generator.generate(["a"], stop="b")
    with pytest.raises(ValueError, match="give both"):
        generator.score(["a"])


def test_few_shapes_are_compiled():
    """One program a shape: neither new values, nor new parameters, nor new text compile."""
    generator = make(DecodeConfig(batch_size=4))
    definition = generator.definition
    generator.generate(lines(8, longest=7))
    assert definition.traces == 1
    generator.generate(lines(24, seed=3, longest=7), length_penalty=0.3, min_length=2)
    generator.params = {**generator.params, "by_pair": generator.params["by_pair"] * 2}
    generator.generate(lines(4, seed=4, longest=7), suppress_unk=True)
    assert definition.traces == 1
    generator.generate(lines(4, longest=7), num_beams=2)
    assert definition.traces == 2
    generator.generate(["abcdefghijkl" * 8], num_beams=2)
    assert definition.traces == 3


def test_rules_on_words_are_cut_by_the_target_tokenizer():
    generator = make(DecodeConfig(batch_size=4))
    texts = lines(6)
    options = {"num_beams": 3, "num_return_sequences": 3, "max_length": 8}
    plain = generator.generate(texts, **options)
    assert any("a" in answer.text for row in plain for answer in row)
    rules = {"bad_words": ["a", "bc", "?"], "forced_prefix": "cc", "stop_token_ids": [7]}
    for text, row in zip(texts, generator.generate(texts, **options, **rules)):
        for answer in row:
            assert "a" not in answer.text and "bc" not in answer.text
            assert answer.text.startswith("cc"), "and what ends an answer is no part of it"
            assert "d" not in answer.text, text


def test_penalised_scores_rank_and_log_probs_stay_the_models_own():
    generator = make(DecodeConfig(batch_size=4, repetition_penalty=2.0, frequency_penalty=0.5))
    texts = lines(5, seed=2)
    # More tokens than there are words: some must repeat.
    options = {"num_beams": 3, "num_return_sequences": 2, "min_length": 8, "max_length": 10}
    rows = generator.generate(texts, **options)
    for text, row in zip(texts, rows):
        assert row[0].score >= row[1].score
        for answer in row:
            assert generator.score([text], [answer.ids]) == pytest.approx([answer.log_prob], 1e-4)
    assert all(row[0].score < row[0].log_prob / (len(row[0].ids) + 1) - 0.01 for row in rows)


def test_what_required_words_need_is_found_once_for_all_batches(monkeypatch):
    calls = []
    usual = search_options.tokens_needed
    monkeypatch.setattr(
        search_options, "tokens_needed", lambda *given: calls.append(given) or usual(*given)
    )
    generator = make()
    config = generator.options(num_beams=2, required_words=["abc"], forced_prefix="b")
    for number in range(3):
        generator._task([[4, 5, EOS_ID]], [number], config)
    assert len(calls) == 1
    short = generator.options(
        num_beams=2,
        required_words=["abc"],
        forced_prefix="b",
        max_length_ratio=1,
        max_length_offset=1,
    )
    with pytest.raises(ConfigError, match=r"line 8: required_words do not fit.*\n.*4 tokens with"):
        generator._task([[4, 5, EOS_ID]], [7], short)
    assert len(calls) == 2


def test_few_shapes_are_compiled_with_a_shortlist(monkeypatch):
    """At most one program a size of candidates; a line's answer is that of its own candidates."""
    monkeypatch.setattr(shortlist, "_SMALLEST", 16)
    table = np.zeros((16, 2), np.int32)
    table[4:] = np.random.default_rng(0).integers(4, 40, (12, 2))
    cut = Shortlist(table, np.arange(4, 10, dtype=np.int32), 40)
    options = DecodeConfig(batch_size=4, max_length=4)
    generator = make(options, toy={"vocab": 40}, shortlist=cut)
    texts = lines(32, seed=3, longest=7)
    answers = generator.generate(texts)
    generator.generate(lines(32, seed=4, longest=7))
    sizes = shortlist.candidate_sizes(40)
    assert sizes == (16, 24, 32, 40)
    assert 1 < generator.definition.traces <= len(sizes)
    alone = make(options, toy={"vocab": 40}, shortlist=cut).generate(texts, batch_size=1)
    for text, answer, single in zip(texts, answers, alone):
        assert answer[0].ids == single[0].ids
        assert set(answer[0].ids) <= {*range(10), *table[Letters().encode(text)].ravel().tolist()}


@pytest.mark.parametrize(
    "option",
    [
        {"bad_words": ["a"]},
        {"forced_prefix": "a"},
        {"stop_token_ids": [7]},
        {"required_words": ["a"], "num_beams": 2},
    ],
)
def test_rules_that_name_tokens_refuse_a_shortlist(option):
    cut = Shortlist(np.zeros((16, 2), np.int32), np.arange(4, 10, dtype=np.int32), 40)
    with pytest.raises(ConfigError, match="whole vocabulary"):
        make(toy={"vocab": 40}, shortlist=cut).generate(["ab"], **option)


def test_without_a_shortlist_the_program_is_what_it_was():
    """Nothing of it is traced: the program of `search` itself, equation by equation."""
    config = DecodeConfig(num_beams=2)
    source, numbers = sources([[4, 5, EOS_ID]]), np.zeros(1, np.uint32)
    static = {"shape": config.shape(), "max_len": 8}

    def by_hand(params, source, numbers, seed, values):
        keys = make_row_keys(seed, numbers)
        return search(ToyModel(**params), source, keys, values=values, **static)

    generator = make(config)
    given = (generator.params, source, numbers, 0, config.values())
    program = functools.partial(
        programs._search, ToyDefinition(), prompt=None, candidates=None, **static
    )
    assert str(jax.make_jaxpr(program)(*given)) == str(jax.make_jaxpr(by_hand)(*given))
