"""From a config to `TextData`: the corpus opened, its tokenizers made or loaded, its ids cached."""

import dataclasses
import functools
import shutil
from collections.abc import Iterator
from pathlib import Path

from seqgen.data import cache
from seqgen.data.chat_template import ChatTemplate
from seqgen.data.config import DataConfig, TokenizerConfig
from seqgen.data.dialogue import DialogueSource
from seqgen.data.given_tokenizer import digest_given
from seqgen.data.loader import Report, TextData
from seqgen.data.sources import Source, open_splits
from seqgen.data.token_cache import read_all
from seqgen.data.tokenizer_store import (
    TOKENIZER_JSON,
    Tokenizers,
    build_line_tokenizer,
    build_tokenizers,
    load_tokenizers,
    read_record,
    save_tokenizers,
    take_vocabularies,
    wrap,
)
from seqgen.errors import DataError


def prepare(
    cfg: DataConfig,
    tokenizer_cfg: TokenizerConfig,
    *,
    workdir: Path | None,
    report: Report | None = None,
    tokenizers: Tokenizers | None = None,
) -> TextData:
    """Open the corpus, train or load its tokenizers, tokenise it once.

    Args:
      workdir: the run directory; its `tokenizer/` is written, or used if it is there.
      report: called with one line a phase.
      tokenizers: take these (of a finished run) instead; nothing is tokenised before it is used.

    Raises:
      DataError: if the corpus cannot be used, or `workdir` holds a tokenizer made otherwise.
      StorageError: if the cache or `workdir` cannot be written.
    """
    say = report or (lambda message: None)
    say(f"opening the corpus {cfg.dir or cfg.name or cfg.source}")
    splits = open_splits(cfg)
    sampling = tokenizer_cfg.sampling_alpha > 0 and tokenizer_cfg.kind in (
        "bpe",
        "unigram",
        "given",
    )
    if tokenizers is not None:
        return TextData(cfg, splits=splits, tokenizers=tokenizers, sampling=sampling, report=report)
    if "train" not in splits:
        raise DataError(
            "the corpus has no train split",
            details=[f"found      {', '.join(sorted(splits)) or 'nothing'}"],
        )
    made = _tokenizers(cfg, tokenizer_cfg, splits["train"], workdir=workdir, say=say)
    data = TextData(cfg, splits=splits, tokenizers=made, sampling=sampling, report=report)
    for split in ("train", "val"):
        if split in splits:
            data.tokenized(split)
    return data


def _tokenizers(
    cfg: DataConfig,
    tokenizer_cfg: TokenizerConfig,
    train: Source,
    *,
    workdir: Path | None,
    say: Report,
) -> Tokenizers:
    """The tokenizers of `workdir`, or of the cache, or trained now."""
    count = min(len(train), cfg.num_examples or len(train))
    settings = dataclasses.asdict(tokenizer_cfg)
    taken = tokenizer_cfg.kind == "run"
    for field in ("path", "target_path"):
        if taken:  # a run may move or go: what was taken from it stays
            settings[field] = bool(settings[field])
        elif settings[field]:
            settings[field] = digest_given(settings[field])
    learnt = tokenizer_cfg.kind not in ("byte", "given", "run")
    template = ChatTemplate.of(cfg) if cfg.source == "dialogue" else None
    marks = cfg.objective.marks if cfg.contiguous else None
    made_from = cache.digest_json(
        [
            settings,
            cfg.lowercase,
            [train.fingerprint, count] if learnt or cfg.labelled else None,
            *(["multiline"] if cfg.contiguous else []),
            *([marks] if marks is not None else []),
            *([dataclasses.asdict(template)] if template else []),
            *([cfg.targets] if cfg.labelled else []),
        ]
    )
    directory = None if workdir is None else Path(workdir) / "tokenizer"
    if directory is not None and (directory / TOKENIZER_JSON).exists():
        if read_record(directory)["made_from"] != made_from:
            raise DataError(
                f"the tokenizer in {directory} was made from another corpus or other settings",
                details=["take another --workdir, or the corpus and settings of that run"],
            )
        return load_tokenizers(directory)
    targets = functools.partial(_texts, train, count, "target")
    if taken:
        say(f"taking the tokenizer of {tokenizer_cfg.path}")
        vocabularies = take_vocabularies(tokenizer_cfg, lowercase=cfg.lowercase)
        made = wrap(vocabularies, cfg, target_texts=targets)
        if directory is not None:
            cache.build_once(
                directory, lambda target: save_tokenizers(made, target, made_from=made_from)
            )
        return made
    cached = cache.cache_directory(cfg.cache_dir) / "tokenizers" / made_from

    def build(target: Path) -> None:
        say(f"making the {tokenizer_cfg.kind} tokenizer")
        vocabularies = _vocabularies(cfg, tokenizer_cfg, train, count)
        made = wrap(vocabularies, cfg, target_texts=targets)
        save_tokenizers(made, target, made_from=made_from)

    cache.build_once(cached, build)
    try:
        tokenizers = load_tokenizers(cached)
    except DataError:
        say("the cached tokenizer is damaged; making it again")
        cache.discard(cached)
        tokenizers = load_tokenizers(cache.build_once(cached, build))
    if directory is not None:
        cache.build_once(
            directory, lambda target: shutil.copytree(cached, target, dirs_exist_ok=True) and None
        )
    return tokenizers


def _vocabularies(
    cfg: DataConfig, tokenizer_cfg: TokenizerConfig, train: Source, count: int
) -> Tokenizers:
    """What cuts text, learnt from the first `count` examples (or given)."""
    source_texts = functools.partial(_texts, train, count, "source")
    target_texts = functools.partial(_texts, train, count, "target")
    if cfg.contiguous:
        return build_line_tokenizer(tokenizer_cfg, texts=target_texts, lowercase=cfg.lowercase)
    if cfg.source == "dialogue":
        assert isinstance(train, DialogueSource)
        source_texts = functools.partial(train.vocabulary_texts, count)
    unread = cfg.source == "dialogue" or cfg.labelled
    return build_tokenizers(
        tokenizer_cfg,
        source_texts=source_texts,
        target_texts=(lambda: ()) if unread else target_texts,
        lowercase=cfg.lowercase,
    )


def _texts(train: Source, count: int, side: str) -> Iterator[str]:
    return (pair[side] for chunk in read_all(train, count) for pair in chunk)
