"""Pre-training text: rates, purity, fixed evaluation masks, and damage that restores the text."""

import jax
import numpy as np
import pytest

from seqgen.data import (
    DataConfig,
    TokenizerConfig,
    base_tokenizer,
    load_tokenizers,
    loader,
    prepare,
)
from seqgen.data.config import ObjectiveConfig
from seqgen.data.control_tokens import ControlTokenizer
from seqgen.data.corruption import restore_spans
from seqgen.data.multiline import MultilineTokenizer
from seqgen.data.tokenizer import ByteTokenizer
from seqgen.data.word_starts import find_word_starts, starts_of_words
from seqgen.errors import DataError
from seqgen.types import BOS_ID, EOS_ID, PAD_ID

DOCUMENT = "Zwei Männer schauen auf das Wasser\nça va\nMann und Wasser\n"
OTHER = "one two three four five\nsix seven eight\nnine ten\n"
TEXT = f"{DOCUMENT}\n{OTHER} \n" * 12
BLOCK, ROWS = 24, 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    for split, text in (("train", TEXT), ("val", f"{DOCUMENT}\n{OTHER}")):
        (folder / f"{split}.txt").write_text(text, encoding="utf-8")
    return folder


def make(folder, kind="word", workdir=None, **objective):
    cfg = DataConfig(
        source="plain_text",
        batching="blocks",
        dir=str(folder),
        cache_dir=str(folder / "cache"),
        block_len=BLOCK,
        num_rows=ROWS,
        objective=ObjectiveConfig(**{"name": "masked", **objective}),
    )
    return prepare(cfg, TokenizerConfig(kind=kind, vocab_size=330), workdir=workdir)


def take(data, start, count, **options):
    batches = data.train_batches(start, **options)
    try:
        return [batch for batch, _ in (next(batches) for _ in range(count))]
    finally:
        batches.close()


def equal(one, other):
    return all(map(np.array_equal, jax.tree.leaves(one), jax.tree.leaves(other)))


def restored(batch):
    """Rows of ids as they were before tokens were hidden."""
    ids = batch.text.ids.copy()
    rows, places = np.nonzero(batch.weights)
    ids[rows, batch.masked_positions[rows, places]] = batch.labels[rows, places]
    return ids


OBJECTIVES = [
    {"name": "masked", "unit": "word"},
    {"name": "masked", "unit": "span", "pairs": "next_sentence"},
    {"name": "masked", "pairs": "sentence_order"},
    {"name": "span_corruption"},
    {"name": "denoising", "rate": 0.3},
    {"name": "prefix"},
]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda o: "-".join(map(str, o.values())))
def test_batches_are_pure_and_held_out_damage_is_fixed(folder, objective):
    data = make(folder, **objective)
    stream = take(data, 0, 5, seed=7)
    assert equal(stream[3:], take(make(folder, **objective), 3, 2, seed=7))
    assert not equal(stream, take(data, 0, 5, seed=8))
    assert equal(list(data.eval_batches("val")), list(data.eval_batches("val")))
    shapes = {(len(b.labels), *jax.tree.leaves(b)[0].shape) for b in stream}
    assert len(shapes) == 1 and len(data.batch_shapes()) == 1
    halves = [
        take(data, 2, 1, seed=7, rows_multiple=2, shard_index=i, shard_count=2) for i in (0, 1)
    ]
    joined = jax.tree.map(lambda *parts: np.concatenate(parts), *(half[0] for half in halves))
    assert equal(joined, stream[2])


def test_held_out_text_and_word_starts_are_made_once(folder, monkeypatch):
    made = {"texts": 0, "starts": 0}

    def counted(name, make):
        def count(*args, **options):
            made[name] += 1
            return make(*args, **options)

        return count

    monkeypatch.setattr(loader, "PretrainingText", counted("texts", loader.PretrainingText))
    starts = counted("starts", base_tokenizer.find_word_starts)
    monkeypatch.setattr(base_tokenizer, "find_word_starts", starts)
    data = make(folder, unit="word", kind="char")
    data.batch_shapes()
    first = list(data.eval_batches("val"))
    assert equal(first, list(data.eval_batches("val")))
    assert made == {"texts": 2, "starts": 1}
    some = list(data.eval_batches("val", max_examples=3))
    assert len(some) < len(first) and made == {"texts": 3, "starts": 1}


def test_masks_keep_the_rate_differ_by_epoch_and_leave_the_text(folder):
    data = make(folder, rate=0.2)
    tokens = data.tokenizers.target
    epoch = data.batches_per_epoch()
    batches = take(data, 0, 10 * epoch, seed=1)
    mask_id = tokens.mark_ids[0]
    told = hidden = kept = 0
    seen = set()
    for batch in batches:
        assert (batch.weights.sum(1) == round(0.2 * (BLOCK - 2))).all()
        rows = restored(batch)
        assert not np.isin(rows, tokens.mark_ids).any()
        assert (rows[:, 0] == BOS_ID).all() and (rows[:, -1] == EOS_ID).all()
        assert all(tokens.decode(row[1:-1]) in TEXT for row in rows)
        assert not batch.next_weights.any() and not batch.token_types.any()
        at = np.take_along_axis(batch.text.ids, batch.masked_positions, 1)
        told += batch.weights.sum()
        hidden += (at == mask_id).sum()
        kept += (at == batch.labels).sum()
        seen |= {row.tobytes() for row in batch.text.ids}
    assert abs(hidden / told - 0.8) < 0.05 and abs(kept / told - 0.1) < 0.04
    assert len(seen) > 9 * epoch * ROWS, "each row is damaged otherwise"


