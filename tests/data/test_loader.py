"""Training and evaluation batches of a corpus: order, resume, shards, threads, reports."""

import dataclasses
import gc
import json
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest
from memory_source import MemorySource

from seqgen.data import DataConfig, TextData, TokenizerConfig
from seqgen.data.tokenizer import ByteTokenizer
from seqgen.data.tokenizer_store import Tokenizers, build_tokenizers
from seqgen.errors import DataError


def make_data(tmp_path, *, train=None, tokenizers=None, sampling=False, **options):
    """Byte-tokenised pairs of different lengths; texts are unique, so ids name their example."""
    rng = np.random.default_rng(0)
    if train is None:
        train = [
            (f"{i} " + "a" * int(rng.integers(0, 30)), f"{i} " + "b" * int(rng.integers(0, 30)))
            for i in range(150)
        ]
    tokenizer = ByteTokenizer()
    fields = {"tokens_per_batch": 256, "num_buckets": 3, "cache_dir": str(tmp_path), **options}
    return TextData(
        DataConfig(**fields),
        splits={"train": MemorySource(train), "val": MemorySource([*train[:20], ("", "x")])},
        tokenizers=tokenizers or Tokenizers(tokenizer, tokenizer),
        sampling=sampling,
    )


def take(data, start, count, **options):
    """Some batches, and the thread that made them stopped."""
    batches = data.train_batches(start, **options)
    try:
        return [next(batches) for _ in range(count)]
    finally:
        batches.close()


def texts_of(data, batch):
    """(source, target) texts of a batch, unpacked."""
    found = []
    for row in range(len(batch.labels)):
        for segment in range(1, int(batch.target.segments[row].max()) + 1):
            here = batch.target.segments[row] == segment
            if batch.weights[row][here].any():
                there = batch.source.segments[row] == segment
                source = data.source_tokenizer.decode(batch.source.ids[row][there])
                found.append((source, data.target_tokenizer.decode(batch.labels[row][here])))
    return found


def equal(one, other):
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other)))


@pytest.mark.parametrize("batching", ["buckets", "packing"])
def test_every_pair_once_an_epoch_in_another_order(tmp_path, batching):
    data = make_data(tmp_path, batching=batching)
    count = data.batches_per_epoch()
    made = take(data, 0, 2 * count, seed=7)
    epochs = []
    for part in (made[:count], made[count:]):
        epochs.append([text for batch, _ in part for text in texts_of(data, batch)])
    everything = sorted((p["source"], p["target"]) for p in data.examples("train"))
    assert sorted(epochs[0]) == sorted(epochs[1]) == everything
    assert epochs[0] != epochs[1]
    shapes = {(len(b.labels), b.source.ids.shape[1], b.labels.shape[1]) for b, _ in made}
    assert shapes == set(data.batch_shapes())
    assert len(shapes) <= (1 if batching == "packing" else 3)


@pytest.mark.parametrize("batching", ["buckets", "packing"])
def test_resume_at_every_position_is_exact(tmp_path, batching):
    data = make_data(tmp_path, batching=batching)
    count = data.batches_per_epoch() + 3
    whole = take(data, 0, count, seed=3)
    for start in range(count):
        fresh = make_data(tmp_path, batching=batching)
        (batch, info), *_ = take(fresh, start, 1, seed=3)
        assert equal(batch, whole[start][0])
        assert info == whole[start][1]
    assert len({info.digest for _, info in whole}) == count
    assert take(data, 0, 1, seed=4)[0][1].digest != whole[0][1].digest


def test_shards_are_slices_of_one_global_batch(tmp_path):
    data = make_data(tmp_path)
    whole = take(data, 5, 4, seed=1, rows_multiple=4)
    parts = [
        take(data, 5, 4, seed=1, rows_multiple=4, shard_index=i, shard_count=2) for i in (0, 1)
    ]
    for index, (batch, info) in enumerate(whole):
        left, right = (parts[i][index][0] for i in (0, 1))
        assert np.concatenate([left.labels, right.labels]).tolist() == batch.labels.tolist()
        assert left.labels.shape == right.labels.shape  # SPMD: one shape at every step
        assert sum(parts[i][index][1].tokens for i in (0, 1)) == info.tokens
    with pytest.raises(ValueError, match="shard_count"):
        data.train_batches(0, rows_multiple=3, shard_index=0, shard_count=2)


def test_blank_and_overlong_pairs_follow_the_policy(tmp_path):
    train = [("a", "b"), ("", "b"), ("a", " \t"), ("long " * 9, "b"), ("c", "d " * 30), ("e", "f")]
    dropped = make_data(tmp_path, train=train, max_source_len=20, max_target_len=20)
    (batch, info), *_ = take(dropped, 0, 1)
    assert sorted(texts_of(dropped, batch)) == [("a", "b"), ("e", "f")]
    assert info.tokens == 4
    counts = dropped.report["splits"]["train"]
    assert (counts["used"], counts["dropped_blank"], counts["dropped_overlong"]) == (2, 2, 2)
    assert counts["used"] + counts["dropped_blank"] + counts["dropped_overlong"] == len(train)

    cut = make_data(
        tmp_path, train=train, max_source_len=20, max_target_len=20, overlong="truncate"
    )
    found = [t for b, _ in take(cut, 0, cut.batches_per_epoch()) for t in texts_of(cut, b)]
    assert sorted(found) == [
        ("a", "b"),
        ("c", ("d " * 30)[:19]),
        ("e", "f"),
        (("long " * 9)[:19], "b"),
    ]
    assert cut.report["splits"]["train"]["truncated"] == 2

    nothing = make_data(tmp_path, train=[("", "x")])
    with pytest.raises(DataError, match="no training pair is left"):
        nothing.train_batches()


