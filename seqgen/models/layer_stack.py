"""Equal layers one after the other: listed or stacked, recomputed or not.

Listed layers are traced one by one (fastest programs); stacked ones share one traced body run by
`lax.scan`, with parameters [L, ...] (compile time does not grow with depth). The two layouts hold
the same numbers, and `stack_layers` / `unstack_layers` turn one into the other.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from seqgen.nn.dropout import fold
from seqgen.nn.parameters import param
from seqgen.types import Array, Params

_LAYERS = "layers"


def build_layers(build: Callable[[], nnx.Module], num_layers: int, *, scan: bool) -> Any:
    """`num_layers` modules as an `nnx.List`, or (`scan`) one module with stacked parameters."""
    layers = [build() for _ in range(num_layers)]
    if not scan:
        return nnx.List(layers)
    graph = nnx.split(layers[0], nnx.Param)[0]
    states = [nnx.to_flat_state(nnx.state(layer, nnx.Param)) for layer in layers]
    stacked = [
        (path, param(jnp.stack([state[index][1][...] for state in states]),
                     (_LAYERS, *leaf.logical_axes), summed_axis=leaf.summed_axis))
        for index, (path, leaf) in enumerate(states[0])
    ]  # fmt: skip
    return nnx.merge(graph, nnx.from_flat_state(stacked))


def layer_list(layers: Any, num_layers: int) -> list[Any]:
    """The layers one by one, sliced out of their stack if need be."""
    if isinstance(layers, nnx.List):
        return list(layers)
    graph, state = nnx.split(layers, nnx.Param)
    return [
        nnx.merge(graph, jax.tree.map(lambda leaf, at=at: leaf[at], state))
        for at in range(num_layers)
    ]


def _recomputed(function: Callable[..., Any], remat: str) -> Callable[..., Any]:
    if remat == "none":
        return function
    if remat == "dots":
        return jax.checkpoint(function, policy=jax.checkpoint_policies.dots_saveable)
    if remat == "full":
        return jax.checkpoint(function)
    raise ValueError(f"unknown remat {remat!r}: none, full or dots")


def run_layers(
    layers: Any,
    x: Array,
    call: Callable[[Any, Array, Any], Array],
    *,
    key: Any,
    remat: str = "none",
    call_last: Callable[[Any, Array, Any], Any] | None = None,
) -> Any:
    """`x` through all layers; `call(layer, x, key)` applies one with its own dropout key.

    `call_last`, if given, applies the last one and may give anything, which is what comes out.
    """
    if isinstance(layers, nnx.List):
        for index, layer in enumerate(layers):
            is_last = index + 1 == len(layers)
            apply = call_last if is_last and call_last is not None else call
            step = _recomputed(lambda x, key, layer=layer, f=apply: f(layer, x, key), remat)
            x = step(x, fold(key, index))
        return x
    graph, state = nnx.split(layers, nnx.Param)

    def body(x: Array, step: Any) -> Any:
        index, state = step

        def apply(state: Any, x: Array, key: Any) -> Array:
            return call(nnx.merge(graph, state), x, key)

        return _recomputed(apply, remat)(state, x, fold(key, index)), None

    num_layers = jax.tree.leaves(state)[0].shape[0]
    if call_last is None:
        return lax.scan(body, x, (jnp.arange(num_layers), state))[0]
    before = jax.tree.map(lambda leaf: leaf[:-1], state)
    last = nnx.merge(graph, jax.tree.map(lambda leaf: leaf[-1], state))
    x = lax.scan(body, x, (jnp.arange(num_layers - 1), before))[0]
    step = _recomputed(lambda x, key: call_last(last, x, key), remat)
    return step(x, fold(key, num_layers - 1))


def stack_layers(params: Params, like: Params) -> Params:
    """Parameters of listed layers ('layers/0/...') as those of stacked ones ('layers/...').

    Args:
      params: of a model without `scan_layers`.
      like: the tree of the same model with it (`definition.abstract`), which says what is stacked:
        recurrent layers, for one, never are.
    """
    if not isinstance(params, dict):
        return params
    result = {}
    for name, child in params.items():
        if name == _LAYERS and _is_listed(child) and not _is_listed(like[name]):
            ordered = [child[str(index)] for index in range(len(child))]
            child = jax.tree.map(lambda *leaves: jnp.stack(leaves), *ordered)
        else:
            child = stack_layers(child, like[name])
        result[name] = child
    return result


def _is_listed(layers: Params) -> bool:
    return all(str(key).isdigit() for key in layers)


def unstack_layers(params: Params) -> Params:
    """The inverse of `stack_layers`, bit for bit."""
    if not isinstance(params, dict):
        return params
    result = {}
    for name, child in params.items():
        if name == _LAYERS and not _is_listed(child):
            num_layers = jax.tree.leaves(child)[0].shape[0]
            child = {
                str(index): jax.tree.map(lambda leaf, at=index: leaf[at], child)
                for index in range(num_layers)
            }
        else:
            child = unstack_layers(child)
        result[name] = child
    return result
