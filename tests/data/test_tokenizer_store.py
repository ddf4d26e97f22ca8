"""A corpus gets the same tokenizers of a vocabulary, wherever that comes from."""

import json

import pytest

from seqgen.data import DataConfig, TokenizerConfig, prepare, tokenizer_store
from seqgen.data.config import ObjectiveConfig
from seqgen.data.labels import LabelTokenizer
from seqgen.errors import DataError

LINES = ["zwei Männer schauen", "das Wasser ist kalt", "two mochas, please"] * 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpora")
    for name in ("text", "plain_text", "dialogue", "jsonl"):
        (folder / name).mkdir()
    rows = [{"source": line, "target": line[:1]} for line in LINES]
    (folder / "jsonl" / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for ending in ("en", "de"):
        (folder / "text" / f"train.{ending}").write_text("\n".join(LINES), encoding="utf-8")
    (folder / "plain_text" / "train.txt").write_text("\n".join(LINES), encoding="utf-8")
    said = [{"speaker": who, "text": line} for who, line in zip(("user", "assistant") * 9, LINES)]
    (folder / "dialogue" / "train.jsonl").write_text(json.dumps({"turns": said}))
    return folder


CORPORA = {
    "text": {},
    "plain_text": {"batching": "blocks", "objective": ObjectiveConfig("masked"), "block_len": 8},
    "dialogue": {"reply_speaker": "assistant", "system_line": "Be kind."},
    "jsonl": {"targets": "labels"},
}


@pytest.mark.parametrize("source", CORPORA)
def test_a_vocabulary_taken_from_a_run_is_wrapped_as_one_that_is_learnt(
    folder, tmp_path, monkeypatch, source
):
    cfg = DataConfig(
        source=source, dir=str(folder / source), cache_dir=str(tmp_path / "c"), **CORPORA[source]
    )
    learnt = prepare(cfg, TokenizerConfig(kind="char"), workdir=tmp_path / "run").tokenizers
    loads = []
    load = tokenizer_store.load_tokenizers
    monkeypatch.setattr(
        tokenizer_store, "load_tokenizers", lambda path: (loads.append(path), load(path))[1]
    )
    kept = TokenizerConfig(kind="run", path=str(tmp_path / "run"))
    taken = prepare(cfg, kept, workdir=None).tokenizers
    assert loads == [tmp_path / "run" / "tokenizer"], "read once for both sides"
    for ours, theirs in ((taken.source, learnt.source), (taken.target, learnt.target)):
        assert type(ours) is type(theirs) and ours.fingerprint == theirs.fingerprint
    if source == "jsonl":
        assert isinstance(taken.target, LabelTokenizer) and taken.labels.labels == ["d", "t", "z"]
        assert taken.written is taken.source and not taken.joint
        one = tokenizer_store.take_vocabularies(kept, lowercase=False)
        assert one.target.fingerprint == taken.source.fingerprint, "labels are no vocabulary"
        (folder / "jsonl" / "val.jsonl").write_text('{"source": "x", "target": "q"}')
        with pytest.raises(DataError, match="no training example has the label 'q'"):
            prepare(cfg, kept, workdir=None)
        return
    assert taken.joint and (taken.source is taken.target) == (source != "dialogue")
