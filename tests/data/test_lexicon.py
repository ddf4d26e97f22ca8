"""IBM model 1 against its definition written out, and the lexicon that is made of it."""

import collections
import zipfile

import numpy as np
import pytest
from memory_source import MemorySource

from seqgen.data import translation_table
from seqgen.data.config import DataConfig
from seqgen.data.lexicon import (
    MOST_TRANSLATIONS,
    learn_lexicon,
    lexicon_fingerprint,
    load_lexicon,
    save_lexicon,
)
from seqgen.data.token_cache import tokenize_split
from seqgen.data.tokenizer import ByteTokenizer
from seqgen.data.tokenizer_store import Tokenizers
from seqgen.data.translation_table import NULL_ID, Pairs, learn_translation_table, spread
from seqgen.errors import DataError

BYTES = Tokenizers(ByteTokenizer(), ByteTokenizer())
VOCAB = 12


def random_sentences(seed, count=40):
    rng = np.random.default_rng(seed)
    lens = rng.integers(0, 6, (count, 2))
    return [tuple(rng.integers(4, VOCAB, n).tolist() for n in row) for row in lens]


def flat(sentences):
    source, target = ([ids for pair in sentences for ids in pair[side]] for side in (0, 1))
    lens = np.array([[len(side) for side in pair] for pair in sentences])
    return Pairs(np.array(source, int), np.array(target, int), lens[:, 0], lens[:, 1])


def reference(sentences, iterations):
    """Brown et al. 1993, equations 15 and 17, a pair and a token at a time."""
    probs = collections.defaultdict(lambda: 1.0)
    for _ in range(iterations):
        counts, totals = collections.Counter(), collections.Counter()
        for source, target in sentences:
            for y in target:
                norm = sum(probs[x, y] for x in [NULL_ID, *source])
                for x in [NULL_ID, *source]:
                    counts[x, y] += probs[x, y] / norm
                    totals[x] += probs[x, y] / norm
        probs = {(x, y): count / totals[x] for (x, y), count in counts.items()}
    return probs


@pytest.mark.parametrize("chunk", [1, 50, 1 << 21])
def test_equals_the_definition(chunk, monkeypatch):
    """Repeated words, empty sides, and pairs read in parts or at once."""
    monkeypatch.setattr(translation_table, "_CHUNK_LINKS", chunk)
    sentences = random_sentences(chunk)
    table = learn_translation_table(flat(sentences), target_vocab_size=VOCAB, iterations=4)
    found = zip(table.source.tolist(), table.target.tolist())
    want = reference(sentences, 4)
    assert dict(zip(found, table.probs)) == pytest.approx(want, rel=1e-9)
    likeliest = table.likeliest(3, source_vocab_size=VOCAB)
    for x in range(VOCAB):
        row = sorted((-round(p, 12), y) for (word, y), p in want.items() if word == x)[:3]
        ids = [y for _, y in row] if x != NULL_ID else []
        assert likeliest[x].tolist() == ids + [0] * (3 - len(ids))


def test_words_that_always_meet_find_each_other():
    """A known translation explains away: what is left over belongs to the other word."""
    sentences = [([4, 5], [8, 9]), ([4, 6], [8, 10]), ([5], [9]), ([6, 4], [10, 8])]
    table = learn_translation_table(flat(sentences), target_vocab_size=VOCAB, iterations=20)
    assert table.likeliest(1, source_vocab_size=7)[[4, 5, 6], 0].tolist() == [8, 9, 10]


def test_a_large_corpus_is_read_in_part_and_evenly():
    pairs = flat([([4, 5], [6]), ([7], [8, 9])] * 100)
    assert spread(pairs, max_links=10_000) is pairs
    part = spread(pairs, max_links=70)
    assert len(part) == 20 and part.links.sum() <= 80
    assert len(part.source) == part.source_lens.sum()
    assert len(part.target) == part.target_lens.sum()


def lexicon_of(pairs, cache_dir, **limits):
    ids = tokenize_split(
        MemorySource(pairs), BYTES, num_examples=len(pairs), cache_dir=str(cache_dir)
    )
    return learn_lexicon(ids, DataConfig(**limits), BYTES)


def test_blank_and_overlong_pairs_teach_nothing(tmp_path):
    pairs = [("ab", "xy"), ("a", "x"), (" ", "z"), ("q" * 9, "z" * 9)]
    lexicon = lexicon_of(pairs, tmp_path, max_source_len=6, max_target_len=6)
    a, b, q, x, y = (BYTES.source.encode(letter)[0] for letter in "abqxy")
    assert lexicon.likeliest.shape == (BYTES.source.vocab_size, MOST_TRANSLATIONS)
    assert lexicon.likeliest[a, :3].tolist() == [x, y, 0]
    assert lexicon.likeliest[b, :2].tolist() in ([x, y], [y, x])
    assert not lexicon.likeliest[q].any() and not lexicon.likeliest[:4].any()
    assert lexicon.frequent.tolist() == [x, y]
    with pytest.raises(DataError, match="no training pair is left"):
        lexicon_of(pairs, tmp_path, max_source_len=1)


def test_what_is_saved_is_what_is_loaded(tmp_path):
    lexicon = lexicon_of([("ab", "xy")], tmp_path / "cache")
    path = tmp_path / "shortlist.npz"
    save_lexicon(lexicon, path)
    found = load_lexicon(path, BYTES)
    np.testing.assert_array_equal(found.likeliest, lexicon.likeliest)
    np.testing.assert_array_equal(found.frequent, lexicon.frequent)
    assert found.fingerprint == lexicon_fingerprint(BYTES)
    assert {p.name for p in tmp_path.iterdir()} == {"cache", "shortlist.npz"}
    with zipfile.ZipFile(path) as archive:
        assert all(name.endswith(".npy") for name in archive.namelist())


@pytest.mark.parametrize("damage", ["other tokenizers", "cut", "empty", "text"])
def test_a_file_that_does_not_belong_is_refused(tmp_path, damage):
    path = tmp_path / "shortlist.npz"
    save_lexicon(lexicon_of([("ab", "xy")], tmp_path / "cache"), path)
    tokenizers, message = BYTES, "cannot read"
    if damage == "other tokenizers":
        tokenizers = Tokenizers(ByteTokenizer(lowercase=True), BYTES.target)
        message = "other tokenizers"
    else:
        content = path.read_bytes()
        path.write_bytes({"cut": content[:-40], "empty": b"", "text": b"hello"}[damage])
    with pytest.raises(DataError, match=message) as caught:
        load_lexicon(path, tokenizers)
    assert str(path) in caught.value.cause
    assert caught.value.details[-1].startswith("remove it")
