"""The training step: loss, gradients, finite check and update as one pure function.

Losses come as sums and are divided once by the total weight, so several micro-batches with unequal
token counts make exactly the update of the batch they are cut from. One micro-batch a step is one
fused program a batch shape. With several, a gradient program a shape adds into an accumulator and
one update program, the same for all shapes, spends it: `shapes + 1` compiles, however the shapes
are mixed.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from seqgen.nn.dropout import make_key
from seqgen.nn.parameters import Definition, overlay
from seqgen.training.carry import enter, leave
from seqgen.training.compilation import CompiledStep, CompileReport
from seqgen.training.config import OptimizerConfig, TrainConfig
from seqgen.training.loss import WEIGHT, further_predictions, make_carrying_loss
from seqgen.training.optimizer import learning_rate
from seqgen.training.parameter_groups import ParameterGroups
from seqgen.training.sharding import Layout
from seqgen.training.state import TrainState
from seqgen.types import AnyBatch, Array, Params, PyTree

Metrics = dict[str, Array]


def make_update(
    optimizer: optax.GradientTransformation,
    *,
    train_cfg: TrainConfig,
    optimizer_cfg: OptimizerConfig,
    groups: ParameterGroups,
) -> Callable[..., tuple[TrainState, Metrics]]:
    """`update(state, gradient sums, loss sums, carry=None)`: divide, clip, check, update.

    There are gradients of what `groups` selects. What is frozen stays as it is and counts for
    nothing, frozen layers of a stack too, whatever their gradients are.

    A step whose loss, gradient or update is not finite advances `step` and the counters, and leaves
    params, optimiser state, moving average and carry as they are, bit for bit. `carry`: after the
    batch, where `state.carry` is what the batch was entered with.

    What every leaf needs (the scale of the gradients, whether to go on) enters a branch as a
    number. Written in line, XLA:CPU would compute the norm over all leaves again inside the loop of
    each leaf, in programs ten times as long.
    """

    def spend(operand: tuple[Any, ...]) -> tuple[Any, ...]:
        scale, decay, grads, params, opt_state, ema = operand
        grads = jax.tree.map(lambda leaf: leaf * scale, grads)
        updates, after = optimizer.update(grads, opt_state, params)
        candidate = optax.apply_updates(params, updates)
        average = ema and jax.tree.map(lambda a, b: a + (1.0 - decay) * (b - a), ema, candidate)
        good = jnp.isfinite(jnp.sum(_squares(updates)))
        old, new = (params, opt_state, ema), (candidate, after, average)
        return good, lax.cond(good, lambda both: both[0], lambda both: both[1], (new, old))

    def hold(operand: tuple[Any, ...]) -> tuple[Any, ...]:
        return jnp.asarray(False), operand[3:]

    def update(state: TrainState, grads: Params, sums: dict[str, Array], carry: PyTree = None):
        weight = jnp.maximum(sums["weight"], 1e-30)
        loss = sums["loss"] / weight
        grads = groups.drop_frozen(grads)
        squares = _squares(grads)
        grad_norm = jnp.sqrt(jnp.sum(squares)) / weight
        clip = optimizer_cfg.clip_norm
        scale = (jnp.minimum(1.0, clip / grad_norm) if clip else 1.0) / weight
        done = state.step - state.counters["bad_steps"]  # updates made so far
        # The average starts fast, so that the random initial weights are soon forgotten.
        count = done.astype(jnp.float32)
        decay = jnp.minimum(train_cfg.ema_decay, (1.0 + count) / (10.0 + count))
        good, (params, opt_state, ema) = lax.cond(
            jnp.isfinite(loss) & jnp.isfinite(grad_norm),
            spend,
            hold,
            (scale, decay, grads, groups.select(state.params), state.opt_state, state.ema),
        )
        bad = 1 - good.astype(jnp.int32)
        counters = {
            "bad_steps": state.counters["bad_steps"] + bad,
            "bad_run": (state.counters["bad_run"] + 1) * bad,
        }
        state_after = TrainState(
            step=state.step + 1,
            params=overlay(state.params, params),
            opt_state=opt_state,
            key=state.key,
            ema=ema,
            counters=counters,
            carry=leave(good, carry, state.carry),
        )
        metrics = {
            "loss": loss,
            "nll": sums["nll"] / weight,
            "accuracy": sums["correct"] / weight,
            "weight": sums["weight"],
            "grad_norm": grad_norm,
            "learning_rate": learning_rate(optimizer_cfg, done, num_steps=train_cfg.num_steps),
            "bad": bad,
            **counters,
            "bad_leaf": jnp.argmax(~jnp.isfinite(squares)).astype(jnp.int32),
        }
        for name in further_predictions(sums):
            own = jnp.maximum(sums[f"{name}{WEIGHT}"], 1e-30)
            metrics[f"{name}_nll"] = sums[f"{name}_nll"] / own
            metrics[f"{name}_accuracy"] = sums[f"{name}_correct"] / own
        return state_after, metrics

    return update


def _squares(tree: PyTree) -> Array:
    """Sum of squares of each leaf, in the order of the leaves."""
    return jnp.stack([jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)])


def make_train_step(
    definition: Definition,
    optimizer: optax.GradientTransformation,
    *,
    train_cfg: TrainConfig,
    optimizer_cfg: OptimizerConfig,
    layout: Layout,
    compute_dtype: str,
    abstract: TrainState,
    groups: ParameterGroups,
    wrap: Callable[[str], Any] = contextlib.nullcontext,
    report: Callable[[CompileReport], None] = lambda report: None,
) -> Callable[[TrainState, Sequence[AnyBatch]], tuple[TrainState, Metrics]]:
    """`step(state, micro_batches) -> (state, metrics)`; the state is donated.

    Metrics are device scalars: means 'loss', 'nll', 'accuracy' over real tokens, their 'weight',
    'grad_norm', 'learning_rate', 'bad', the counters 'bad_steps' and 'bad_run', and 'bad_leaf'
    (index of the first trained parameter whose gradient is not finite; meaningless in a good step);
    of each further prediction the means 'NAME_nll' and 'NAME_accuracy'.

    Args:
      definition: the model.
      optimizer: from `build_optimizer`.
      train_cfg: loss options, moving average, number of steps.
      optimizer_cfg: for the learning rate in the metrics.
      layout: where state and batches live.
      compute_dtype: 'float32' or 'bfloat16'.
      abstract: shapes and shardings of the state (`abstract_state`).
      groups: which parameters are trained.
      wrap: `wrap(label)` is a context manager that stands around every compilation.
      report: receives a CompileReport after every compilation.
    """
    loss = make_carrying_loss(definition, train_cfg, compute_dtype=compute_dtype)

    def gradient(params: Params, batch: AnyBatch, key: Array, carry: PyTree) -> Any:
        """Of what is trained alone; also `(sums, carry)`."""

        def of_trained(part: Params) -> Any:
            return loss(overlay(params, part), batch, key, carry)

        return jax.grad(of_trained, has_aux=True)(groups.select(params))

    update = make_update(optimizer, train_cfg=train_cfg, optimizer_cfg=optimizer_cfg, groups=groups)
    places = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    build = functools.partial(CompiledStep, wrap=wrap, report=report, layout=layout)

    def fused(state: TrainState, batch: AnyBatch) -> tuple[TrainState, Metrics]:
        key = make_key(state.key, step=state.step, micro_batch=0)
        state = dataclasses.replace(state, carry=enter(state.carry, batch))
        grads, (sums, carry) = gradient(state.params, batch, key, state.carry)
        return update(state, grads, sums, carry)

    def add(total: PyTree, params: Params, key: Array, step: Array, index: Array, batch: AnyBatch):
        key = make_key(key, step=step, micro_batch=index)
        grads, (sums, _) = gradient(params, batch, key, None)
        return jax.tree.map(jnp.add, total, (grads, sums))

    def apply(state: TrainState, total: PyTree) -> tuple[TrainState, Metrics, PyTree]:
        return *update(state, *total), jax.tree.map(jnp.zeros_like, total)

    if train_cfg.accumulation_steps == 1:
        program = build(
            fused,
            name="train step",
            in_shardings=(places, layout.rows),
            out_shardings=(places, layout.replicated),
            donate_argnums=(0,),
        )

        def single(state: TrainState, batches: Sequence[AnyBatch]) -> tuple[TrainState, Metrics]:
            (batch,) = batches
            batch = jax.device_put(batch, layout.rows)
            return program(state, batch, shape_of=batch)

        return single

    assert abstract.carry is None, "the config's check sees to it"
    whole = layout.replicated
    total_places = (groups.select(places.params), whole)
    accumulate = build(
        add,
        name="gradients",
        in_shardings=(total_places, places.params, whole, whole, whole, layout.rows),
        out_shardings=total_places,
        donate_argnums=(0,),
    )
    finish = build(
        apply,
        name="update",
        in_shardings=(places, total_places),
        out_shardings=(places, whole, total_places),
        donate_argnums=(0, 1),
    )
    empty: list[PyTree] = []

    def zeros(batch: AnyBatch) -> PyTree:
        """Sums of nothing; which there are, the model's predictions say."""
        with layout.activations():
            sums, _ = jax.eval_shape(loss, abstract.params, batch, None, None)[1]
        trained = groups.select(abstract.params)
        blank = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), (trained, sums))
        return jax.device_put(blank, total_places)

    def several(state: TrainState, batches: Sequence[AnyBatch]) -> tuple[TrainState, Metrics]:
        total = empty.pop() if empty else zeros(batches[0])
        for index, batch in enumerate(batches):
            batch = jax.device_put(batch, layout.rows)
            number = jax.device_put(np.int32(index), whole)
            arguments = (total, state.params, state.key, state.step, number, batch)
            total = accumulate(*arguments, shape_of=batch)
        state, metrics, total = finish(state, total, shape_of=())
        empty.append(total)
        return state, metrics

    return several
