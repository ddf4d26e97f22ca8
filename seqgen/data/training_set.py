"""The training examples of a run: which are used, in which batches, with which segmentation."""

from collections.abc import Callable
from typing import Any

import numpy as np

from seqgen.data import order
from seqgen.data.batching import assemble
from seqgen.data.bucketing import BucketPlan, choose_buckets
from seqgen.data.config import DataConfig
from seqgen.data.packing import PackingPlan, choose_row
from seqgen.data.token_cache import TokenizedSplit
from seqgen.errors import DataError
from seqgen.types import Batch, MaskedBatch

SAMPLING_ROOM = 0.75  # a plan leaves room for this share of the sampled segmentations
_PROBES = 200
SAMPLING_TRIES = 4
MAX_EVAL_BUCKETS = 4

Plan = BucketPlan | PackingPlan
Sample = Callable[[int, int, int], list[int]]
Assemble = Callable[..., Batch | MaskedBatch]


def overlong(ids: TokenizedSplit, cfg: DataConfig) -> np.ndarray:
    """Bool [examples]: a side of the pair is over its limit."""
    return (ids.source_lens > cfg.max_source_len) | (ids.target_lens > cfg.max_target_len)


def limited_lens(ids: TokenizedSplit, cfg: DataConfig) -> tuple[np.ndarray, np.ndarray]:
    """Source and target lengths after cutting to the limits, EOS included."""
    return (
        np.minimum(ids.source_lens, cfg.max_source_len),
        np.minimum(ids.target_lens, cfg.max_target_len),
    )


def pair_ids(ids: TokenizedSplit, example: int, cfg: DataConfig) -> tuple[np.ndarray, np.ndarray]:
    """Ids of an example cut to the limits, without BOS and EOS."""
    source = ids.source_ids[ids.source_offsets[example] : ids.source_offsets[example + 1]]
    target = ids.target_ids[ids.target_offsets[example] : ids.target_offsets[example + 1]]
    return source[: cfg.max_source_len - 1], target[: cfg.max_target_len - 1]


