"""Laws of every tokenizer: text comes back, control ids never come from text nor into it."""

import io

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
import sentencepiece

from seqgen.data.config import TokenizerConfig
from seqgen.data.tokenizer_store import build_tokenizers, load_tokenizers, save_tokenizers
from seqgen.errors import DataError
from seqgen.types import BOS_ID, EOS_ID, PAD_ID, UNK_ID

CORPUS = [
    "the quick brown fox jumps over the lazy dog",
    "a man in a blue shirt is standing on a ladder",
    "Ein Mann in einem blauen Hemd steht auf einer Leiter.",
    "zwei Männer schauen  auf das Wasser, ça va",
    "  leading and trailing  ",
] * 4
NASTY = [
    "<s> </s> <pad> <unk> <0x0A> <bos>",
    "\u2581under\u2581score \u2581",
    "\u2581",
    "\u2581 \ufdd0",
    "NUL\x00 CR\r LF\n TAB\t",
    "漢字 🇩🇪 e\u0301 \u200f \u2028 \ufeff \U0010ffff",
    " ",
    "   ",
    "",
    "⁇ x",
]
KINDS = ["bpe", "unigram", "word", "char", "byte"]
unicode_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
tokens_of_ours = st.lists(st.sampled_from([*NASTY, "the", " ", "Mann", "\u2581"]), max_size=8)
some_text = st.one_of(unicode_text, tokens_of_ours.map("".join))


def build(kind, *, texts=CORPUS, lowercase=False, **options):
    options = {"vocab_size": 400, "byte_fallback": True, **options}
    return build_tokenizers(
        TokenizerConfig(kind=kind, **options),
        source_texts=lambda: iter(texts),
        target_texts=lambda: iter(texts[::-1]),
        lowercase=lowercase,
    )


