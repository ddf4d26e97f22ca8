"""What resume needs besides the arrays: the position in the data, the best score, patience."""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Any

from seqgen.training.config import higher_is_better
from seqgen.training.meter import BatchFacts


@dataclasses.dataclass
class HostRecord:
    """Facts of the host, stored beside the state in every checkpoint as JSON.

    Attributes:
      batches: micro-batches consumed; where the data goes on.
      batch_hash: chain of the digests of all these batches, so that a repeat is visible.
      tokens: real target tokens seen.
      evaluated_step: step of the last evaluation (-1 = none).
      evaluated_value: `best_metric` at that evaluation, if it was measured.
      best: {'metric', 'value', 'step'} of the best evaluation, or None.
      evals_without_best: evaluations since then; early stopping counts them.
      resumes: times the run was taken up again.
    """

    batches: int = 0
    batch_hash: str = ""
    tokens: int = 0
    evaluated_step: int = -1
    evaluated_value: float | None = None
    best: dict[str, Any] | None = None
    evals_without_best: int = 0
    resumes: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "HostRecord":
        """From a checkpoint; values that this version does not know are left out."""
        known = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})

    def resumed(self) -> "HostRecord":
        """The same, one resume later."""
        return dataclasses.replace(self, resumes=self.resumes + 1)

    def consume(self, batches: Sequence[BatchFacts]) -> None:
        """Count the micro-batches of one step."""
        for batch in batches:
            self.batches += 1
            self.tokens += batch.tokens
            chained = f"{self.batch_hash}{batch.digest}".encode()
            self.batch_hash = hashlib.sha256(chained).hexdigest()[:16]

    def judge(self, step: int, metric: str, value: float | None) -> bool:
        """Count one evaluation; True if it is the best so far. A missing value is never best."""
        self.evaluated_step = step
        finite = value is not None and value == value and abs(value) != float("inf")
        self.evaluated_value = value if finite else None
        if self.best is not None and self.best["metric"] != metric:
            self.best, self.evals_without_best = None, 0  # another ruler: start anew
        if value is not None and finite:
            sign = 1.0 if higher_is_better(metric) else -1.0
            if self.best is None or sign * value > sign * self.best["value"]:
                self.best = {"metric": metric, "value": value, "step": step}
                self.evals_without_best = 0
                return True
        self.evals_without_best += 1
        return False

    def score_at(self, step: int, metric: str) -> float | None:
        """What a checkpoint of `step` is ranked by: the evaluation, if made there, upwards."""
        if self.evaluated_step != step or self.evaluated_value is None:
            return None
        return self.evaluated_value if higher_is_better(metric) else -self.evaluated_value
