"""Arrays of ids: what stands where, and lines for inference with their order kept."""

import dataclasses

import hypothesis
import hypothesis.strategies as st
import numpy as np

from seqgen.data.batching import Shape, assemble, batch_info, encode_lines, slice_rows
from seqgen.data.tokenizer import ByteTokenizer
from seqgen.types import BOS_ID, EOS_ID, PAD_ID

PAIRS = [([5, 6], [7]), ([], [8, 9]), ([4], [])]


def test_one_pair_a_row_and_a_harmless_filler():
    batch = assemble(Shape(4, 4, 3), PAIRS, rows=range(3))
    p, b, e = PAD_ID, BOS_ID, EOS_ID
    assert batch.source.ids.tolist() == [[5, 6, e, p], [e, p, p, p], [4, e, p, p], [e, p, p, p]]
    assert batch.target.ids.tolist() == [[b, 7, p], [b, 8, 9], [b, p, p], [b, p, p]]
    assert batch.labels.tolist() == [[7, e, p], [8, 9, e], [e, p, p], [p, p, p]]
    assert batch.weights.tolist() == [[1, 1, 0], [1, 1, 1], [1, 0, 0], [0, 0, 0]]
    assert batch.source.segments.tolist()[0] == [1, 1, 1, 0]
    assert batch.source.positions.tolist()[0] == [0, 1, 2, 0]
    assert (batch.source.segments.sum(axis=1) > 0).all()  # no row is all padding
    assert batch.labels.dtype == np.int32
    assert batch.weights.dtype == np.float32


def test_info_counts_real_tokens_and_tells_batches_apart():
    batch = assemble(Shape(4, 4, 3), PAIRS, rows=range(3))
    info = batch_info(batch)
    assert info.tokens == 6
    assert info.pad_fraction == 1 - (6 + 6) / 28
    assert batch_info(assemble(Shape(4, 4, 3), PAIRS, rows=range(3))) == info
    changed = dataclasses.replace(batch, labels=batch.labels + 1)
    assert batch_info(changed).digest != info.digest
    assert batch_info(assemble(Shape(4, 4, 3), PAIRS[::-1], rows=range(3))).digest != info.digest


def test_slices_are_the_batch():
    batch = assemble(Shape(4, 4, 3), PAIRS, rows=range(3))
    parts = [slice_rows(batch, 0, 2), slice_rows(batch, 2, 4)]
    assert np.concatenate([part.labels for part in parts]).tolist() == batch.labels.tolist()
    ids = np.concatenate([part.source.ids for part in parts])
    assert ids.tolist() == batch.source.ids.tolist()


@hypothesis.settings(deadline=None, max_examples=50)
@hypothesis.given(
    texts=st.lists(st.text(st.characters(codec="ascii"), max_size=70), max_size=40),
    batch_tokens=st.sampled_from([1, 64, 300, 4096]),
    max_len=st.sampled_from([0, 2, 20]),
)
def test_every_line_once_with_its_index(texts, batch_tokens, max_len):
    tokenizer = ByteTokenizer()
    seen, truncated = {}, 0
    for part in encode_lines(texts, tokenizer, max_len=max_len, batch_tokens=batch_tokens):
        rows, length = part.source.ids.shape
        assert rows == 1 or rows * length <= batch_tokens
        truncated += part.truncated
        assert (part.source.segments.sum(axis=1) > 0).all()
        for row, index in enumerate(part.indices):
            real = part.source.segments[row] == 1
            ids = part.source.ids[row][real].tolist()
            assert ids[-1] == EOS_ID
            assert part.source.positions[row][real].tolist() == list(range(len(ids)))
            seen[int(index)] = tokenizer.decode(ids)
    limit = max_len - 1 if max_len else None
    assert seen == {i: text[:limit] for i, text in enumerate(texts)}
    assert truncated == sum(len(text) > len(seen[i]) for i, text in enumerate(texts))


def test_shapes_are_few_and_long_lines_are_served():
    rng = np.random.default_rng(0)
    texts = ["x" * int(n) for n in rng.integers(0, 100, 500)] + ["", "y" * 5000]
    shapes = {part.source.ids.shape for part in encode_lines(texts, ByteTokenizer())}
    assert len(shapes) <= 17
    assert (1, 5120) in shapes
