"""Labels as ids, and the places where a label of a word is told."""

import json

import numpy as np
import pytest

from seqgen.data.batching import Shape
from seqgen.data.config import DataConfig, TokenizerConfig
from seqgen.data.jsonl import open_jsonl
from seqgen.data.labels import LabelledRows, LabelTokenizer, build_labels
from seqgen.data.preparation import prepare
from seqgen.data.tokenizer_store import (
    Tokenizers,
    build_tokenizers,
    load_tokenizers,
    save_tokenizers,
)
from seqgen.errors import DataError
from seqgen.types import BOS_ID, EOS_ID

TEXTS = ["the cat sat", "a dog", "unseen cats sit there", "the the the", "ein Hund läuft"] * 6


def test_labels_are_found_kept_and_refused(tmp_path):
    labels = build_labels(["b", " a", "c ", "b", ""], several=False)
    assert labels.labels == ["a", "b", "c"] and labels.encode(" c") == [6]
    assert labels.decode([4, 5, EOS_ID, 6]) == "a b"
    with pytest.raises(DataError, match="no training example has the label 'abc'"):
        labels.encode("abc")
    with pytest.raises(DataError, match="at least two"):
        build_labels(["x", "x"], several=False)
    tags = build_labels(["O B O", "B"], several=True)
    assert tags.encode("O  B") == [5, 4]
    texts = build_tokenizers(
        TokenizerConfig(kind="byte"), source_texts=lambda: (), target_texts=lambda: ()
    )
    save_tokenizers(Tokenizers(texts.source, tags), tmp_path, made_from="")
    loaded = load_tokenizers(tmp_path).target
    assert isinstance(loaded, LabelTokenizer) and loaded.several
    assert (loaded.labels, loaded.fingerprint) == (tags.labels, tags.fingerprint)


@pytest.mark.parametrize("kind", ["bpe", "char", "byte", "word"])
def test_a_word_is_told_at_its_first_token(kind):
    cfg = TokenizerConfig(kind=kind, vocab_size=300)
    tokenizer = build_tokenizers(cfg, source_texts=lambda: TEXTS, target_texts=lambda: ()).source
    rows = LabelledRows(tokenizer, several=True)
    texts = (*TEXTS[:5], "wholly unknown ŵords", "", "x", "")
    together = tokenizer.encode_many(texts)
    offsets = np.cumsum([0, *map(len, together)])
    found = rows.num_places(np.concatenate(together).astype(int), offsets)
    assert found.tolist() == [len(text.split()) for text in texts]
    for text, ids in zip(texts, together):
        places = rows.places(ids) - 1
        assert len(places) == len(text.split())
        cut = [ids[a:b] for a, b in zip(places, [*places[1:], len(ids)])]
        if kind != "word":
            assert [tokenizer.decode(part).strip() for part in cut] == text.split()


def test_a_batch_holds_texts_between_marks_and_labels_at_places():
    tokenizer = build_tokenizers(
        TokenizerConfig(kind="char"), source_texts=lambda: ["ab c"], target_texts=lambda: ()
    ).source
    pairs = [(tokenizer.encode("ab c"), [4, 6]), (tokenizer.encode("c"), [5])]
    batch = LabelledRows(tokenizer, several=True).assemble(Shape(3, 6, 4), pairs, rows=[0, 1])
    assert batch.text.ids.shape == (3, 7) and batch.labels.shape == (3, 3)
    assert batch.text.ids[0, 0] == BOS_ID and batch.text.ids[0, 5] == EOS_ID
    assert batch.text.segments.sum(axis=1).tolist() == [6, 3, 1]
    assert batch.text.positions[0].tolist() == [0, 1, 2, 3, 4, 5, 0]
    assert batch.masked_positions[:, :2].tolist() == [[1, 3], [1, 0], [0, 0]]
    assert batch.labels[:, :2].tolist() == [[0, 2], [1, 0], [0, 0]]
    assert batch.weights.tolist() == [[1, 1, 0], [1, 0, 0], [0, 0, 0]]
    one = LabelledRows(tokenizer, several=False).assemble(
        Shape(2, 6, 2), [(pairs[0][0], [5])], rows=[1]
    )
    assert one.labels.tolist() == [[0], [1]] and one.weights.tolist() == [[0], [1]]
    assert not one.masked_positions.any()


def test_what_is_cut_takes_the_other_side_with_it():
    tokenizer = build_tokenizers(
        TokenizerConfig(kind="char"), source_texts=lambda: ["a b c"], target_texts=lambda: ()
    ).source
    rows, ids = LabelledRows(tokenizer, several=True), tokenizer.encode("a b c")
    for own, targets in ((ids, [4, 5]), (ids[:3], [4, 5, 6])):
        assert rows.assemble(Shape(1, 6, 4), [(own, targets)], rows=[0]).weights.sum() == 2


def test_every_text_has_as_many_labels_as_words_before_anything_is_trained(tmp_path):
    def data(field, **splits):
        folder = tmp_path / field
        folder.mkdir()
        for split, rows in splits.items():
            lines = [json.dumps({"text": text, field: label}) + "\n" for text, label in rows]
            (folder / f"{split}.jsonl").write_text("".join(lines))
        cfg = DataConfig(
            source="jsonl",
            dir=str(folder),
            source_field="text",
            target_field=field,
            targets=field,
            max_source_len=4,
            cache_dir=str(tmp_path / "cache"),
        )
        return prepare(cfg, TokenizerConfig(kind="byte"), workdir=None)

    good = [("a b", "O B"), ("long enough to be cut", "O O O O O")]
    with pytest.raises(DataError, match="example 3 of train has 3 words and 2 labels"):
        data("tags", train=[*good, ("a  b", "O B")])
    blank = [("a b", "x"), ("c", "y"), ("d", " ")]
    with pytest.raises(DataError, match="example 3 of val has 1 words and 0 labels"):
        data("labels", train=blank, val=blank)


def test_numbers_and_lists_are_read_as_labels(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"text": "a b", "label": 3}\n')
    cfg = DataConfig(
        source="jsonl",
        dir=str(tmp_path),
        source_field="text",
        target_field="label",
        targets="labels",
        cache_dir=str(tmp_path / "cache"),
    )
    assert open_jsonl(cfg)["train"][0] == {"source": "a b", "target": "3"}
    other = tmp_path / "tags"
    other.mkdir()
    (other / "train.jsonl").write_text('{"text": ["a", "b"], "label": ["O", "B"]}\n')
    cfg = DataConfig(**{**vars(cfg), "dir": str(other), "targets": "tags"})
    assert open_jsonl(cfg)["train"][0] == {"source": "a b", "target": "O B"}
    (other / "train.jsonl").write_text('{"text": "a b", "label": "O"}\n')
    with pytest.raises(DataError, match=r"train.jsonl line 1 has 2 words and 1 labels"):
        open_jsonl(cfg)
    (other / "train.jsonl").write_text('{"text": "a b", "label": ["x", "y"]}\n')
    with pytest.raises(DataError, match="'label' is not text but list"):
        open_jsonl(DataConfig(**{**vars(cfg), "targets": "labels"}))
