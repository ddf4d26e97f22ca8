"""A corpus ready for training and evaluation: batches by number, made ahead by a thread."""

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from seqgen.data import cache
from seqgen.data.batching import BatchInfo, Shape, assemble, batch_info, slice_rows
from seqgen.data.config import DataConfig
from seqgen.data.contiguous import ContiguousText, TextSize, cut, eval_windows, text_shape
from seqgen.data.control_tokens import ControlTokenizer
from seqgen.data.dialogue_tokenizer import DialogueTokenizer
from seqgen.data.documents import DocumentText
from seqgen.data.labels import LabelledRows
from seqgen.data.objectives import PretrainingText
from seqgen.data.sources import Pair, Source, make_pair
from seqgen.data.token_cache import TokenizedSplit, read_all, tokenize_split
from seqgen.data.tokenizer import utf8
from seqgen.data.tokenizer_store import Tokenizers
from seqgen.data.training_set import Assemble, TrainingSet, eval_plan, overlong, pair_ids
from seqgen.errors import DataError
from seqgen.types import UNK_ID, AnyBatch, nearest

Report = Callable[[str], None]


class TextData:
    """What `prepare` gives.

    Attributes:
      cfg: the data options.
      source_tokenizer, target_tokenizer: see `types.Tokenizer`; one object if joint.
      splits: {split: Source} of raw text.
      fingerprint: what training is bound to: 'corpus', 'source_tokenizer', 'target_tokenizer'.
      report: the data report, JSON values only; it grows as splits are tokenised and planned.
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
        self._training: Any = None  # TrainingSet, or one of text without sources
        # By split and lines.
        self._held_out: dict[tuple[str, int], DocumentText | PretrainingText] = {}
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
            "splits": {
                name: {"pairs": len(split), **getattr(split, "report", {})}
                for name, split in self.splits.items()
            },
        }

    def tokenized(self, split: str) -> TokenizedSplit:
        """The ids of a split, made or opened on first use.

        Raises:
          DataError: if there is no such split, or a text in it has not as many words as labels.
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
            if self._labelled is not None:
                used = ~ids.blank | (split != "train")
                texts, num_labels = (ids.source_ids, ids.source_offsets), ids.target_lens - 1
                self._labelled.check_counts(*texts, num_labels, used=used, split=split)
            self._tokenized[split] = ids
            self.report["splits"][split].update(
                {"lines_used": count, "tokens": len(ids.target_ids)}
                if self.cfg.contiguous
                else {
                    "pairs_used": count,
                    "source_tokens": int(ids.source_lens.sum()),
                    "target_tokens": int(ids.target_lens.sum()),
                    "blank": int(ids.blank.sum()),
                    "overlong": int(overlong(ids, self.cfg).sum()),
                }
            )
            if isinstance(self.source_tokenizer, DialogueTokenizer):
                truncated = self.source_tokenizer.count_truncated(ids.source_ids)
                self.report["splits"][split]["truncated_histories"] = truncated
        return self._tokenized[split]

    def train_batches(
        self,
        start: int = 0,
        *,
        rows_multiple: int = 1,
        seed: int = 0,
        shard_index: int = 0,
        shard_count: int = 1,
    ) -> Iterator[tuple[AnyBatch, BatchInfo]]:
        """Batches `start`, `start + 1`, ... without end, made ahead by a background thread.

        Batch i is a pure function of (corpus, config, rows_multiple, seed, i): every training
        example once an epoch, in an order of its own each epoch. Closing the iterator stops the
        thread; an error while making a batch is raised where that batch is asked for.

        Args:
          start: batches already consumed.
          rows_multiple: rows are a multiple of this. 1, 2, 4 and 8 give the same batches wherever
            `tokens_per_batch` has room for eight rows.
          seed: of the order (and of sampled segmentations).
          shard_index, shard_count: give only these rows of each batch, a contiguous slice; the
            digest and counts are then those of the slice.

        Raises:
          DataError: if no training example is left to use.
        """
        if not 0 <= shard_index < shard_count or rows_multiple % shard_count or start < 0:
            raise ValueError(
                f"rows_multiple={rows_multiple} must be a multiple of shard_count={shard_count}, "
                f"shard_index={shard_index} below it, start={start} not negative"
            )
        training, plan = self._planned(rows_multiple, seed)

        def make(index: int) -> tuple[AnyBatch, BatchInfo]:
            batch = training.batch(plan, index, seed=seed)
            if shard_count > 1:
                rows = len(batch.labels) // shard_count
                batch = slice_rows(batch, shard_index * rows, (shard_index + 1) * rows)
            return batch, batch_info(batch)

        return _made_ahead(make, start=start, depth=self.cfg.prefetch)

    def batch_shapes(self, rows_multiple: int = 1) -> list[Shape]:
        """Every shape that `train_batches` gives, for compilation ahead of time."""
        return self._planned(rows_multiple, 0)[1].shapes()

    def carry_rows(self, rows_multiple: int = 1) -> int:
        """Rows of every batch of streams, where the model's state goes on; 0 of other batches."""
        return self.batch_shapes(rows_multiple)[0].rows if self.cfg.streams else 0

    def batches_per_epoch(self, rows_multiple: int = 1) -> int:
        """Batches that hold every training example once."""
        return self._planned(rows_multiple, 0)[1].batches_per_epoch

    def eval_batches(
        self, split: str, *, max_examples: int = 0, rows_multiple: int = 1
    ) -> Iterator[AnyBatch]:
        """The first `max_examples` (0 = all) examples of a split once each, in few shapes.

        Pairs over the limits are cut to them; unused rows have weight 0. Of contiguous text, each
        token of the first lines is predicted once, or (objectives other than causal) each example
        is damaged as at every evaluation.
        """
        ids = self.tokenized(split)
        count = min(len(ids), max_examples or len(ids))
        if not count:
            return
        if self.cfg.running_text:
            shape = text_shape(self.cfg, rows_multiple=rows_multiple)
            text = ids.target_ids[: ids.target_offsets[count]]
            for windows in eval_windows(len(text), shape, streams=self.cfg.streams):
                yield cut(text, windows, length=shape.target_len)
            return
        if self.cfg.contiguous:
            key = (split, count)
            if key not in self._held_out:
                self._held_out[key] = self._text(ids, count=count, held_out=True)
            yield from self._held_out[key].eval_batches(rows_multiple)
            return
        plan = eval_plan(ids, self.cfg, count=count, rows_multiple=rows_multiple)
        for index in range(plan.batches_per_epoch):
            placed = plan.locate(index)
            pairs = [pair_ids(ids, int(i), self.cfg) for i in placed.examples]
            yield self._assemble(placed.shape, pairs, rows=placed.rows)

    def examples(self, split: str, max_examples: int = 0) -> list[Pair]:
        """Raw text of the first `max_examples` (0 = all) pairs of a split, in order.

        Lower-cased if the config says that the corpus is.

        Raises:
          DataError: if there is no such split.
        """
        source = self._source(split)
        count = min(len(source), max_examples or len(source))
        pairs = [pair for chunk in read_all(source, count) for pair in chunk]
        case = str.lower if self.cfg.lowercase else str
        # Of a dialogue, the names of the speakers stay as they are.
        source_case = str if self.cfg.source == "dialogue" else case
        target_case = str if self.cfg.labelled else case
        return [
            make_pair(
                source_case(p["source"]), [*map(target_case, p.get("references", [p["target"]]))]
            )
            for p in pairs
        ]

    def text_size(self, split: str, max_examples: int = 0) -> TextSize:
        """What `eval_batches` of contiguous text predicts.

        Raises:
          DataError: if there is no such split.
        """
        ids = self.tokenized(split)
        lines = [line["target"] for line in self.examples(split, max_examples)]
        tokens = ids.target_ids[: ids.target_offsets[len(lines)]]
        return TextSize(
            tokens=len(tokens),
            unknown_tokens=int((tokens == UNK_ID).sum()),
            characters=sum(map(len, lines)),
            bytes=sum(len(utf8(line)) for line in lines),
        )

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

    def _planned(self, rows_multiple: int, seed: int) -> tuple[Any, Any]:
        """The training examples, and their own kind of plan."""
        if self._training is None:
            ids = self.tokenized("train")
            sample = self._sample if self._sampling else None
            if not self.cfg.contiguous:
                self._training = TrainingSet(ids, self.cfg, sample=sample, assemble=self._assemble)
            elif self.cfg.running_text:
                self._training = ContiguousText(ids.target_ids, self.cfg)
            else:
                self._training = self._text(ids)
            self.report["splits"]["train"].update(self._training.counts)
        plan = self._training.plan(rows_multiple=rows_multiple, seed=seed)
        self.report["batches"] = {
            "per_epoch": plan.batches_per_epoch,
            "shapes": [list(shape) for shape in plan.shapes()],
            "pad_fraction": self._training.pad_fraction(plan),
        }
        return self._training, plan

    @functools.cached_property
    def _labelled(self) -> LabelledRows | None:
        if not self.cfg.labelled:
            return None
        return LabelledRows(self.source_tokenizer, several=self.cfg.targets == "tags")

    @property
    def _assemble(self) -> Assemble:
        return assemble if self._labelled is None else self._labelled.assemble

    def _text(
        self, ids: TokenizedSplit, *, count: int | None = None, held_out: bool = False
    ) -> DocumentText | PretrainingText:
        """Plain text in examples, of the first `count` lines."""
        if self.cfg.batching == "documents":
            return DocumentText(ids, self.cfg, count=count)
        tokenizer = self.target_tokenizer
        return PretrainingText(
            ids,
            self.cfg,
            tokenizer if isinstance(tokenizer, ControlTokenizer) else None,
            count=count,
            held_out=held_out,
        )

    def _sample(self, example: int, side: int, seed: int) -> list[int]:
        tokenizer = (self.source_tokenizer, self.target_tokenizer)[side]
        pair = self.splits["train"][example]
        return tokenizer.sample(pair["target"] if side else pair["source"], seed=seed)


def _made_ahead(
    make: Callable[[int], tuple[AnyBatch, BatchInfo]], *, start: int, depth: int
) -> Iterator[tuple[AnyBatch, BatchInfo]]:
    """make(start), make(start + 1), ..., up to `depth` of them made before they are asked for."""
    import grain  # a second to import, and wanted only here

    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=depth)
    batches = iter(grain.MapDataset.range(start, 2**62).map(make).to_iter_dataset(options))
    try:
        yield from batches
    finally:
        batches.close()


def corpus_fingerprint(splits: Mapping[str, Source], cfg: DataConfig) -> str:
    """Digest of what training sees of a corpus: the training pairs and how many of them."""
    if "train" not in splits:
        return ""
    return cache.digest_json([splits["train"].fingerprint, cfg.num_examples, cfg.lowercase])
