"""An answer that grows piece by piece is the answer of `generate`, bit for bit."""

import numpy as np
import pytest
from conversing import generator as dialogue_generator
from prompted import generator as prompt_generator

from seqgen.data.config import TokenizerConfig
from seqgen.data.multiline import MultilineTokenizer
from seqgen.data.sentencepiece_tokenizer import train_sentencepiece
from seqgen.data.tokenizer import ByteTokenizer
from seqgen.decoding.config import DecodeConfig
from seqgen.streaming import TextStream, certain
from seqgen.texts import Hypothesis, Texts
from seqgen.types import BOS_ID, NUM_CONTROL_IDS

SAMPLE = {"do_sample": True, "temperature": 1.2, "seed": 4}
LONG = {"min_length": 7}  # so that there is something to see


def same(model, text, **options):
    """Pieces and answer of a stream, compared with `generate`; returns the pieces."""
    (answers,) = model.generate([text], **options)
    stream = model.stream_text(text, **options)
    pieces = list(stream)
    assert stream.done and stream.answer == answers[0]  # ids, text, and floats to the last bit
    assert "".join(pieces) == answers[0].text
    return pieces


@pytest.mark.parametrize("kind", ["gpt2", "lstm"])
def test_a_prompt_is_answered_as_by_generate(kind):
    """Drawn answers here; the greedy ones of histories: `test_chat.py`."""
    for prompt in ("", "bca\nab a"):
        pieces = same(prompt_generator(kind), prompt, **SAMPLE, **LONG)
        assert len(pieces) > 7 and sum(map(bool, pieces)) > 3


def test_stop_strings_and_rules_hold_in_a_stream():
    model = prompt_generator("gpt2")
    (whole,) = model.generate(["a"], **SAMPLE, **LONG)
    stop = whole[0].text[3:5]
    pieces = same(model, "a", stop=[stop, "zzz"], **SAMPLE, **LONG)
    assert len(stop) == 2 and stop not in "".join(pieces)
    options = {"num_return_sequences": 2, "repetition_penalty": 1.3, "no_repeat_ngram_size": 2}
    same(model, "a", **options, **SAMPLE, **LONG)


def test_a_beam_is_one_piece_at_its_end():
    pieces = same(prompt_generator("gpt2"), "ab", num_beams=3, **LONG)
    assert len(pieces) > 7 and not any(pieces[:-1]) and pieces[-1]


def test_a_stream_that_is_left_early_keeps_what_there_is():
    model = prompt_generator("gpt2")
    stream = model.stream_text("a", **SAMPLE, **LONG)
    seen = "".join(next(stream) for _ in range(4))
    assert not stream.done and len(stream.answer.ids) == 4
    whole = model.generate(["a"], **SAMPLE, **LONG)[0][0]
    assert whole.ids[:4] == stream.answer.ids and whole.text.startswith(seen)


def test_nothing_is_compiled_for_another_text_of_the_width():
    model = prompt_generator("gpt2")
    list(model.stream_text("a", **SAMPLE, **LONG))
    before = model.definition.traces
    list(model.stream_text("bca", **{**SAMPLE, "min_length": 3, "seed": 1}))
    assert model.definition.traces == before


def test_a_blank_source_has_the_empty_answer():
    stream = dialogue_generator("pairs").stream_text("  ")
    assert list(stream) == [""] and stream.answer.ids == () and stream.done


def pieces_of(texts, ids, stop=()):
    """What a stream shows of `ids` that come one by one."""
    config = DecodeConfig(stop=stop) if stop else DecodeConfig()
    slices = []
    for n in range(1, len(ids) + 1):
        text, reason = texts._answer(tuple(ids[:n]), [BOS_ID], config)
        ends = n == len(ids) or reason == "stop"
        slices.append((Hypothesis(text, 0.0, tuple(ids[:n]), 0.0, reason), ends))
        if ends:
            break
    return list(TextStream(iter(slices), stop=stop)), slices[-1][0].text


def tokenizers():
    corpus = ["ein Café 咖啡, ça va?", "a naïve 咖 fan", "über alles"] * 4
    cfg = TokenizerConfig(kind="bpe", vocab_size=310)
    pieces = train_sentencepiece(iter(corpus), cfg, own=("\n",))
    return [ByteTokenizer(), pieces, MultilineTokenizer(pieces)]


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("reads_prompts", [False, True])
def test_pieces_join_to_the_text_whatever_the_tokens(number, reads_prompts):
    """Characters of several bytes, broken ones, spaces of words, line ends, stop strings."""
    tokenizer = tokenizers()[number]
    texts = Texts(tokenizer, tokenizer, None, None, reads_prompts)
    rng = np.random.default_rng(number)
    rows = [tokenizer.encode("naïve 咖啡 ça 🙂 va")]
    rows += [rng.integers(NUM_CONTROL_IDS, tokenizer.vocab_size, 24).tolist() for _ in range(20)]
    stops = [(), ("va",), ("a va", "v ", "啡")] if reads_prompts else [()]
    for stop in stops:
        pieces, text = pieces_of(texts, rows[0], stop)
        assert "".join(pieces) == text and not any("\ufffd" in piece for piece in pieces)
        for row in rows[1:]:
            pieces, text = pieces_of(texts, row, stop)
            assert "".join(pieces) == text


def test_what_may_yet_be_a_stop_string_is_held_back():
    assert certain("abc\ufffd\ufffd", ()) == "abc"
    assert certain("say en", ("end", "n!")) == "say "
    assert certain("say e", ("end",)) == "say "
    assert certain("say x", ("end",)) == "say x"
    assert certain("aab", ("aabaac",)) == ""
    assert certain("aabaa", ("aac", "b")) == "aab"