@pytest.fixture(scope="module")
def built():
    return {kind: build(kind).source for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
@hypothesis.settings(deadline=None, max_examples=120)
@hypothesis.given(text=some_text)
def test_round_trip_without_control_ids(built, kind, text):
    tokenizer = built[kind]
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(4 <= i < tokenizer.vocab_size for i in ids)
    assert tokenizer.encode_many([text, "x", text]) == [ids, tokenizer.encode("x"), ids]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", [*NASTY, *CORPUS[:5]])
def test_round_trip_of_nasty_text(built, kind, text):
    ids = built[kind].encode(text)
    assert built[kind].decode(ids) == text
    assert all(i >= 4 for i in ids)


@pytest.mark.parametrize("kind", KINDS)
@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(ids=st.lists(st.integers(0, 500), max_size=30))
def test_any_ids_decode_to_plain_text(built, kind, ids):
    """A model may emit anything: no crash, no control symbol, nothing after EOS."""
    tokenizer = built[kind]
    text = tokenizer.decode(np.array(ids, np.int32))
    text.encode("utf-8")
    stop = ids.index(EOS_ID) if EOS_ID in ids else len(ids)
    kept = [i for i in ids[:stop] if i not in (PAD_ID, UNK_ID, BOS_ID) and i < tokenizer.vocab_size]
    assert text == tokenizer.decode(kept)
    for symbol in ("<s>", "</s>", "<pad>", "<unk>"):
        assert symbol not in text or kind == "word"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", [*NASTY, *CORPUS[:5]])
def test_the_bytes_of_pieces_are_the_text_behind_another(built, kind, text):
    """Only the space before a text's first word is not printed, by those that put one there."""
    tokenizer = built[kind]
    spelt = b"".join(map(tokenizer.piece_bytes, tokenizer.encode(text))).decode("utf-8")
    assert spelt == (f" {text}" if kind in ("bpe", "unigram", "word") and text else text)


@pytest.mark.parametrize("kind", KINDS)
def test_control_ids_have_no_text(built, kind):
    ids = built[kind].encode("the fox")
    assert built[kind].decode([BOS_ID, *ids, PAD_ID, EOS_ID, *ids]) == "the fox"
    assert built[kind].decode([EOS_ID]) == ""


@pytest.mark.parametrize("kind", KINDS)
def test_same_texts_give_the_same_tokenizer(built, kind):
    again = build(kind).source
    assert again.fingerprint == built[kind].fingerprint
    lower = build(kind, lowercase=True).source
    assert lower.fingerprint != again.fingerprint
    assert lower.decode(lower.encode("Ein MANN")) == "ein mann"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("joint", [True, False])
def test_saved_and_loaded(tmp_path, kind, joint):
    made = build_tokenizers(
        TokenizerConfig(kind=kind, vocab_size=320, joint=joint),
        source_texts=lambda: iter(CORPUS[:2] * 3),
        target_texts=lambda: iter(CORPUS[2:4] * 3),
        lowercase=kind == "bpe",
    )
    save_tokenizers(made, tmp_path, made_from="x")
    loaded = load_tokenizers(tmp_path)
    assert loaded.joint == (joint or kind == "byte")
    for side in ("source", "target"):
        old, new = getattr(made, side), getattr(loaded, side)
        assert new.fingerprint == old.fingerprint
        assert new.vocab_size == old.vocab_size
        for text in [*CORPUS[:4], *NASTY]:
            assert new.encode(text) == old.encode(text)


@pytest.mark.parametrize("kind", ["bpe", "char"])
def test_damaged_files_are_refused(tmp_path, kind):
    save_tokenizers(build(kind), tmp_path, made_from="x")
    file = next(path for path in tmp_path.iterdir() if path.name.startswith("joint"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(DataError, match="changed after it was saved"):
        load_tokenizers(tmp_path)
    record = tmp_path / "tokenizer.json"
    record.write_text(record.read_text().replace(f'"{file.name}"', f'"../{file.name}"'))
    with pytest.raises(DataError, match="not a plain file name"):
        load_tokenizers(tmp_path)
    record.write_text("{")
    with pytest.raises(DataError, match="tokenizer record"):
        load_tokenizers(tmp_path)


@pytest.mark.parametrize("kind", ["bpe", "unigram", "word", "char"])
def test_without_byte_fallback_the_unknown_is_unk(kind):
    tokenizer = build(kind, byte_fallback=False, vocab_size=120).source
    assert UNK_ID in tokenizer.encode("漢")
    assert tokenizer.decode(tokenizer.encode("漢")).strip() == ""
    assert tokenizer.decode(tokenizer.encode("a man")) == "a man"


def test_halves_of_surrogate_pairs_do_not_crash(built):
    for kind in KINDS:
        assert built[kind].decode(built[kind].encode("a\ud800b")) == "a\ufffdb"


def test_vocabulary_size_is_a_limit_and_small_corpora_give_less():
    assert build("char", vocab_size=270).source.vocab_size == 270
    assert build("bpe", vocab_size=5000).source.vocab_size < 1000
    with pytest.raises(DataError, match="vocab_size"):
        build("bpe", vocab_size=100)  # not even the bytes fit


def test_no_text_at_all_is_told():
    with pytest.raises(DataError, match="SentencePiece cannot"):
        build("bpe", texts=["", "  "])


def their_model(**options):
    """A model with SentencePiece's own default ids, as other projects ship them."""
    file = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS),
        model_writer=file,
        vocab_size=80,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    return file.getvalue()


@pytest.mark.parametrize("options", [{}, {"pad_id": 3, "eos_id": 0, "unk_id": 2, "bos_id": -1}])
def test_given_model_gets_our_control_ids(tmp_path, options):
    path = tmp_path / "their.model"
    path.write_bytes(their_model(**options))
    cfg = TokenizerConfig(kind="given", path=str(path))
    tokenizer = build_tokenizers(cfg, source_texts=list, target_texts=list).source
    processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    text = "the quick fox </s>"
    ids = tokenizer.encode(text)
    assert all(i >= 4 or i == UNK_ID for i in ids)
    assert tokenizer.decode([*ids, EOS_ID, 7]) == processor.decode(
        [i for i in processor.encode(text) if i != processor.unk_id()]
    )
    pieces = [
        i
        for i in range(processor.get_piece_size())
        if not (processor.is_control(i) or processor.is_unknown(i))
    ]
    assert [tokenizer.decode([4 + n]) for n in range(len(pieces))] == [
        processor.decode([i]) for i in pieces
    ]
    assert tokenizer.vocab_size == 4 + len(pieces)


def test_given_model_must_be_one(tmp_path):
    (tmp_path / "x.model").write_bytes(b"not a model")
    for path, message in (("", "needs a file"), ("y.model", "cannot read"), ("x.model", "not a")):
        cfg = TokenizerConfig(kind="given", path=str(tmp_path / path) if path else "")
        with pytest.raises(DataError, match=message):
            build_tokenizers(cfg, source_texts=list, target_texts=list)
