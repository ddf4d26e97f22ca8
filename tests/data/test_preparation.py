"""From a config to data: run directories, changed corpora, two processes, a real corpus."""

import gzip
import json
import subprocess
import sys
import time

import pytest

from seqgen.data import DataConfig, TokenizerConfig, load_tokenizers, prepare
from seqgen.errors import DataError

PAIRS = [(f"{n} blue dogs run", f"{n} blaue Hunde laufen") for n in range(60)]


def write(directory, pairs=PAIRS):
    directory.mkdir(exist_ok=True)
    for split, part in (("train", pairs), ("val", pairs[:7]), ("test", pairs[3:9])):
        for side, lang in ((0, "en"), (1, "de")):
            text = "".join(f"{pair[side]}\n" for pair in part)
            (directory / f"{split}.{lang}").write_text(text, encoding="utf-8")
    return directory


def configs(tmp_path, **options):
    corpus = write(tmp_path / "corpus")
    data = DataConfig(dir=str(corpus), cache_dir=str(tmp_path / "cache"), tokens_per_batch=128)
    return data, TokenizerConfig(**{"kind": "bpe", "vocab_size": 330, **options})


@pytest.mark.parametrize("kind", ["bpe", "char"])
def test_a_run_keeps_its_tokenizer_and_resumes_with_it(tmp_path, kind):
    cfg, tokenizer_cfg = configs(tmp_path, kind=kind, joint=False)
    run = tmp_path / "run"
    said = []
    first = prepare(cfg, tokenizer_cfg, workdir=run, report=said.append)
    assert any("tokenizer" in line for line in said)
    assert set(first.splits) == {"train", "val", "test"}
    saved = load_tokenizers(run / "tokenizer")
    assert saved.source.fingerprint == first.fingerprint["source_tokenizer"]
    assert saved.target.fingerprint == first.fingerprint["target_tokenizer"]
    assert saved.source.vocab_size == first.report["source_vocab_size"]
    said.clear()
    again = prepare(cfg, tokenizer_cfg, workdir=run, report=said.append)
    assert again.fingerprint == first.fingerprint
    assert not [line for line in said if "making" in line or "tokenising" in line]
    assert again.examples("test")[0] == {"source": PAIRS[3][0], "target": PAIRS[3][1]}


def test_a_run_refuses_another_tokenizer_or_corpus(tmp_path):
    cfg, tokenizer_cfg = configs(tmp_path)
    run = tmp_path / "run"
    before = prepare(cfg, tokenizer_cfg, workdir=run).fingerprint
    other = TokenizerConfig(kind="bpe", vocab_size=300)
    with pytest.raises(DataError, match="another corpus or other settings"):
        prepare(cfg, other, workdir=run)
    write(tmp_path / "corpus", [("new", "neu"), *PAIRS])
    with pytest.raises(DataError, match="another corpus or other settings"):
        prepare(cfg, tokenizer_cfg, workdir=run)
    taken = load_tokenizers(run / "tokenizer")  # to evaluate on other data is allowed
    data = prepare(cfg, tokenizer_cfg, workdir=run, tokenizers=taken)
    assert data.fingerprint["corpus"] != before["corpus"]
    assert data.fingerprint["source_tokenizer"] == before["source_tokenizer"]
    assert len(list(data.eval_batches("test"))) >= 1


def test_damaged_cached_tokenizer_is_made_again(tmp_path):
    cfg, tokenizer_cfg = configs(tmp_path)
    first = prepare(cfg, tokenizer_cfg, workdir=None)
    (model,) = (tmp_path / "cache" / "tokenizers").glob("*/joint.model")
    model.write_bytes(model.read_bytes()[:-9])
    assert prepare(cfg, tokenizer_cfg, workdir=tmp_path / "run").fingerprint == first.fingerprint


