"""WordPiece and byte-level BPE: transformers' ids behind ours, laws of text, and nothing forged."""

import json
import shutil
import string
import sys
import unicodedata

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from seqgen.data import DataConfig, prepare
from seqgen.data.config import ObjectiveConfig, TokenizerConfig
from seqgen.data.control_tokens import ControlTokenizer
from seqgen.data.given_tokenizer import digest_given
from seqgen.data.multiline import MultilineTokenizer
from seqgen.data.tokenizer_store import build_tokenizers, load_tokenizers, save_tokenizers
from seqgen.data.word_starts import find_word_starts, starts_of_words
from seqgen.errors import ConfigError, DataError
from seqgen.types import BOS_ID, EOS_ID, PAD_ID, UNK_ID

tokenizers = pytest.importorskip("tokenizers", reason="the extra hf is not installed")

TEXTS = [
    "The quick brown fox's unaffable friends aren't running, are they?",
    "  two  spaces, a tab\t and 1234 numbers ",
    "Ça coûte 5€ à São Paulo: naïve café",
    "family 👩‍👩‍👧 flag 🇩🇪 e\u0301 \u200f \ufeff",
    "line one\r\nline two\n\n\n  line three",
    "中国 and 漢字",
    "",
    " ",
]
FORGERIES = [
    "[MASK] [PAD][CLS] x[SEP] [unused1] [UNK]",
    "<|endoftext|> <|endoftext|><|endoftext|>x <pad> </s>",
    " unknown",
    "##ing ##",
]
WORDS = ("the", "quick", "fox", "un", "##aff", "##able", "##s", "run", "##ning", "##'")
CONTROLS = ("[PAD]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
known_text = st.text("abkxyzABÉéçÀ .,!?'[]#-\t\r\n中国", max_size=40)
any_text = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A vocabulary of BERT's that spells every small letter."""
    folder = tmp_path_factory.mktemp("bert")
    letters = string.ascii_lowercase + string.digits
    pieces = [*letters, *(f"##{c}" for c in letters), *string.punctuation, *"中国", *WORDS]
    (folder / "vocab.txt").write_text("\n".join([*CONTROLS, *dict.fromkeys(pieces)]) + "\n")
    return folder


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    """GPT-2's algorithm trained on a few lines, saved in all its layouts."""
    folder = tmp_path_factory.mktemp("gpt2")
    library = tokenizers.Tokenizer(tokenizers.models.BPE())
    library.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    library.train_from_iterator([*TEXTS * 3, *["model"] * 9], trainer)
    assert "model" in library.get_vocab(), "as GPT-2 has it, and tokenizer.json as a field"
    library.model.save(str(folder))
    library.save(str(folder / "whole.json"))
    return folder


def build(path, *, lowercase=False, **options):
    cfg = TokenizerConfig(kind="given", path=str(path), **options)
    return build_tokenizers(cfg, source_texts=list, target_texts=list, lowercase=lowercase)


@pytest.fixture(scope="module")
def ours(bert, gpt2):
    return {"bert": build(bert).target, "gpt2": build(gpt2).target}


def to_theirs(tokenizer, ids, unknown=None):
    return [unknown if i == UNK_ID else tokenizer.origin.their_ids[i - 4] for i in ids]


@pytest.mark.parametrize("settings", [{}, {"do_lower_case": False}, {"strip_accents": False}])
def test_ids_are_those_of_transformers_bert(bert, tmp_path, settings):
    transformers = pytest.importorskip("transformers", reason="parity needs transformers")
    lines = (bert / "vocab.txt").read_text().split("\n")[:-1]
    theirs = transformers.BertTokenizerFast(vocab={p: i for i, p in enumerate(lines)}, **settings)
    shutil.copytree(bert, tmp_path, dirs_exist_ok=True)
    if settings:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = build(tmp_path).target
    for line in "\n".join(TEXTS).split("\n"):
        wanted = theirs(line, add_special_tokens=False)["input_ids"]
        assert to_theirs(tokenizer, tokenizer.encode(line), lines.index("[UNK]")) == wanted
    assert tokenizer.origin.their_controls == {name: lines.index(name) for name in CONTROLS}


def test_ids_are_those_of_transformers_gpt2(gpt2, ours):
    transformers = pytest.importorskip("transformers", reason="parity needs transformers")
    theirs = transformers.GPT2TokenizerFast.from_pretrained(gpt2)
    for text in TEXTS:
        wanted = theirs(text)["input_ids"]
        assert to_theirs(ours["gpt2"], ours["gpt2"].encode(text)) == wanted
    assert max(len(p) for p in theirs.get_vocab()) > 3, "nothing was merged"
    assert ours["gpt2"].origin.their_controls == {"<|endoftext|>": 0}


def test_one_tokenizer_json_holds_the_same(gpt2, bert, ours, tmp_path):
    whole = build(gpt2 / "whole.json").target
    library = tokenizers.Tokenizer.from_file(str(gpt2 / "whole.json"))
    assert library.encode("<|endoftext|>").ids == [0]
    assert [whole.encode(t) for t in TEXTS] == [ours["gpt2"].encode(t) for t in TEXTS]
    assert build(gpt2 / "vocab.json").target.fingerprint == ours["gpt2"].fingerprint
    library = tokenizers.BertWordPieceTokenizer(str(bert / "vocab.txt"))
    library.save(str(tmp_path / "tokenizer.json"))
    whole = build(tmp_path).target
    assert whole.origin.their_controls.keys() == set(CONTROLS)
    assert [whole.encode(t) for t in TEXTS] == [ours["bert"].encode(t) for t in TEXTS]


@hypothesis.settings(deadline=None, max_examples=150)
@hypothesis.given(text=st.one_of(any_text, st.sampled_from([*TEXTS, *FORGERIES])))
def test_byte_level_text_comes_back_as_it_was(ours, text):
    tokenizer = ours["gpt2"]
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert b"".join(map(tokenizer.piece_bytes, ids)) == text.encode()
    assert all(4 <= i < tokenizer.vocab_size for i in ids)


def test_a_space_before_the_first_word_is_taken_off_again(gpt2, tmp_path):
    shutil.copytree(gpt2, tmp_path, dirs_exist_ok=True)
    (tmp_path / "tokenizer_config.json").write_text('{"add_prefix_space": true}')
    tokenizer = build(tmp_path).target
    assert tokenizer.encode("fox") == build(gpt2).target.encode(" fox")
    for text in [*TEXTS, *FORGERIES]:
        assert tokenizer.decode(tokenizer.encode(text)) == text


def kept_by_bert(text):
    """What BERT reads of each line, by the description of its normalisation."""
    return "\n".join(map(kept_of_line, text.split("\n")))


def kept_of_line(text):
    text = "".join(" " if c in "\t\r" else c for c in text)
    text = unicodedata.normalize("NFD", text.lower())
    text = "".join(c for c in text if unicodedata.category(c) != "Mn")
    alone = {c for c in text if c in string.punctuation or "\u4e00" <= c <= "\u9fff"}
    return " ".join("".join(f" {c} " if c in alone else c for c in text).split())


@hypothesis.settings(deadline=None, max_examples=150)
@hypothesis.given(text=known_text)
@hypothesis.example("The quick fox's unaffable running, aren't they?")
def test_wordpiece_gives_back_what_its_normalisation_keeps(ours, text):
    tokenizer = ours["bert"]
    ids = tokenizer.encode(text)
    assert all(4 <= i < tokenizer.vocab_size for i in ids)
    assert tokenizer.decode(ids) == kept_by_bert(text)
    assert tokenizer.encode(tokenizer.decode(ids)) == ids
    spelt = b"".join(map(tokenizer.piece_bytes, ids)).decode()
    assert spelt.replace("\n ", "\n").removeprefix(" ") == kept_by_bert(text)


@pytest.mark.parametrize("name", ["bert", "gpt2"])
@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(ids=st.lists(st.integers(0, 500), max_size=30))
def test_any_ids_decode_to_plain_text(ours, name, ids):
    tokenizer = ours[name]
    text = tokenizer.decode(np.array(ids, np.int32))
    text.encode("utf-8")
    stop = ids.index(EOS_ID) if EOS_ID in ids else len(ids)
    controls = (PAD_ID, UNK_ID, BOS_ID)
    assert text == tokenizer.decode(
        [i for i in ids[:stop] if i not in controls and i < tokenizer.vocab_size]
    )


@pytest.mark.parametrize("name", ["bert", "gpt2"])
@pytest.mark.parametrize("text", FORGERIES)
def test_control_tokens_that_a_user_types_are_text(ours, name, text):
    tokenizer = ours[name]
    ids = tokenizer.encode(text)
    assert ids and all(4 <= i < tokenizer.vocab_size for i in ids)
    assert tokenizer.decode(ids) == (kept_by_bert(text) if name == "bert" else text)


def test_not_even_where_the_library_takes_whole_words(gpt2, tmp_path):
    """`ignore_merges` looks a word up before it is cut: control tokens too."""
    settings = json.loads((gpt2 / "whole.json").read_text())
    settings["model"]["ignore_merges"] = True
    settings["pre_tokenizer"]["use_regex"] = False
    bare = json.dumps(settings | {"added_tokens": []})
    assert tokenizers.Tokenizer.from_str(bare).encode("<|endoftext|>").ids == [0]
    (tmp_path / "tokenizer.json").write_text(json.dumps(settings))
    tokenizer = build(tmp_path).target
    ids = tokenizer.encode("<|endoftext|>")
    assert len(ids) > 1 and tokenizer.decode(ids) == "<|endoftext|>"


def test_what_is_in_no_vocabulary_is_unknown(ours, gpt2, tmp_path):
    assert ours["bert"].encode("a\u0416b 中") == [
        UNK_ID,
        *ours["bert"].encode("中"),
    ]
    assert ours["bert"].encode("a\ud800") == ours["bert"].encode("a\ufffd")
    assert ours["gpt2"].decode(ours["gpt2"].encode("a\ud800b")) == "a\ufffdb"
    settings = json.loads((gpt2 / "whole.json").read_text())
    del settings["model"]["vocab"]["\u00ff"]  # the byte 255, which no merge has
    (tmp_path / "tokenizer.json").write_text(json.dumps(settings))
    tokenizer = build(tmp_path).target
    assert tokenizer.encode("ÿ") == build(gpt2).target.encode("ÿ")  # spelt 195 191
    del settings["model"]["vocab"]["¿"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(settings))
    assert UNK_ID in build(tmp_path).target.encode("ÿ")


def test_words_begin_where_no_mark_of_continuation_stands(ours):
    bert, gpt2 = ours["bert"], ours["gpt2"]
    pieces = list(bert.origin.settings["model"]["vocab"])[1:]
    expected = [False] * 4 + [not (p.startswith("##") and len(p) > 2) for p in pieces] + [True]
    assert find_word_starts(bert).tolist() == expected
    starts = find_word_starts(gpt2)
    ids = np.array(gpt2.encode("the quick fox's"))
    begun = "".join("|" * int(starts[i]) + gpt2.piece_bytes(i).decode() for i in ids)
    assert begun == "the| quick| fox's"
    lines = ControlTokenizer(MultilineTokenizer(bert), ["mask"])
    ids = np.array(lines.encode("the unaffable fox\nfoxs"))
    found = starts_of_words(ids, find_word_starts(lines), line_end_id=lines.line_end_id)
    assert found.tolist() == [True, True, False, False, True, True, True, False]


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_lines_are_kept_with_one_id_for_each_line_end(ours, name):
    inner = ours[name]
    tokenizer = MultilineTokenizer(inner)
    text = "the fox\n\n runs\n"
    ids = tokenizer.encode(text)
    assert ids.count(tokenizer.line_end_id) == 3
    assert tokenizer.encode(text) == inner.encode(text) or name == "gpt2"
    assert tokenizer.decode(ids) == (text if name == "gpt2" else "the fox\n\nruns\n")
    assert tokenizer.drops_line_space == inner.drops_line_space == (name == "bert")


@pytest.mark.parametrize("name", ["bert", "gpt2"])
def test_a_run_keeps_its_tokenizer_without_the_files(request, tmp_path, name):
    files = tmp_path / "files"
    shutil.copytree(request.getfixturevalue(name), files)
    made = build(files, lowercase=name == "gpt2")
    (tmp_path / "saved").mkdir()
    save_tokenizers(made, tmp_path / "saved", made_from="x")
    (tmp_path / "train.txt").write_text("the fox\n\nthe quick fox runs\n" * 8)
    cfg = DataConfig(
        source="plain_text",
        batching="blocks",
        dir=str(tmp_path),
        cache_dir=str(tmp_path / "cache"),
        block_len=8,
        num_rows=2,
        objective=ObjectiveConfig(name="masked", unit="word"),
    )
    given = TokenizerConfig(kind="given", path=str(files))
    data = prepare(cfg, given, workdir=tmp_path / "run")
    digests = {digest_given(str(files)), digest_given(str(files / "vocab.txt"))}
    shutil.rmtree(files)
    assert len(digests) == 1 or name == "gpt2"
    texts = [*TEXTS, *FORGERIES, "The fox\nruns"]
    for old, folder in ((made, "saved"), (data.tokenizers, "run/tokenizer")):
        new = load_tokenizers(tmp_path / folder)
        assert new.joint and new.target.fingerprint == old.target.fingerprint
        assert new.target.vocab_size == old.target.vocab_size
        assert new.target.encode_many(texts) == [old.target.encode(text) for text in texts]


def test_capital_letters_tell_whether_text_is_lower_cased(bert, tmp_path):
    lower = build(bert).target
    assert lower.decode(lower.encode("The É")) == "the e"
    (tmp_path / "cased.txt").write_text((bert / "vocab.txt").read_text() + "The\n")
    cased = build(tmp_path / "cased.txt").target
    assert cased.decode(cased.encode("The fox")) == "The fox"
    assert UNK_ID in cased.encode("THE")
    both = build(tmp_path / "cased.txt", lowercase=True).target
    assert both.decode(both.encode("THE fox")) == "the fox"
    assert both.fingerprint != cased.fingerprint


def test_files_of_another_kind_are_refused(bert, gpt2, tmp_path):
    unigram = {"model": {"type": "Unigram", "vocab": [["a", 0.0]]}, "pre_tokenizer": None}
    files = {
        "unigram.json": (json.dumps(unigram), "neither WordPiece nor byte-level"),
        "alone.json": ((gpt2 / "vocab.json").read_text(), "merges.txt"),
        "list.json": ("[1]", "cannot read the tokenizer"),
        "broken.json": ('{"model": ', "cannot read the tokenizer"),
        "words.txt": ("the\nfox\n", r"no line \[UNK\]"),
        "odd.json": ('{"model": {"type": "WordPiece", "vocab": {"a": 0}}}', "does not take"),
    }
    for name, (text, message) in files.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(DataError, match=message):
            build(tmp_path / name)
    with pytest.raises(DataError, match="no vocabulary in"):
        build(tmp_path)
    with pytest.raises(ConfigError, match="sampling_alpha"):
        build(bert, sampling_alpha=0.1)


def test_without_the_library_it_says_what_to_install(bert, tmp_path, monkeypatch):
    save_tokenizers(build(bert), tmp_path, made_from="x")
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    for load in (lambda: build(bert), lambda: load_tokenizers(tmp_path)):
        with pytest.raises(ConfigError, match=r"pip install 'seqgen\[hf\]'"):
            load()
