"""Text without sources: each token is scored once, batches are pure, texts come back."""

import gzip
import io
import pathlib

import numpy as np
import pytest
import sentencepiece

from seqgen.data import DataConfig, TokenizerConfig, load_tokenizers, prepare
from seqgen.data.contiguous import ContiguousText, cut, eval_windows, text_shape
from seqgen.errors import DataError
from seqgen.types import BOS_ID, EOS_ID, PAD_ID

TEXT = "Zwei Männer schauen\n\n  auf das Wasser, ça va\nMann und Wasser\n" * 8
VAL = "\nMann schaut\tauf\n\nWasser ☃\n"


def config(directory, **options):
    fields = {"source": "plain_text", "batching": "blocks", "block_len": 8, "num_rows": 3}
    return DataConfig(dir=str(directory), cache_dir=str(directory / "cache"), **fields | options)


def write(directory, **texts):
    for split, text in texts.items():
        (directory / f"{split}.txt").write_bytes(text.encode())
    return directory


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write(tmp_path_factory.mktemp("text"), train=TEXT, val=VAL)


def make(corpus, kind="char", workdir=None, byte_fallback=True, **options):
    tokenizer = TokenizerConfig(kind=kind, vocab_size=330, byte_fallback=byte_fallback)
    return prepare(config(corpus, **options), tokenizer, workdir=workdir)


def take(data, start, count, **options):
    batches = data.train_batches(start, **options)
    try:
        return [next(batches) for _ in range(count)]
    finally:
        batches.close()


@pytest.mark.parametrize("num_tokens", [1, 7, 8, 24, 25, 100])
def test_every_token_is_predicted_once_from_what_stands_before_it(num_tokens):
    ids = np.arange(10, 10 + num_tokens, dtype=np.uint16)
    shape = text_shape(DataConfig(batching="blocks", block_len=8, num_rows=3))
    batches = [cut(ids, windows, length=8) for windows in eval_windows(num_tokens, shape)]
    assert {batch.labels.shape for batch in batches} == {(3, 8)}
    real = [batch.weights > 0 for batch in batches]
    labels = np.concatenate([b.labels[where] for b, where in zip(batches, real)])
    inputs = np.concatenate([b.target.ids[where] for b, where in zip(batches, real)])
    assert labels.tolist() == ids.tolist()
    assert inputs.tolist() == [BOS_ID, *ids[:-1].tolist()]
    for batch, where in zip(batches, real):
        assert batch.source is None and set(np.unique(batch.weights)) <= {0.0, 1.0}
        assert (batch.labels[~where] == PAD_ID).all()
        assert (batch.target.segments[:, 0] == 1).all(), "no row is without a token"
        assert (batch.target.segments[where] == 1).all()
        assert (batch.target.positions[where] == np.nonzero(where)[1]).all()


def test_training_blocks_are_windows_of_the_text_at_every_place(corpus):
    data = make(corpus)
    ids = data.tokenized("train").target_ids
    windows = {
        tuple(window): place
        for place, window in enumerate(np.lib.stride_tricks.sliding_window_view(ids[:55], 8))
    }
    text = ContiguousText(ids[:55], config(corpus))
    plan = text.plan(rows_multiple=1, seed=5)
    places = []
    for index in range(200):
        batch = text.batch(plan, index, seed=5)
        for given, labels in zip(batch.target.ids, batch.labels):
            place = windows[tuple(labels)]
            assert given.tolist() == [ids[place - 1] if place else BOS_ID, *labels[:-1]]
            places.append(place)
        assert (batch.weights == 1).all() and (batch.target.segments == 1).all()
    counts = np.bincount(places, minlength=48)
    assert len(counts) == 48 and counts.min() > 0, "600 draws leave none of 48 places out"
    assert counts.max() < 4 * counts.mean()


def test_a_batch_is_a_pure_function_of_seed_and_index(corpus):
    whole = take(make(corpus), 0, 6, seed=3)
    for start in range(6):
        ((batch, info),) = take(make(corpus), start, 1, seed=3)
        assert info == whole[start][1] and np.array_equal(batch.labels, whole[start][0].labels)
        assert info.tokens == 24 and info.pad_fraction == 0
    assert len({info.digest for _, info in whole}) == 6
    assert take(make(corpus), 0, 1, seed=4)[0][1].digest != whole[0][1].digest