def test_lowercase_reaches_training_references_and_later_text(tmp_path):
    cfg, tokenizer_cfg = configs(tmp_path)
    cfg = DataConfig(dir=cfg.dir, cache_dir=cfg.cache_dir, lowercase=True)
    data = prepare(cfg, tokenizer_cfg, workdir=tmp_path / "run")
    assert data.examples("val")[2]["target"] == "2 blaue hunde laufen"
    later = load_tokenizers(tmp_path / "run" / "tokenizer").target
    assert later.decode(later.encode("Hunde LAUFEN")) == "hunde laufen"


def test_no_train_split_is_told(tmp_path):
    cfg, tokenizer_cfg = configs(tmp_path)
    for lang in ("en", "de"):
        (tmp_path / "corpus" / f"train.{lang}").unlink()
    with pytest.raises(DataError, match="no train split"):
        prepare(cfg, tokenizer_cfg, workdir=None)


def test_two_processes_prepare_one_corpus(tmp_path):
    cfg, _ = configs(tmp_path)
    code = (
        "import json, sys; from seqgen.data import *\n"
        "cfg = DataConfig(dir=sys.argv[1], cache_dir=sys.argv[2], tokens_per_batch=128)\n"
        "data = prepare(cfg, TokenizerConfig(vocab_size=330), workdir=None)\n"
        "b = data.train_batches(); info = [next(b)[1].digest for _ in range(5)]; b.close()\n"
        "print(json.dumps([data.fingerprint, info]))"
    )
    command = [sys.executable, "-c", code, cfg.dir, cfg.cache_dir]
    workers = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) for _ in range(2)
    ]
    outputs = [worker.communicate(timeout=120) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], outputs
    assert json.loads(outputs[0][0]) == json.loads(outputs[1][0])
    for room in ("prepared", "tokens", "tokenizers"):
        places = [path for path in (tmp_path / "cache" / room).iterdir() if path.is_dir()]
        assert places
        assert not [path for path in places if "tmp" in path.name]


@pytest.mark.parametrize("source", ["number_words", "copy", "reverse", "sort"])
def test_generated_corpora_give_batches(tmp_path, source):
    cfg = DataConfig(
        source=source,
        num_examples=50,
        val_examples=10,
        test_examples=10,
        max_number=999,
        tokens_per_batch=128,
        cache_dir=str(tmp_path),
    )
    data = prepare(cfg, TokenizerConfig(kind="char", byte_fallback=False), workdir=None)
    batches = data.train_batches()
    batch, info = next(batches)
    batches.close()
    assert info.tokens == batch.weights.sum() > 0
    assert sum(b.weights.sum() for b in data.eval_batches("test")) > 10


def test_multi30k(tmp_path, multi30k):
    """A real corpus, its first lines: odd texts come back, padding and time stay small."""
    directory = tmp_path / "corpus"
    directory.mkdir()
    for lang in ("en", "de"):
        with gzip.open(multi30k / f"train.{lang}.gz", "rb") as file:
            (directory / f"train.{lang}").write_bytes(b"".join(file.readlines()[:1500]))
        (directory / f"val.{lang}").write_bytes((multi30k / f"val.{lang}").read_bytes())
    cfg = DataConfig(dir=str(directory), cache_dir=str(tmp_path / "cache"), tokens_per_batch=2048)
    started = time.process_time()
    data = prepare(cfg, TokenizerConfig(kind="bpe", vocab_size=1000), workdir=tmp_path / "run")
    assert data.source_tokenizer.vocab_size == 1000
    assert len(data.batch_shapes()) <= 8
    assert data.report["batches"]["pad_fraction"] < 0.2
    assert time.process_time() - started < 20
    for pair in data.examples("val"):
        for side, tokenizer in (
            ("source", data.source_tokenizer),
            ("target", data.target_tokenizer),
        ):
            assert tokenizer.decode(tokenizer.encode(pair[side])) == pair[side]
    tokens = data.report["splits"]["val"]["target_tokens"]
    assert sum(int(batch.weights.sum()) for batch in data.eval_batches("val")) == tokens
    batches = data.train_batches()
    seen = 0
    for _ in range(data.batches_per_epoch()):
        seen += next(batches)[1].tokens
    batches.close()
    assert seen == data.report["splits"]["train"]["target_tokens"]
