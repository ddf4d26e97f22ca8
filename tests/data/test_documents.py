"""Packed documents: each token is told once, of what stands before it in its own document."""

import jax
import numpy as np
import pytest

from seqgen.data import DataConfig, TokenizerConfig, prepare
from seqgen.data.documents import DocumentText, cut_documents, document_starts
from seqgen.data.token_cache import TokenizedSplit
from seqgen.errors import DataError
from seqgen.models import ModelConfig, build_model
from seqgen.models.config import NoEncoderConfig, TransformerDecoderConfig
from seqgen.training.config import TrainConfig
from seqgen.training.loss import make_loss
from seqgen.types import BOS_ID, Batch, Sequences

DOCUMENTS = [
    "\n  \nab\ncd\n\n",  # with what stands before all text
    "e\n\n \n",
    "fghijklmnopqrstuvw\nabcdefghijklmnop\n\n",  # longer than two rows
    "abc\n\n",
    "defghijklmno\n\n",  # 14 tokens
    "ab\n",
]
BLOCK, ROWS = 16, 2


def make(folder, documents=DOCUMENTS, **options):
    for split in ("train", "val"):
        (folder / f"{split}.txt").write_text("".join(documents), encoding="utf-8")
    fields = {"source": "plain_text", "batching": "documents", "block_len": BLOCK, "num_rows": ROWS}
    cfg = DataConfig(dir=str(folder), cache_dir=str(folder / "cache"), **fields | options)
    return prepare(cfg, TokenizerConfig(kind="char"), workdir=None)


def take(data, start, count, **options):
    batches = data.train_batches(start, **options)
    try:
        return [next(batches)[0] for _ in range(count)]
    finally:
        batches.close()


def windows(data):
    """(inputs, labels) of all windows, from the texts themselves."""
    found = []
    for text in DOCUMENTS:
        ids = data.target_tokenizer.encode(text)
        before = [BOS_ID, *ids]
        for start in range(0, len(ids), BLOCK):
            found.append((before[start : start + BLOCK][: len(ids) - start], ids[start:][:BLOCK]))
    return sorted(found)


def pieces(batches):
    """(inputs, labels) of all segments; each must be whole and counted from 0."""
    found = []
    for batch in batches:
        for row in range(len(batch.labels)):
            segments, told = batch.target.segments[row], batch.weights[row]
            for number in range(1, segments.max() + 1):
                (places,) = np.nonzero(segments == number)
                assert (np.diff(places) == 1).all()
                assert batch.target.positions[row, places].tolist() == list(range(len(places)))
                if not told.any():  # an unused row
                    assert batch.target.ids[row, places].tolist() == [BOS_ID]
                    continue
                assert told[places].all()
                ids, labels = batch.target.ids[row, places], batch.labels[row, places]
                found.append((ids.tolist(), labels.tolist()))
            assert not told[segments == 0].any()
    return sorted(found)


def test_each_token_is_told_once_behind_its_own_document(tmp_path):
    data = make(tmp_path)
    assert "".join(DOCUMENTS) == data.target_tokenizer.decode(data.tokenized("train").target_ids)
    epoch = data.batches_per_epoch()
    for number in range(3):
        assert pieces(take(data, number * epoch, epoch, seed=4)) == windows(data)
    assert pieces(data.eval_batches("val")) == windows(data)
    assert pieces(data.eval_batches("val", rows_multiple=2)) == windows(data)
    some = pieces(data.eval_batches("val", max_examples=5))
    assert len(some) == 1 and len(some[0][0]) == len(DOCUMENTS[0])
    counts = data.report["splits"]["train"]
    assert (counts["documents"], counts["windows"]) == (6, len(windows(data)))
    size = sum(batch.weights.size for batch in take(data, 0, epoch))
    assert data.report["batches"]["pad_fraction"] == pytest.approx(
        1 - len("".join(DOCUMENTS)) / size, abs=1e-4
    )


