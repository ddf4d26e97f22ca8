"""The training state: one pytree of plain dicts, everything a step reads and changes."""

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from seqgen.nn.parameters import Definition
from seqgen.training.carry import abstract_carry
from seqgen.training.optimizer import path_name
from seqgen.training.parameter_groups import ParameterGroups
from seqgen.training.sharding import Layout, state_shardings
from seqgen.types import Array, Params, PyTree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """What a step takes and gives.

    Attributes:
      step: int32, steps done, bad ones too: it keeps key, data and log aligned.
      params: nested dicts of float32 arrays.
      opt_state: nested dicts of the optimiser.
      key: uint32 scalar made from the seed; dropout of a step is a hash of it, the step and the
        micro-batch (`nn.dropout.make_key`).
      ema: moving average of the trained `params`, or None.
      counters: {'bad_steps': int32 in all, 'bad_run': int32 in a row just now}.
      carry: what a recurrent language model carries from batch to batch (`training.carry`): nested
        dicts of [rows, ...], or None.
    """

    step: Array
    params: Params
    opt_state: PyTree
    key: Array
    ema: Params | None
    counters: dict[str, Array]
    carry: PyTree = None


def seed_key(seed: int) -> np.ndarray:
    """The uint32 scalar that dropout is keyed by; never 0 for small seeds, unlike the seed."""
    return np.asarray(np.random.SeedSequence(seed).generate_state(1)[0], np.uint32)


def fresh_state(
    params: Params,
    optimizer: optax.GradientTransformation,
    *,
    groups: ParameterGroups,
    seed: int,
    use_ema: bool,
    carry: PyTree,
) -> TrainState:
    """The state before the first step with fresh parameters; `carry` gives shapes; pure."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(groups.select(params)),
        key=jnp.asarray(seed_key(seed)),
        ema=jax.tree.map(jnp.array, groups.select(params)) if use_ema else None,
        counters={
            "bad_steps": jnp.zeros((), jnp.int32),
            "bad_run": jnp.zeros((), jnp.int32),
        },
        carry=jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), carry),
    )


def abstract_state(
    definition: Definition,
    optimizer: optax.GradientTransformation,
    *,
    groups: ParameterGroups,
    layout: Layout,
    use_ema: bool = False,
    carry_rows: int = 0,
) -> TrainState:
    """The state as `jax.ShapeDtypeStruct`s that carry their shardings.

    `carry_rows`: rows of a batch, where the model's state goes on from batch to batch.
    """
    carry = abstract_carry(definition, carry_rows) if carry_rows else None
    options: dict[str, Any] = {"groups": groups, "use_ema": use_ema, "carry": carry}
    shapes = jax.eval_shape(
        lambda params: fresh_state(params, optimizer, seed=0, **options), definition.abstract
    )
    shardings = state_shardings(shapes, definition.axes, layout.mesh, layout.rules)
    # Rows stay with the devices that read them.
    rows = jax.tree.map(lambda _: layout.rows, carry)
    shardings = dataclasses.replace(shardings, carry=rows)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings,
    )


def init_state(
    definition: Definition,
    optimizer: optax.GradientTransformation,
    *,
    groups: ParameterGroups,
    abstract: TrainState,
    seed: int,
    begin: Callable[[Params], Params] | None = None,
) -> TrainState:
    """The state before the first step, each leaf created where `abstract` says.

    `begin`: gives the parameters to start from, made of the random ones; JAX's arrays among them
    are given away.
    """
    options: dict[str, Any] = {"use_ema": abstract.ema is not None, "carry": abstract.carry}

    def draw() -> Params:
        return definition.init(jax.random.key(seed))

    def state(params: Params) -> TrainState:
        return fresh_state(params, optimizer, groups=groups, seed=seed, **options)

    places = jax.tree.map(lambda leaf: leaf.sharding, abstract)
    if begin is None:
        return jax.jit(lambda: state(draw()), out_shardings=places)()
    params = begin(jax.jit(draw, out_shardings=places.params)())
    params = jax.device_put(params, places.params)
    return jax.jit(state, out_shardings=places, donate_argnums=0)(params)


def flatten(tree: PyTree) -> dict[str, Any]:
    """Leaves by their path, such as 'params/decoder/layers/0/kernel'."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {path_name(path): leaf for path, leaf in leaves}


def snapshot(tree: PyTree) -> PyTree:
    """A copy in host memory that no later (donating) step can overwrite."""
    return jax.tree.map(lambda leaf: np.array(leaf, copy=True), jax.device_get(tree))


def state_digest(state: PyTree) -> str:
    """SHA-256 over paths, types, shapes and bytes of all leaves: equal bits, equal digest."""
    digest = hashlib.sha256()
    for path, leaf in sorted(flatten(jax.device_get(state)).items()):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{path}:{array.dtype}:{array.shape};".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()