@pytest.mark.parametrize(("num_tokens", "rows"), [(24, 3), (25, 3), (26, 3), (47, 2), (100, 7)])
def test_streams_predict_every_token_once_an_epoch_and_go_on(corpus, num_tokens, rows):
    ids = np.arange(10, 10 + num_tokens, dtype=np.uint16)
    text = ContiguousText(ids, config(corpus, batching="streams", num_rows=rows))
    plan = text.plan(rows_multiple=1, seed=5)
    epochs = [
        [text.batch(plan, epoch * plan.batches_per_epoch + index, seed=5)
         for index in range(plan.batches_per_epoch)]
        for epoch in range(2)
    ]  # fmt: skip
    streams = []
    for row in range(rows):
        parts = [(b, b.weights[row] > 0) for b in epochs[0]]
        labels = np.concatenate([b.labels[row][real] for b, real in parts])
        inputs = np.concatenate([b.target.ids[row][real] for b, real in parts])
        positions = np.concatenate([b.target.positions[row][real] for b, real in parts])
        first = int(labels[0])
        assert inputs.tolist() == [first - 1 if first > 10 else BOS_ID, *labels[:-1]]
        assert positions.tolist() == list(range(len(labels))), "position 0 begins a stream"
        streams.append(labels)
    assert np.concatenate(streams).tolist() == ids.tolist()
    assert max(map(len, streams)) - min(map(len, streams)) <= 1
    for first, second in zip(*epochs):
        assert np.array_equal(first.labels, second.labels)
        assert np.array_equal(first.target.positions, second.target.positions)
    real = sum(batch.weights.sum() for batch in epochs[0])
    size = sum(batch.weights.size for batch in epochs[0])
    assert text.pad_fraction(plan) == pytest.approx(1 - real / size, abs=1e-4)


def test_streams_are_read_at_evaluation_as_one(corpus):
    data = make(corpus, batching="streams")
    batches = list(data.eval_batches("val"))
    assert {batch.labels.shape for batch in batches} == {(1, 8)}
    labels = np.concatenate([batch.labels[batch.weights > 0] for batch in batches])
    positions = np.concatenate([batch.target.positions[batch.weights > 0] for batch in batches])
    assert labels.tolist() == data.tokenized("val").target_ids.tolist()
    assert positions.tolist() == list(range(len(labels)))


def test_streams_shorter_than_a_row_are_refused(corpus):
    text = ContiguousText(np.arange(10, 33), config(corpus, batching="streams"))
    with pytest.raises(DataError, match="fewer than one batch"):
        text.plan(rows_multiple=1, seed=0)


def test_shapes_rows_and_meshes(corpus):
    data = make(corpus, num_rows=4)
    assert data.batch_shapes(2) == [(4, 0, 8)]
    assert data.batches_per_epoch(2) == len(data.tokenized("train").target_ids) // 32
    assert make(corpus, num_rows=0, tokens_per_batch=160).batch_shapes(4) == [(16, 0, 8)]
    whole = take(data, 2, 1, rows_multiple=2)[0][0]
    half = take(data, 2, 1, rows_multiple=2, shard_index=1, shard_count=2)[0][0]
    assert np.array_equal(half.labels, whole.labels[2:])


@pytest.mark.parametrize("kind", ["char", "byte", "word", "bpe", "unigram"])
@pytest.mark.parametrize("byte_fallback", [True, False])
def test_text_comes_back_and_its_ids_are_those_of_its_lines(corpus, tmp_path, kind, byte_fallback):
    data = make(corpus, kind, workdir=tmp_path, byte_fallback=byte_fallback)
    tokenizer = load_tokenizers(tmp_path / "tokenizer").target
    assert tokenizer.fingerprint == data.target_tokenizer.fingerprint
    for split, text in (("train", TEXT), ("val", VAL)):
        ids = data.tokenized(split).target_ids.tolist()
        assert tokenizer.encode(text) == ids
        assert not set(ids) & {PAD_ID, BOS_ID, EOS_ID}
        size = data.text_size(split)
        assert (size.tokens, size.characters, size.bytes) == (
            len(ids),
            len(text),
            len(text.encode()),
        )
        if byte_fallback or kind == "byte":
            assert size.unknown_tokens == 0
            assert tokenizer.decode(ids) == text
    for text in ("Mann", "Mann\n", "\n", "", "a\n\n b"):
        if byte_fallback:
            assert tokenizer.decode(tokenizer.encode(text)) == text
    line = tokenizer.encode("Mann und")
    assert tokenizer.encode("x\nMann und")[-len(line) :] == line
    assert tokenizer.decode([*line, EOS_ID, *line]) == "Mann und"


