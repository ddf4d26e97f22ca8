"""What a step minimises and what is measured on the way, as sums over a batch."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from seqgen.losses import vocabulary_loss
from seqgen.metrics import WeightedMean
from seqgen.models.base import Prediction
from seqgen.nn.parameters import Definition
from seqgen.training.carry import abstract_carry, enter
from seqgen.training.config import TrainConfig
from seqgen.training.sharding import Layout
from seqgen.types import AnyBatch, Array, Params, PyTree

LossFunction = Callable[..., tuple[Array, Any]]
WEIGHT = "_weight"  # ends the name of the weight of a prediction beside that of the tokens


def make_loss(
    definition: Definition, train_cfg: TrainConfig, *, compute_dtype: str
) -> LossFunction:
    """`loss(params, batch, key) -> (objective sum, {'loss', 'nll', 'correct', 'weight'} sums)`.

    `key=None` is evaluation: no dropout, label smoothing, z-loss, coverage loss or scheduled
    sampling. Of a model that predicts more than tokens (`Trainable`), the objective is the sum of
    all losses, and there are 'NAME_nll', 'NAME_correct' and 'NAME_weight' of each further one.
    """
    carrying = make_carrying_loss(definition, train_cfg, compute_dtype=compute_dtype)

    def loss(params: Params, batch: AnyBatch, key: Any) -> tuple[Array, dict[str, Array]]:
        total, (sums, _) = carrying(params, batch, key, None)
        return total, sums

    return loss


def make_carrying_loss(
    definition: Definition, train_cfg: TrainConfig, *, compute_dtype: str
) -> LossFunction:
    """`loss(params, batch, key, carry) -> (objective sum, (sums, carry after the batch))`.

    The sums are those of `make_loss`; with a carry of None the batch stands for itself.
    """

    def loss(params: Params, batch: AnyBatch, key: Any, carry: PyTree):
        found, after = predictions(definition.bind(params), batch, key, carry)
        sums = {
            name: vocabulary_loss(
                prediction.hidden,
                prediction.kernel,
                prediction.bias,
                prediction.labels,
                prediction.weights,
                mixture=prediction.mixture,
                label_smoothing=0.0 if key is None else train_cfg.label_smoothing,
                z_loss=0.0 if key is None else train_cfg.z_loss,
                compute_dtype=compute_dtype,
                chunk_tokens=train_cfg.loss_chunk_tokens or prediction.labels.size,
            )
            for name, prediction in found.items()
        }
        tokens, *others = sums
        total = sum((sums[name].loss for name in others), sums[tokens].loss)
        coverage = found[tokens].coverage
        if coverage is not None and key is not None:
            total += train_cfg.coverage_weight * (coverage * found[tokens].weights).sum()
        measured = {"loss": total}
        for name, part in sums.items():
            prefix = "" if name == tokens else f"{name}_"
            measured[f"{prefix}nll"] = part.nll
            measured[f"{prefix}correct"] = part.correct
            measured[f"{prefix}weight"] = part.weight
        return total, (measured, after)

    def predictions(
        model: Any, batch: Any, key: Any, carry: PyTree
    ) -> tuple[dict[str, Prediction], PyTree]:
        if hasattr(model, "predictions"):
            return model.predictions(batch, key=key), None
        options: dict[str, Any] = {}
        if key is not None and train_cfg.teacher_forcing_rate < 1.0:
            options["teacher_forcing_rate"] = train_cfg.teacher_forcing_rate
        if carry is None:
            hidden, after = model(batch, key=key, **options), None
        else:
            hidden, after = model.read_on(batch, carry, key=key, **options)
        kernel, bias = model.output_kernel()
        return {"tokens": Prediction(hidden, kernel, bias, batch.labels, batch.weights)}, after

    return loss


def further_predictions(sums: Iterable[str]) -> list[str]:
    """Names of what is predicted beside tokens, read off those of the sums of `make_loss`."""
    return [name.removesuffix(WEIGHT) for name in sums if name.endswith(WEIGHT)]


def make_eval_step(
    definition: Definition,
    *,
    train_cfg: TrainConfig,
    layout: Layout,
    compute_dtype: str,
    streams: bool = False,
) -> Callable[[Params, AnyBatch], dict[str, WeightedMean]]:
    """`evaluate(params, batch)`: 'loss' (= nll, in nats) and 'accuracy' over real tokens.

    Of each further prediction also 'NAME_loss' and 'NAME_accuracy'. With `streams`, the model's
    state goes on from call to call until a batch begins at position 0: batches of equal rows come
    in order, from the first.
    """
    loss = make_carrying_loss(definition, train_cfg, compute_dtype=compute_dtype)

    @jax.jit
    def evaluate(params: Params, batch: AnyBatch, carry: PyTree):
        with layout.activations():
            _, (sums, after) = loss(params, batch, None, enter(carry, batch))
        values = {
            "loss": WeightedMean(sums["nll"], sums["weight"]),
            "accuracy": WeightedMean(sums["correct"], sums["weight"]),
        }
        for name in further_predictions(sums):
            weight = sums[f"{name}{WEIGHT}"]
            values[f"{name}_loss"] = WeightedMean(sums[f"{name}_nll"], weight)
            values[f"{name}_accuracy"] = WeightedMean(sums[f"{name}_correct"], weight)
        return values, after

    carry: PyTree = None

    def in_turn(params: Params, batch: AnyBatch) -> dict[str, WeightedMean]:
        nonlocal carry
        if streams and carry is None:
            shapes = abstract_carry(definition, len(batch.labels))
            carry = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
        values, carry = evaluate(params, batch, carry)
        return values

    return in_turn
