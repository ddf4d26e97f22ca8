"""Ids cached on disk: the same as fresh ones, and made again when damaged."""

import json

import numpy as np
import pytest
from memory_source import MemorySource

from seqgen.data import cache
from seqgen.data.token_cache import tokenize_split
from seqgen.data.tokenizer import ByteTokenizer, TableTokenizer
from seqgen.data.tokenizer_store import Tokenizers

PAIRS = [("one", "eins ä"), ("", "null"), ("two words", "  "), ("x" * 300, "y")]
BYTES = Tokenizers(ByteTokenizer(), ByteTokenizer())


def test_ids_lengths_and_blanks(tmp_path):
    source = MemorySource(PAIRS)
    ids = tokenize_split(source, BYTES, num_examples=4, cache_dir=str(tmp_path))
    for i, (left, right) in enumerate(PAIRS):
        found = ids.source_ids[ids.source_offsets[i] : ids.source_offsets[i + 1]]
        assert found.tolist() == BYTES.source.encode(left)
        found = ids.target_ids[ids.target_offsets[i] : ids.target_offsets[i + 1]]
        assert found.tolist() == BYTES.target.encode(right)
    assert ids.source_lens.tolist() == [4, 1, 10, 301]
    assert ids.blank.tolist() == [False, True, True, False]
    reads = source.reads
    again = tokenize_split(source, BYTES, num_examples=4, cache_dir=str(tmp_path))
    assert source.reads == reads  # from the cache
    assert again.fingerprint == ids.fingerprint


def test_key_is_corpus_tokenizer_and_count(tmp_path):
    other = Tokenizers(BYTES.source, ByteTokenizer(lowercase=True))
    variants = [
        (MemorySource(PAIRS), BYTES, 4),
        (MemorySource(PAIRS, "g"), BYTES, 4),
        (MemorySource(PAIRS), other, 4),
        (MemorySource(PAIRS), BYTES, 3),
    ]
    for source, tokenizers, count in variants:
        tokenize_split(source, tokenizers, num_examples=count, cache_dir=str(tmp_path))
        assert source.reads == count


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "manifest"])
def test_damage_is_found_and_mended(tmp_path, damage):
    ids = tokenize_split(MemorySource(PAIRS), BYTES, num_examples=4, cache_dir=str(tmp_path))
    before = np.array(ids.source_ids)
    (file,) = tmp_path.glob("tokens/*/source_ids.npy")
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[-3] ^= 4
        file.write_bytes(content)
    elif damage == "cut":
        file.write_bytes(content[:-2])
    elif damage == "remove":
        file.unlink()
    else:
        (file.parent / "manifest.json").write_text("{}")
    said = []
    source = MemorySource(PAIRS)
    again = tokenize_split(
        source, BYTES, num_examples=4, cache_dir=str(tmp_path), report=said.append
    )
    assert again.source_ids.tolist() == before.tolist()
    assert source.reads == len(PAIRS)
    assert any("damaged" in line for line in said)


def test_object_arrays_are_never_unpickled(tmp_path):
    tokenize_split(MemorySource(PAIRS), BYTES, num_examples=4, cache_dir=str(tmp_path))
    (file,) = tmp_path.glob("tokens/*/blank.npy")
    manifest = file.parent / "manifest.json"
    old = (file.stat().st_size, file.read_bytes())
    np.save(file, np.array([{"a": 1}], object), allow_pickle=True)
    record = json.loads(manifest.read_text())
    record["files"]["blank.npy"] = {
        "size": file.stat().st_size,
        "digest": cache.digest_file(file),
    }
    manifest.write_text(json.dumps(record))
    again = tokenize_split(MemorySource(PAIRS), BYTES, num_examples=4, cache_dir=str(tmp_path))
    assert again.blank.tolist() == [False, True, True, False]
    assert (file.stat().st_size, file.read_bytes()) == old


def test_large_vocabularies_keep_their_ids(tmp_path):
    big = TableTokenizer(
        [chr(0x10000 + i) for i in range(70_000)], kind="char", byte_fallback=False
    )
    text = chr(0x10000 + 69_999)
    ids = tokenize_split(
        MemorySource([(text, text)]), Tokenizers(big, big), num_examples=1, cache_dir=str(tmp_path)
    )
    assert ids.source_ids.tolist() == big.encode(text) == [70_003]