def test_unknown_characters_are_counted(corpus):
    assert (
        make(corpus, "char", byte_fallback=False).text_size("val").unknown_tokens == 3
    )  # tab, t, ☃
    assert make(corpus, "char").text_size("val").unknown_tokens == 0


def test_the_first_lines_are_what_a_limit_means(corpus):
    data = make(corpus, "byte", num_examples=3)
    first = "".join(TEXT.splitlines(keepends=True)[:3])
    assert data.target_tokenizer.decode(data.tokenized("train").target_ids) == first
    size = data.text_size("val", max_examples=2)
    first = "\nMann schaut\tauf\n"
    assert (size.tokens, size.characters) == (len(first), len(first))
    batches = data.eval_batches("val", max_examples=2)
    labels = np.concatenate([batch.labels[batch.weights > 0] for batch in batches])
    assert data.target_tokenizer.decode(labels) == first


def test_pairs_and_texts_do_not_share_a_cached_tokenizer(corpus, tmp_path):
    (tmp_path / "train.a").write_text("x\n")
    (tmp_path / "train.b").write_text("y\n")
    names = {"source_lang": "a", "target_lang": "b", "cache_dir": str(corpus / "cache")}
    cfg = DataConfig(dir=str(tmp_path), **names)
    pairs = prepare(cfg, TokenizerConfig(kind="byte"), workdir=None)
    text = make(corpus, "byte")
    assert pairs.fingerprint["target_tokenizer"] != text.fingerprint["target_tokenizer"]


def test_files_of_a_directory(tmp_path):
    with gzip.open(tmp_path / "train.txt.gz", "wt", newline="") as file:
        file.write("eins\r\nzwei\u2028drei")
    write(tmp_path, dev="vier\n")
    (tmp_path / "README.md").write_text("no text")
    data = make(tmp_path, "byte")
    assert sorted(data.splits) == ["train", "val"]
    ids = data.tokenized("train").target_ids
    assert data.target_tokenizer.decode(ids) == "eins\nzwei\u2028drei\n"


@pytest.mark.parametrize(
    ("prepared", "message"),
    [
        (lambda path: path / "absent", "does not exist"),
        (lambda path: path, "no plain text"),
        (lambda path: write(path, val="x\n"), "no train split"),
        (lambda path: write(path, train="x\n"), "fewer than one row"),
        (lambda path: write(path, train="x\n") / "..", "no plain text"),
    ],
)
def test_what_cannot_be_used_is_said(tmp_path, prepared, message):
    folder = tmp_path / "corpus"
    folder.mkdir()
    with pytest.raises(DataError, match=message):
        next(make(pathlib.Path(prepared(folder)), "byte").train_batches())


def test_two_files_for_one_split(tmp_path):
    write(tmp_path, train=TEXT)
    (tmp_path / "train.txt.gz").write_bytes(gzip.compress(TEXT.encode()))
    with pytest.raises(DataError, match="two files for one split"):
        make(tmp_path)


def test_a_given_tokenizer_must_write_line_ends(tmp_path):
    write(tmp_path, train=TEXT)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.split("\n")),
        model_writer=model,
        vocab_size=45,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (tmp_path / "own.model").write_bytes(model.getvalue())
    tokenizer = TokenizerConfig(kind="given", path=str(tmp_path / "own.model"))
    with pytest.raises(DataError, match="no piece for a line end"):
        prepare(config(tmp_path), tokenizer, workdir=None)


def test_lines_lose_the_space_that_a_tokenizer_puts_before_them():
    """Also where the first piece with a space is a byte, which keeps it."""
    from seqgen.data.multiline import MultilineTokenizer
    from seqgen.data.sentencepiece_tokenizer import train_sentencepiece
    from seqgen.data.tokenizer import ByteTokenizer

    for fallback in (True, False):
        cfg = TokenizerConfig(
            kind="bpe", vocab_size=330 if fallback else 60, byte_fallback=fallback
        )
        pieces = train_sentencepiece(iter(TEXT.splitlines()), cfg, own=("\n",))
        assert MultilineTokenizer(pieces).drops_line_space
    assert not MultilineTokenizer(ByteTokenizer()).drops_line_space