def test_batches_are_pure_and_epochs_are_dealt_anew(tmp_path):
    data = make(tmp_path, DOCUMENTS * 6)
    count = data.batches_per_epoch()
    whole = take(data, 0, 2 * count, seed=3)

    def equal(one, other):
        return all(map(np.array_equal, jax.tree.leaves(one), jax.tree.leaves(other)))

    for start in (1, count):
        assert equal(take(make(tmp_path, DOCUMENTS * 6), start, 2, seed=3), whole[start:][:2])
    assert not equal(whole[:count], whole[count:])
    assert not equal(whole[:count], take(data, 0, count, seed=4))
    assert data.batch_shapes() == [(ROWS, 0, BLOCK)] and data.batch_shapes(2) == [(ROWS, 0, BLOCK)]
    second = take(data, 1, 1, seed=3, rows_multiple=2, shard_index=1, shard_count=2)[0]
    assert np.array_equal(second.labels, whole[1].labels[1:])


def test_documents_end_with_their_blank_lines():
    def starts(*blank):
        return document_starts(np.array(blank, bool)).tolist()

    assert starts(0, 0, 1, 0) == [0, 3]
    assert starts(1, 1, 0, 1, 1, 0, 0, 1) == [0, 5]
    assert starts(1, 1) == starts(0) == [0]
    borders = np.array([0, 3, 11, 15])
    starts, stops, opens = cut_documents(borders, 4)
    assert starts.tolist() == [0, 3, 7, 11] and stops.tolist() == [3, 7, 11, 15]
    assert opens.tolist() == [True, True, False, True]


def test_the_loss_of_packed_rows_is_that_of_the_documents_alone(tmp_path):
    """And the gradient: no token sees another document, nor is moved by one."""
    data = make(tmp_path)
    vocab = data.target_tokenizer.vocab_size
    stack = {"num_layers": 2, "num_heads": 2, "ff_dim": 16, "norm_position": "pre"}
    config = ModelConfig(
        embed_dim=8,
        dropout_rate=0.0,
        encoder=NoEncoderConfig(),
        decoder=TransformerDecoderConfig(
            **stack, positions="alibi", dropout_rate=0.0, attention_dropout_rate=0.0
        ),
    )
    definition = build_model(config, source_vocab_size=vocab, target_vocab_size=vocab)
    params = definition.init(jax.random.key(0))
    loss = make_loss(definition, TrainConfig(), compute_dtype="float32")
    run = jax.jit(jax.grad(lambda params, batch: loss(params, batch, None), has_aux=True))

    def alone(batch):
        ids, labels = np.zeros((1, BLOCK), np.int32), np.zeros((1, BLOCK), np.int32)
        inputs, told = batch
        ids[0, : len(told)], labels[0, : len(told)] = inputs, told
        real = (np.arange(BLOCK) < len(told)).astype(np.int32)[None]
        rows = Sequences(ids, real, real * np.arange(BLOCK, dtype=np.int32))
        return Batch(None, rows, labels, real.astype(np.float32))

    def total(batches):
        results = [run(params, batch) for batch in batches]
        return jax.tree.map(lambda *parts: sum(parts), *results)

    packed = list(data.eval_batches("val"))
    assert max(batch.target.segments.max() for batch in packed) > 1
    grads, sums = total(packed)
    want, apart = total(alone(window) for window in windows(data))
    assert sums["weight"] == apart["weight"] == len("".join(DOCUMENTS))
    np.testing.assert_allclose(sums["nll"], apart["nll"], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), grads, want)


def test_a_split_without_lines_is_refused():
    nothing, start = np.zeros(0, np.int32), np.zeros(1, np.int64)
    ids = TokenizedSplit(nothing, start, nothing, start, np.zeros(0, bool), "")
    with pytest.raises(DataError, match="no lines"):
        DocumentText(ids, DataConfig(batching="documents"))
