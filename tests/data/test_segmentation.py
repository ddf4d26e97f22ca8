"""Sampled segmentations: the same text, drawn anew by seed, and by nothing but the seed."""

import random

import pytest

from seqgen.data.config import TokenizerConfig
from seqgen.data.tokenizer_store import build_tokenizers

_RNG = random.Random(5)
_WORDS = ["".join(_RNG.choices(["la", "zy", "do", "g", "brow", "n"], k=3)) for _ in range(60)]
TEXTS = [" ".join(_RNG.choices(_WORDS, k=8)) for _ in range(80)]
SENTENCE = "the lazy brown dog jumps, ä \u2581 over"


def build(kind, alpha):
    cfg = TokenizerConfig(kind=kind, vocab_size=380, sampling_alpha=alpha)
    return build_tokenizers(
        cfg, source_texts=lambda: iter(TEXTS), target_texts=lambda: iter(TEXTS)
    ).source


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_draws_depend_on_the_seed_alone_and_keep_the_text(kind):
    tokenizer = build(kind, 0.3)
    for text in (SENTENCE, SENTENCE.replace("\u2581", ""), TEXTS[0], "", " "):
        draws = [tokenizer.sample(text, seed=seed) for seed in range(40)]
        assert {tokenizer.decode(ids) for ids in draws} == {text}
        assert draws[::-1] == [tokenizer.sample(text, seed=seed) for seed in range(39, -1, -1)]
        assert all(i >= 4 for ids in draws for i in ids)
    assert len({tuple(tokenizer.sample(TEXTS[0], seed=seed)) for seed in range(40)}) > 5


def test_bpe_dropout_rates_at_both_ends():
    never = build("bpe", 1e-9)
    for text in (*TEXTS[:2], "  two  spaces ", "unseen wörds"):
        assert never.sample(text, seed=3) == never.encode(text)
    always = build("bpe", 1.0)
    characters = always.sample("la dog", seed=3)
    assert len(characters) == len("\u2581la\u2581dog")


def test_mean_length_grows_with_the_rate():
    def mean(alpha):
        tokenizer = build("bpe", alpha)
        return sum(len(tokenizer.sample(TEXTS[0], seed=s)) for s in range(50)) / 50

    assert mean(0.0) < mean(0.1) < mean(0.5)


def test_without_sampling_a_sample_is_the_encoding():
    for kind in ("bpe", "unigram", "char", "byte"):
        tokenizer = build(kind, 0.0)
        assert tokenizer.sample(SENTENCE, seed=1) == tokenizer.encode(SENTENCE)