class TrainingSet:
    """The examples that are left after the policies for blank and overlong pairs.

    Args:
      ids: the tokenised train split.
      cfg: its limits, policies and batch options.
      sample: (example, side 0 or 1, seed) -> ids of a sampled segmentation, or None.
      assemble: puts pairs of ids into a batch, as `batching.assemble` does.

    Attributes:
      counts: how many are used, dropped and truncated; drops add up to the split.

    Raises:
      DataError: if none is left.
    """

    def __init__(
        self,
        ids: TokenizedSplit,
        cfg: DataConfig,
        *,
        sample: Sample | None = None,
        assemble: Assemble = assemble,
    ):
        self._ids = ids
        self._assemble = assemble
        self._cfg = cfg
        self._sample = sample
        self._plans: dict[tuple[int, int], Plan] = {}
        too_long = overlong(ids, cfg) & ~ids.blank
        drop = cfg.overlong == "drop"
        self._examples = np.flatnonzero(~ids.blank & ~(too_long & drop))
        self.counts = {
            "used": len(self._examples),
            "dropped_blank": int(ids.blank.sum()),
            "dropped_overlong": int(too_long.sum()) if drop else 0,
            "truncated": 0 if drop else int(too_long.sum()),
        }
        if not len(self._examples):
            raise DataError(
                "no training pair is left to use",
                details=[
                    f"{self.counts['dropped_blank']} are blank, "
                    f"{self.counts['dropped_overlong']} are over data.max_source_len="
                    f"{cfg.max_source_len} or data.max_target_len={cfg.max_target_len}",
                ],
            )
        source_lens, target_lens = (lens[self._examples] for lens in limited_lens(ids, cfg))
        self._lens = source_lens, target_lens
        self._growth = (1.0, 1.0)
        if sample is not None:
            self._growth = self._probe(sample, 0), self._probe(sample, 1)
            self._lens = self._room(source_lens, 0), self._room(target_lens, 1)

    def plan(self, *, rows_multiple: int, seed: int) -> Plan:
        """The batches of every epoch."""
        key = rows_multiple, seed
        if key not in self._plans:
            cfg = self._cfg
            common: dict[str, Any] = {
                "source_lens": self._lens[0],
                "target_lens": self._lens[1],
                "examples": self._examples,
                "tokens_per_batch": cfg.tokens_per_batch,
                "rows_multiple": rows_multiple,
                "seed": seed,
            }
            if cfg.batching == "packing":
                row = choose_row(
                    *self._lens, packed_len=cfg.packed_len, multiple=cfg.length_multiple
                )
                self._plans[key] = PackingPlan(row=row, **common)
            else:
                buckets = choose_buckets(
                    *self._lens, num_buckets=cfg.num_buckets, multiple=cfg.length_multiple
                )
                self._plans[key] = BucketPlan(buckets=buckets, **common)
        return self._plans[key]

    def pad_fraction(self, plan: Plan) -> float:
        """Share of padding over an epoch (by the best segmentations if they are sampled)."""
        source_lens, target_lens = limited_lens(self._ids, self._cfg)
        real = source_lens[self._examples].sum() + target_lens[self._examples].sum()
        return round(1.0 - float(real) / plan.epoch_size, 4)

    def batch(self, plan: Plan, index: int, *, seed: int) -> Batch | MaskedBatch:
        """Batch `index`: a pure function of (seed, index)."""
        placed = plan.locate(index)
        if self._sample is None:
            pairs = [pair_ids(self._ids, int(i), self._cfg) for i in placed.examples]
        else:
            pairs = [self._sampled(int(i), seed=seed, epoch=placed.epoch) for i in placed.examples]
        return self._assemble(placed.shape, pairs, rows=placed.rows)

    def _sampled(self, example: int, *, seed: int, epoch: int) -> tuple[Any, Any]:
        """A segmentation of this epoch; the best one if none drawn keeps to the planned room."""
        assert self._sample is not None
        best = pair_ids(self._ids, example, self._cfg)
        chosen: list[Any] = list(best)
        for side in (0, 1):
            room = int(self._room(np.array([len(best[side]) + 1]), side)[0]) - 1
            for attempt in range(SAMPLING_TRIES):
                key = order.fold(seed, epoch, example, side, attempt)
                drawn = self._sample(example, side, key)
                if len(drawn) <= room:
                    chosen[side] = drawn
                    break
        return chosen[0], chosen[1]

    def _probe(self, sample: Sample, side: int) -> float:
        """By which factor sampled segmentations of a side are longer, seen on some examples."""
        picked = order.permutation(len(self._examples), 0, side)[:_PROBES]
        drawn = [len(sample(int(self._examples[i]), side, int(i))) + 1 for i in picked]
        return max(1.0, float(np.quantile(drawn / self._lens[side][picked], SAMPLING_ROOM)))

    def _room(self, lens: np.ndarray, side: int) -> np.ndarray:
        """Lengths that the plan sets aside for sampled segmentations of best lengths `lens`."""
        limit = (self._cfg.max_source_len, self._cfg.max_target_len)[side]
        return np.minimum(np.ceil(lens * self._growth[side]).astype(np.int64), limit)


def eval_plan(ids: TokenizedSplit, cfg: DataConfig, *, count: int, rows_multiple: int) -> Plan:
    """One epoch of the first `count` examples; the shapes depend on the whole split."""
    source_lens, target_lens = limited_lens(ids, cfg)
    buckets = choose_buckets(
        source_lens,
        target_lens,
        num_buckets=min(MAX_EVAL_BUCKETS, cfg.num_buckets),
        multiple=cfg.length_multiple,
    )
    return BucketPlan(
        source_lens=source_lens[:count],
        target_lens=target_lens[:count],
        examples=np.arange(count),
        buckets=buckets,
        tokens_per_batch=cfg.tokens_per_batch,
        rows_multiple=rows_multiple,
    )
