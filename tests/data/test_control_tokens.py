"""Control tokens have ids of their own, which no text gives and no text shows."""

import pytest

from seqgen.data.config import TokenizerConfig
from seqgen.data.control_tokens import ControlTokenizer
from seqgen.data.tokenizer_store import (
    Tokenizers,
    build_tokenizers,
    load_tokenizers,
    save_tokenizers,
)
from seqgen.types import EOS_ID

TEXTS = ["a latte, please", "two mochas", "<mask> speaker:user turn_end"] * 3
NAMES = ("mask", "turn_end", "speaker:user")


@pytest.fixture(params=["bpe", "word", "char", "byte"])
def tokenizer(request):
    cfg = TokenizerConfig(kind=request.param, vocab_size=320)
    made = build_tokenizers(cfg, source_texts=lambda: TEXTS, target_texts=lambda: ())
    return ControlTokenizer(made.target, NAMES)


def test_ids_stand_after_the_vocabulary_and_text_never_gives_them(tokenizer):
    top = tokenizer.inner.vocab_size
    assert tokenizer.control_ids == {name: top + i for i, name in enumerate(NAMES)}
    assert tokenizer.vocab_size == top + 3
    texts = [*NAMES, *(f"<{name}>" for name in NAMES), *TEXTS, chr(top), "\x02\x03"]
    assert all(max(ids) < top for ids in tokenizer.encode_many(texts))
    assert tokenizer.encode_many(texts) == [tokenizer.inner.encode(text) for text in texts]


def test_they_are_not_shown(tokenizer):
    ids = tokenizer.encode("two mochas")
    marked = [tokenizer.control_ids["mask"], *ids, *tokenizer.control_ids.values(), EOS_ID, ids[0]]
    assert tokenizer.decode(marked) == "two mochas"


def test_they_are_saved_with_the_run(tokenizer, tmp_path):
    save_tokenizers(Tokenizers(tokenizer, tokenizer), tmp_path, made_from="x")
    loaded = load_tokenizers(tmp_path)
    assert loaded.joint and loaded.source is loaded.target
    assert loaded.target.control_ids == tokenizer.control_ids
    assert loaded.target.fingerprint == tokenizer.fingerprint != tokenizer.inner.fingerprint


def test_a_name_twice_is_refused(tokenizer):
    with pytest.raises(ValueError, match="names of their own"):
        ControlTokenizer(tokenizer.inner, ("mask", "mask"))