def test_words_are_hidden_whole_for_tokens_of_bytes():
    tokenizer = ControlTokenizer(MultilineTokenizer(ByteTokenizer()), ["mask"])
    ids = np.array([BOS_ID, *tokenizer.encode("zwei ça\nva ")])
    starts = starts_of_words(ids, find_word_starts(tokenizer), line_end_id=tokenizer.line_end_id)
    # "zwei" begins the row (the mask rules see to that), " ça" has a letter of two bytes
    assert [int(i) for i in np.flatnonzero(starts)] == [5, 9, 10, 12]


@pytest.mark.parametrize("pairs", ["next_sentence", "sentence_order"])
def test_pairs_are_whole_lines_and_weigh_as_much_as_the_hidden_tokens(folder, pairs):
    data = make(folder, pairs=pairs)
    labels = []
    for batch in take(data, 0, 20, seed=3):
        np.testing.assert_allclose(batch.next_weights.sum(), batch.weights.sum(), rtol=1e-5)
        labels += batch.next_labels.tolist()
        for row, types in zip(restored(batch), batch.token_types, strict=True):
            row, types = row[row != PAD_ID], types[row != PAD_ID]
            assert row[-1] == EOS_ID and (np.diff(types) >= 0).all() and types[-1] == 1
            for part in (row[1:][types[1:] == 0], row[types == 1]):
                assert data.tokenizers.target.decode(part) in TEXT
    assert 0.3 < np.mean(labels) < 0.7
    (held_out,) = data.eval_batches("val")
    assert (held_out.next_weights > 0).sum() == 4, "two places in each of two documents"


def test_spans_restore_the_text_and_fill_the_shape(folder):
    data = make(folder, name="span_corruption", rate=0.3)
    marks = np.array(data.tokenizers.target.mark_ids)
    for batch in take(data, 0, 4):
        assert (batch.source.ids != PAD_ID).all() and (batch.labels != PAD_ID).all()
        for source, labels in zip(batch.source.ids, batch.labels, strict=True):
            text = restore_spans(source[:-1], labels[:-1], marks)
            assert len(text) == BLOCK - 1 and data.tokenizers.target.decode(text) in TEXT


def test_the_rest_of_a_prefix_goes_on_where_it_ends_and_noise_is_taken_from_the_source(folder):
    data = make(folder, name="prefix")
    for batch in take(data, 0, 3):
        for source, labels in zip(batch.source.ids, batch.labels, strict=True):
            parts = [side[(side != PAD_ID) & (side != EOS_ID)] for side in (source, labels)]
            assert data.tokenizers.target.decode(np.concatenate(parts)) in TEXT
            assert all(map(len, parts))
    data = make(folder, name="denoising", rate=0.4)
    mask_id = data.tokenizers.target.mark_ids[0]
    for batch in take(data, 0, 3):
        assert (batch.source.ids == mask_id).any(1).all()
        left = ~np.isin(batch.source.ids, (mask_id, PAD_ID, EOS_ID))
        assert (left.sum(1) == BLOCK - 1 - round(0.4 * (BLOCK - 1))).all()
        for row in batch.labels:
            assert data.tokenizers.target.decode(row) in TEXT


def test_held_out_windows_cover_the_text_once(folder):
    data = make(folder)
    rows = np.concatenate([restored(batch) for batch in data.eval_batches("val")])
    text = rows[~np.isin(rows, (PAD_ID, BOS_ID, EOS_ID))]
    whole = data.tokenized("val").target_ids
    assert len(whole) - len(text) in (0, 1) and np.array_equal(text, whole[: len(text)])


@pytest.mark.parametrize("kind", ["word", "char", "byte", "bpe"])
def test_marks_stand_behind_the_vocabulary_and_no_text_gives_one(folder, tmp_path, kind):
    data = make(folder, kind=kind, workdir=tmp_path)
    plain = make(folder, kind=kind, name="causal")
    tokens, without = data.tokenizers.target, plain.tokenizers.target
    assert list(tokens.mark_ids) == [without.vocab_size] == [tokens.vocab_size - 1]
    assert tokens.fingerprint != without.fingerprint
    text = "das [MASK] <mask> </s>\n"
    assert tokens.encode(text) == without.encode(text)
    ids = [tokens.mark_ids[0], *tokens.encode("das Wasser"), tokens.mark_ids[0]]
    assert tokens.decode(ids) == "das Wasser"
    again = load_tokenizers(tmp_path / "tokenizer").target
    assert (again.fingerprint, again.vocab_size) == (tokens.fingerprint, tokens.vocab_size)


def test_text_that_cannot_be_used_is_refused(tmp_path, folder):
    (tmp_path / "train.txt").write_text(DOCUMENT * 3, encoding="utf-8")
    with pytest.raises(DataError, match="half of its second texts from another document"):
        make(tmp_path, pairs="next_sentence").batch_shapes()
    assert make(tmp_path, pairs="sentence_order").batch_shapes() == [(ROWS, BLOCK, 0)]
    (tmp_path / "train.txt").write_text("ein\n\nein\n\n", encoding="utf-8")
    with pytest.raises(DataError, match="no document has two sentences"):
        make(tmp_path, pairs="sentence_order").batch_shapes()
    with pytest.raises(DataError, match="fewer than one row"):
        make(tmp_path).batch_shapes()
