"""Learning curves read off at equal tokens, equal FLOPs and equal seconds.

One training a model, task and seed gives one curve; a budget on any axis is a place on it. So no
model is trained again for another budget, and none is cut short in its schedule: the learning rate
falls with the inverse square root of the step, whatever the end.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

AXES = {"tokens": "target tokens", "flops": "model FLOPs", "seconds": "training seconds"}
SHARES = (0.25, 0.5, 1.0)  # of the budget that every curve reaches

Point = Mapping[str, float]


def make_curve(
    rows: Sequence[Mapping[str, Any]],
    *,
    score: str,
    flops_per_token: float,
    step_seconds: float,
) -> list[dict[str, float]]:
    """The evaluations of a run as points of a curve.

    Args:
      rows: of metrics.jsonl.
      score: name of the score, without 'eval/'.
      flops_per_token: of training, a real target token.
      step_seconds: the pace of the training.

    Returns:
      Points {'step', 'tokens', 'flops', 'seconds', 'loss' (nats a token), 'score'}. Seconds are
      those of the steps alone, at the training's pace.
    """
    points = []
    for row in rows:
        if row.get("eval/loss") is not None and "tokens_seen" in row:
            points.append(
                {
                    "step": row["step"],
                    "tokens": row["tokens_seen"],
                    "flops": row["tokens_seen"] * flops_per_token,
                    "seconds": round(row["step"] * step_seconds, 6),
                    "loss": row["eval/loss"],
                    "score": row.get(f"eval/{score}"),
                }
            )
    return points


def read_at(curve: Sequence[Point], axis: str, budget: float, value: str) -> float | None:
    """`value` where the curve has spent `budget`, on the line between the points around it.

    None before the first point and beyond the last one: nothing is extrapolated.

    Args:
      curve: points in the order of training.
      axis: 'step', 'tokens', 'flops' or 'seconds'.
      budget: on that axis.
      value: 'loss' or 'score'.
    """
    before = None
    for point in curve:
        if point[axis] == budget:
            return point[value]
        if point[axis] > budget:
            if before is None or before[value] is None or point[value] is None:
                return None
            share = (budget - before[axis]) / (point[axis] - before[axis])
            return before[value] + share * (point[value] - before[value])
        before = point
    return None


def lowest_loss(curve: Sequence[Point], axis: str, budget: float) -> float | None:
    """The least loss up to `budget`, as one who keeps the best checkpoint has it; see `read_at`."""
    last = read_at(curve, axis, budget, "loss")
    if last is None:
        return None
    return min([last, *(point["loss"] for point in curve if point[axis] <= budget)])


def common_budget(curves: Sequence[Sequence[Point]], axis: str) -> float:
    """The most that every curve has spent on `axis`; 0 if one has no point."""
    return min((curve[-1][axis] if curve else 0.0 for curve in curves), default=0.0)


def at_equal(
    curves: Mapping[str, Sequence[Sequence[Point]]], axis: str, budget: float, value: str
) -> dict[str, dict[str, float] | None]:
    """Each model's `value` at one budget: {'min', 'median', 'max'} over its seeds, or None.

    Args:
      curves: by model, one a seed.
      axis, budget, value: see `read_at`.
    """
    table: dict[str, dict[str, float] | None] = {}
    for model, seeds in curves.items():
        found = [read_at(curve, axis, budget, value) for curve in seeds]
        values = [number for number in found if number is not None]
        table[model] = (
            {"min": min(values), "median": statistics.median(values), "max": max(values)}
            if values and len(values) == len(found)
            else None
        )
    return table