def test_evaluation_sees_every_pair_once_blank_and_overlong_too(tmp_path):
    data = make_data(tmp_path, max_target_len=12)
    batches = list(data.eval_batches("val"))
    expected = [(p["source"], p["target"][:11]) for p in data.examples("val")]
    assert sorted(t for batch in batches for t in texts_of(data, batch)) == sorted(expected)
    assert ("", "x") in expected
    some = [t for b in data.eval_batches("val", max_examples=5) for t in texts_of(data, b)]
    assert sorted(some) == sorted(expected[:5])
    shapes = {b.labels.shape for b in batches}
    assert {b.labels.shape for b in data.eval_batches("val", max_examples=5)} <= shapes
    with pytest.raises(DataError, match="did you mean   val"):
        next(data.eval_batches("vla"))


def test_num_examples_takes_the_first(tmp_path):
    data = make_data(tmp_path, num_examples=10)
    batches = take(data, 0, data.batches_per_epoch())
    found = [t for batch, _ in batches for t in texts_of(data, batch)]
    assert sorted(int(source.split()[0]) for source, _ in found) == list(range(10))
    assert data.fingerprint["corpus"] != make_data(tmp_path).fingerprint["corpus"]


def wait_until(condition):
    deadline = time.perf_counter() + 20
    while not condition() and time.perf_counter() < deadline:
        time.sleep(0.01)
    return condition()


def prefetch_threads():
    return [thread for thread in threading.enumerate() if "prefetch" in thread.name]


def test_batches_are_made_ahead_and_the_thread_ends(tmp_path, monkeypatch):
    data = make_data(tmp_path, prefetch=3)
    training, _ = data._planned(1, 0)
    make, made = training.batch, []
    monkeypatch.setattr(
        training, "batch", lambda plan, i, seed: made.append(i) or make(plan, i, seed=seed)
    )
    batches = data.train_batches(10)
    next(batches)
    assert wait_until(lambda: len(made) >= 4)  # three more than asked for
    time.sleep(0.05)
    assert made == list(range(10, 10 + len(made)))
    assert len(made) <= 5  # and no more: memory is bounded
    assert prefetch_threads()
    batches.close()
    assert wait_until(lambda: not prefetch_threads())
    forgotten = data.train_batches()
    next(forgotten)
    del forgotten
    gc.collect()
    assert wait_until(lambda: not prefetch_threads())


def test_an_error_in_the_thread_reaches_the_loop(tmp_path):
    data = make_data(tmp_path)
    batches = data.train_batches()
    next(batches)
    ids = data.tokenized("train")
    training, _ = data._planned(1, 0)
    broken = dataclasses.replace(ids, source_offsets=None)
    training._ids = broken
    with pytest.raises(TypeError):
        for _ in range(20):
            next(batches)


def test_sampled_segmentations_are_exact_on_resume_and_keep_the_text(tmp_path):
    train = [(f"{i} the lazy brown dog", f"{i} der faule braune Hund") for i in range(60)]
    cfg = DataConfig(tokens_per_batch=256, num_buckets=2, cache_dir=str(tmp_path))
    texts = [text for pair in train for text in pair]
    made = build_tokenizers(
        TokenizerConfig(kind="bpe", vocab_size=350, sampling_alpha=0.2),
        source_texts=lambda: iter(texts),
        target_texts=lambda: iter(texts),
    )
    fields = dataclasses.asdict(cfg)
    data = make_data(tmp_path, train=train, tokenizers=made, sampling=True, **fields)
    count = data.batches_per_epoch()
    whole = take(data, 0, 2 * count)
    again = take(data, count, count)
    assert [info for _, info in again] == [info for _, info in whole[count:]]
    epochs = [
        sorted(t for b, _ in part for t in texts_of(data, b))
        for part in (whole[:count], whole[count:])
    ]
    assert epochs[0] == epochs[1] == sorted(train)
    tokens = [sum(info.tokens for _, info in part) for part in (whole[:count], again)]
    assert tokens[0] != tokens[1]  # segmented anew
    plain = make_data(tmp_path, train=train, tokenizers=made, **fields)
    assert min(tokens) > sum(i.tokens for _, i in take(plain, 0, plain.batches_per_epoch()))


def test_report_is_plain_json_and_padding_is_true(tmp_path):
    data = make_data(tmp_path)
    batches = take(data, 0, data.batches_per_epoch())
    json.dumps(data.report, allow_nan=False)
    sizes = [b.source.ids.size + b.target.ids.size for b, _ in batches]
    padded = sum(i.pad_fraction * size for (_, i), size in zip(batches, sizes)) / sum(sizes)
    assert data.report["batches"]["pad_fraction"] == pytest.approx(padded, abs=1e-4)
    assert data.report["batches"]["per_epoch"] == len(batches)


def test_importing_the_package_imports_no_data_library():
    code = (
        "import sys, seqgen.data; heavy = {'grain', 'tensorflow_datasets', 'sentencepiece', "
        "'tensorflow', 'flax', 'num2words'} & set(sys.modules)\nif heavy: sys.exit(str(heavy))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
