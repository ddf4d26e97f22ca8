"""From a config to batches: the corpus opened, tokenised and planned, and batches made ahead."""

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from seqgen.data import cache, order
from seqgen.data.batching import BatchInfo, Shape, batch_info, slice_rows
from seqgen.data.bucketing import BucketPlan, assemble, choose_buckets
from seqgen.data.config import DataConfig, TokenizerConfig
from seqgen.data.packing import PackingPlan, assemble_packed, choose_row
from seqgen.data.sources import Source, open_splits
from seqgen.data.token_cache import TokenizedSplit, read_all, tokenize_split
from seqgen.data.tokenizer import (
    TOKENIZER_JSON,
    Tokenizers,
    build_tokenizers,
    load_tokenizers,
    read_record,
    save_tokenizers,
)
from seqgen.errors import DataError
from seqgen.types import Batch, nearest

MAX_EVAL_BUCKETS = 4
SAMPLING_MARGIN = 1.25  # room that a plan leaves for segmentations longer than the best
_SAMPLING_TRIES = 4

Report = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class TrainingSet:
    """The training examples that are used, with the lengths that plans go by."""

    examples: np.ndarray
    source_lens: np.ndarray
    target_lens: np.ndarray
    counts: dict[str, int]


class TextData:
    """A corpus ready for training and evaluation. Made by `prepare`.

    Attributes:
      source_tokenizer, target_tokenizer: see `types.Tokenizer`.
      splits: {split: Source} of raw text.
      fingerprint: what training is bound to: 'corpus', 'source_tokenizer', 'target_tokenizer'.
      report: the data report, JSON values only; grows as splits are tokenised.
    """

    def __init__(
        self,
        cfg: DataConfig,
        *,
        splits: Mapping[str, Source],
        tokenizers: Tokenizers,
        sampling: bool = False,
        report: Report | None = None,
    ):
        self.cfg = cfg
        self.splits = dict(splits)
        self.tokenizers = tokenizers
        self.source_tokenizer = tokenizers.source
        self.target_tokenizer = tokenizers.target
        self._sampling = sampling
        self._say = report or (lambda message: None)
        self._tokenized: dict[str, TokenizedSplit] = {}
        self._training: TrainingSet | None = None
        self._plans: dict[tuple[int, int], BucketPlan | PackingPlan] = {}
        self.fingerprint = {
            "corpus": corpus_fingerprint(self.splits, cfg),
            "source_tokenizer": tokenizers.source.fingerprint,
            "target_tokenizer": tokenizers.target.fingerprint,
        }
        self.report: dict[str, Any] = {
            "fingerprint": self.fingerprint,
            "joint_vocabulary": tokenizers.joint,
            "source_vocab_size": tokenizers.source.vocab_size,
            "target_vocab_size": tokenizers.target.vocab_size,
            "splits": {name: {"pairs": len(split)} for name, split in self.splits.items()},
        }

    def tokenized(self, split: str) -> TokenizedSplit:
        """The ids of a split, made or opened on first use.

        Raises:
          DataError: if there is no such split.
        """
        if split not in self._tokenized:
            source = self._source(split)
            count = len(source)
            if split == "train" and self.cfg.num_examples:
                count = min(count, self.cfg.num_examples)
            ids = tokenize_split(
                source,
                self.tokenizers,
                num_examples=count,
                cache_dir=self.cfg.cache_dir,
                report=self._say,
            )
            self._tokenized[split] = ids
            self.report["splits"].setdefault(split, {}).update(
                pairs_used=count,
                source_tokens=int(ids.source_lens.sum()),
                target_tokens=int(ids.target_lens.sum()),
                blank=int(ids.blank.sum()),
                overlong=int(self._overlong(ids).sum()),
            )
        return self._tokenized[split]

    def train_batches(
        self,
        start: int = 0,
        *,
        rows_multiple: int = 1,
        seed: int = 0,
        shard_index: int = 0,
        shard_count: int = 1,
    ) -> Iterator[tuple[Batch, BatchInfo]]:
        """Batches `start`, `start + 1`, ... without end, made ahead by a background thread.

        Batch i is a pure function of (corpus, config, rows_multiple, seed, i): every training
        example once an epoch, in an order of its own each epoch.

        Args:
          start: batches already consumed.
          rows_multiple: rows are a multiple of this.
          seed: of the order (and of sampled segmentations).
          shard_index, shard_count: give only these rows of each batch, a contiguous slice.

        Raises:
          DataError: if no training example is left to use.
        """
        import grain  # a second to import, wanted only here

        if not 0 <= shard_index < shard_count or rows_multiple % shard_count:
            raise ValueError(
                f"rows_multiple={rows_multiple} must be a multiple of shard_count={shard_count}, "
                f"and shard_index={shard_index} below it"
            )
        plan = self._plan(rows_multiple, seed)

        def make(index: int) -> tuple[Batch, BatchInfo]:
            batch = self._train_batch(plan, index, seed=seed)
            if shard_count > 1:
                rows = len(batch.labels) // shard_count
                batch = slice_rows(batch, shard_index * rows, (shard_index + 1) * rows)
            return batch, batch_info(batch)

        options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=self.cfg.prefetch)
        batches = iter(grain.MapDataset.range(start, 2**62).map(make).to_iter_dataset(options))
        try:
            yield from batches
        finally:
            batches.close()

    def batch_shapes(self, rows_multiple: int = 1) -> list[Shape]:
        """Every shape that `train_batches` gives, for compilation ahead of time."""
        return self._plan(rows_multiple, 0).shapes()

    def batches_per_epoch(self, rows_multiple: int = 1) -> int:
        """Batches that hold every training example once."""
        return self._plan(rows_multiple, 0).batches_per_epoch

    def eval_batches(
        self, split: str, *, max_examples: int = 0, rows_multiple: int = 1
    ) -> Iterator[Batch]:
        """The first `max_examples` (0 = all) examples of a split once each, in few shapes.

        Pairs over the limit are cut to it; unused rows have weight 0.
        """
        ids = self.tokenized(split)
        count = min(len(ids), max_examples or len(ids))
        if not count:
            return
        source_lens, target_lens = self._limited(ids)
        buckets = choose_buckets(
            source_lens,
            target_lens,
            num_buckets=min(MAX_EVAL_BUCKETS, self.cfg.num_buckets),
            multiple=self.cfg.length_multiple,
        )
        plan = BucketPlan(
            source_lens=source_lens[:count],
            target_lens=target_lens[:count],
            examples=np.arange(count),
            buckets=buckets,
            tokens_per_batch=self.cfg.tokens_per_batch,
            rows_multiple=rows_multiple,
        )
        for index in range(plan.batches_per_epoch):
            _, shape, examples = plan.locate(index)
            yield assemble(shape, [self._pair(ids, int(i)) for i in examples])

    def examples(self, split: str, max_examples: int = 0) -> list[dict[str, str]]:
        """Raw text of the first `max_examples` (0 = all) pairs of a split, in order."""
        source = self._source(split)
        count = min(len(source), max_examples or len(source))
        pairs = [dict(pair) for chunk in read_all(source, count) for pair in chunk]
        if self.cfg.lowercase:
            return [{side: text.lower() for side, text in pair.items()} for pair in pairs]
        return pairs

    def _source(self, split: str) -> Source:
        if split not in self.splits:
            guess = nearest(split, self.splits)
            raise DataError(
                f"the corpus has no split {split!r}",
                details=[
                    *([f"did you mean   {guess}"] if guess else []),
                    f"it has         {', '.join(sorted(self.splits))}",
                ],
            )
        return self.splits[split]

    def _overlong(self, ids: TokenizedSplit) -> np.ndarray:
        return (ids.source_lens > self.cfg.max_source_len) | (
            ids.target_lens > self.cfg.max_target_len
        )

    def _limited(self, ids: TokenizedSplit) -> tuple[np.ndarray, np.ndarray]:
        return (
            np.minimum(ids.source_lens, self.cfg.max_source_len),
            np.minimum(ids.target_lens, self.cfg.max_target_len),
        )

    def _training_set(self) -> TrainingSet:
        if self._training is None:
            ids = self.tokenized("train")
            overlong = self._overlong(ids) & ~ids.blank
            kept = ~ids.blank
            if self.cfg.overlong == "drop":
                kept &= ~overlong
            examples = np.flatnonzero(kept)
            counts = {
                "used": len(examples),
                "dropped_blank": int(ids.blank.sum()),
                "dropped_overlong": int(overlong.sum()) if self.cfg.overlong == "drop" else 0,
                "truncated": int(overlong.sum()) if self.cfg.overlong == "truncate" else 0,
            }
            self.report["splits"]["train"].update(counts)
            if not len(examples):
                raise DataError(
                    "no training pair is left to use",
                    details=[
                        f"{counts['dropped_blank']} are blank, "
                        f"{counts['dropped_overlong']} are over the length limits",
                    ],
                )
            source_lens, target_lens = (lens[examples] for lens in self._limited(ids))
            if self._sampling:
                limits = self.cfg.max_source_len, self.cfg.max_target_len
                source_lens, target_lens = (
                    np.minimum(np.ceil(lens * SAMPLING_MARGIN).astype(np.int64) + 1, limit)
                    for lens, limit in zip((source_lens, target_lens), limits, strict=True)
                )
            self._training = TrainingSet(examples, source_lens, target_lens, counts)
        return self._training

    def _plan(self, rows_multiple: int, seed: int) -> BucketPlan | PackingPlan:
        key = rows_multiple, seed
        if key not in self._plans:
            training = self._training_set()
            lengths = training.source_lens, training.target_lens
            common: dict[str, Any] = {
                "source_lens": lengths[0],
                "target_lens": lengths[1],
                "examples": training.examples,
                "tokens_per_batch": self.cfg.tokens_per_batch,
                "rows_multiple": rows_multiple,
                "seed": seed,
            }
            plan: BucketPlan | PackingPlan
            if self.cfg.batching == "packing":
                row = choose_row(*lengths, packed_len=self.cfg.packed_len)
                plan = PackingPlan(row=row, **common)
            else:
                buckets = choose_buckets(
                    *lengths,
                    num_buckets=self.cfg.num_buckets,
                    multiple=self.cfg.length_multiple,
                )
                plan = BucketPlan(buckets=buckets, **common)
            self._plans[key] = plan
            self.report["batches"] = {
                "per_epoch": plan.batches_per_epoch,
                "shapes": [list(shape) for shape in plan.shapes()],
                "pad_fraction": self._pad_fraction(plan),
            }
        return self._plans[key]

    def _pad_fraction(self, plan: BucketPlan | PackingPlan) -> float:
        """Share of padding over an epoch (by planned lengths)."""
        training = self._training_set()
        real = int(training.source_lens.sum() + training.target_lens.sum())
        size = 0
        for index in range(plan.batches_per_epoch):
            _, shape, _ = plan.locate(index)
            size += shape.rows * (shape.source_len + shape.target_len)
        return round(1.0 - real / size, 4)

    def _pair(self, ids: TokenizedSplit, example: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids of an example, cut to the limits (EOS not included)."""
        source = ids.source_ids[ids.source_offsets[example] : ids.source_offsets[example + 1]]
        target = ids.target_ids[ids.target_offsets[example] : ids.target_offsets[example + 1]]
        return source[: self.cfg.max_source_len - 1], target[: self.cfg.max_target_len - 1]

    def _train_batch(self, plan: BucketPlan | PackingPlan, index: int, *, seed: int) -> Batch:
        ids = self.tokenized("train")
        epoch, shape, where = plan.locate(index)

        def pair(example: int) -> tuple[Any, Any]:
            if self._sampling:
                return self._sampled(ids, example, seed=seed, epoch=epoch)
            return self._pair(ids, example)

        if isinstance(plan, PackingPlan):
            rows = [[pair(int(example)) for example in row] for row in where]
            return assemble_packed(shape, rows)
        return assemble(shape, [pair(int(example)) for example in where])

    def _sampled(
        self, ids: TokenizedSplit, example: int, *, seed: int, epoch: int
    ) -> tuple[Any, Any]:
        """A segmentation of this epoch; the best one if no drawn one keeps to the planned room."""
        text = self.splits["train"][example]
        best = self._pair(ids, example)
        limits = self.cfg.max_source_len - 1, self.cfg.max_target_len - 1
        tokenizers = self.source_tokenizer, self.target_tokenizer
        chosen = []
        for side, name in enumerate(("source", "target")):
            room = min(int(np.ceil((len(best[side]) + 1) * SAMPLING_MARGIN)), limits[side])
            drawn: Any = best[side]
            for attempt in range(_SAMPLING_TRIES):
                key = order.fold(seed, epoch, example, side, attempt)
                sampled = tokenizers[side].sample(text[name], seed=key)
                if len(sampled) <= room:
                    drawn = sampled
                    break
            chosen.append(drawn)
        return chosen[0], chosen[1]


def corpus_fingerprint(splits: Mapping[str, Source], cfg: DataConfig) -> str:
    """Digest of what training sees of a corpus: the training pairs and how many of them."""
    if "train" not in splits:
        return ""
    return cache.digest_json([splits["train"].fingerprint, cfg.num_examples, cfg.lowercase])


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
    for field in ("path", "target_path"):
        if settings[field] and Path(settings[field]).is_file():
            settings[field] = cache.digest_file(Path(settings[field]))
    learnt = tokenizer_cfg.kind not in ("byte", "given")
    made_from = cache.digest_json(
        [settings, cfg.lowercase, [train.fingerprint, count] if learnt else None]
    )
    directory = None if workdir is None else Path(workdir) / "tokenizer"
    if directory is not None and (directory / TOKENIZER_JSON).exists():
        if read_record(directory)["made_from"] != made_from:
            raise DataError(
                f"the tokenizer in {directory} was made from another corpus or other settings",
                details=["take another --workdir, or the corpus and settings of that run"],
            )
        return load_tokenizers(directory)
    cached = cache.cache_directory(cfg.cache_dir) / "tokenizers" / made_from

    def build(target: Path) -> None:
        say(f"making the {tokenizer_cfg.kind} tokenizer")

        def texts(side: str) -> Callable[[], Iterator[str]]:
            return lambda: (pair[side] for chunk in read_all(train, count) for pair in chunk)

        made = build_tokenizers(
            tokenizer_cfg,
            source_texts=texts("source"),
            target_texts=texts("target"),
            lowercase=cfg.lowercase,
        )
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
