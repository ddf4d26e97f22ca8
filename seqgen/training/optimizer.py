"""Update rules and courses of the learning rate, built on optax.

Adam: Kingma and Ba, 2015. AdamW: Loshchilov and Hutter, 2019. Adafactor: Shazeer and Stern, 2018.
The inverse square root with warm-up is that of Vaswani et al., 2017 ("Noam"), scaled so that its
peak is `learning_rate`. Cosine: Loshchilov and Hutter, 2017 (without restarts).
"""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from seqgen.nn.parameters import at, put
from seqgen.training.config import OptimizerConfig
from seqgen.training.parameter_groups import ParameterGroups
from seqgen.types import Array, Params, load_component

# An update rule without its learning rate, clipping and decay.
Rule = Callable[[OptimizerConfig], optax.GradientTransformation]


def learning_rate(cfg: OptimizerConfig, update: Any, *, num_steps: int) -> Array:
    """The rate (float32) of an update (an int or integer array), counted from 0.

    In the warm-up, update t has (t + 1) / warmup_steps of the peak. After it, with u = t + 1:
    peak * sqrt(warmup_steps / u); or down to `final_learning_rate_fraction` of the peak at
    `decay_steps` by half a cosine or a line; or the peak.
    """
    count = jnp.asarray(update, jnp.float32) + 1.0
    warmup = float(max(cfg.warmup_steps, 1))
    rise = jnp.minimum(count / warmup, 1.0)
    end = float(cfg.decay_steps or num_steps)
    done = jnp.clip((count - warmup) / max(end - warmup, 1.0), 0.0, 1.0)
    low = cfg.final_learning_rate_fraction
    if cfg.schedule in ("noam", "inverse_sqrt"):
        course = jnp.sqrt(warmup / jnp.maximum(count, warmup))
    elif cfg.schedule == "cosine":
        course = low + (1.0 - low) * 0.5 * (1.0 + jnp.cos(jnp.pi * done))
    elif cfg.schedule == "linear":
        course = 1.0 - (1.0 - low) * done
    else:
        course = jnp.ones_like(count)
    return (cfg.learning_rate * rise * course).astype(jnp.float32)


def build_optimizer(
    cfg: OptimizerConfig,
    *,
    num_steps: int,
    axes: Params,
    groups: ParameterGroups,
) -> optax.GradientTransformation:
    """Update rule, weight decay and learning rate as one transformation.

    Clipping is not among them: the step has the norm at hand and scales the gradients.

    Its state is nested plain dicts with string keys, so that checkpoints, sharding rules and
    comparisons see paths and not classes of optax.

    Args:
      cfg: what to build. `cfg.name` may be `module:name` of a user's own `Rule`.
      num_steps: where cosine and linear end unless `cfg.decay_steps` says otherwise.
      axes: tuple of axis names for each parameter. Decay is for matrices only: parameters with at
        least two axes besides 'layers'.
      groups: which parameters are trained and at what rates. All trees that `init` and `update`
        take and give are what `groups.select` makes of whole ones.
    """
    rule = load_component(cfg.name, RULES, what="optimizer")
    parts = [rule(cfg)]
    if cfg.weight_decay and cfg.name != "adam" and cfg.name != "sgd":
        parts.append(
            optax.add_decayed_weights(cfg.weight_decay, mask=_is_matrix(groups.select(axes)))
        )
    parts.append(
        optax.scale_by_learning_rate(lambda count: learning_rate(cfg, count, num_steps=num_steps))
    )
    if not groups.is_plain:
        parts.append(_scale_by_rates(groups.select(groups.rates)))
    return _with_plain_state(optax.chain(*parts))


def _scale_by_rates(rates: Params) -> optax.GradientTransformation:
    def scale(update: Array, rate: Any) -> Array:
        # Added to anything, -0.0 changes no bit of it.
        return jnp.where(rate == 0.0, -0.0, update * rate)

    return optax.stateless(lambda updates, params: jax.tree.map(scale, updates, rates))


def _adam(cfg: OptimizerConfig) -> optax.GradientTransformation:
    return optax.scale_by_adam(b1=cfg.b1, b2=cfg.b2, eps=cfg.eps)


def _adafactor(cfg: OptimizerConfig) -> optax.GradientTransformation:
    return optax.chain(
        optax.scale_by_factored_rms(),
        optax.clip_by_block_rms(1.0),
        optax.scale_by_param_block_rms(),
    )


def _sgd(cfg: OptimizerConfig) -> optax.GradientTransformation:
    return optax.trace(decay=cfg.momentum) if cfg.momentum else optax.identity()


RULES: dict[str, Rule] = {"adam": _adam, "adamw": _adam, "adafactor": _adafactor, "sgd": _sgd}


def _is_matrix(axes: Params) -> Params:
    return jax.tree.map(
        lambda names: len([name for name in names if name != "layers"]) >= 2,
        axes,
        is_leaf=lambda node: isinstance(node, tuple),
    )


def _with_plain_state(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same transformation, its state as nested dicts (structure is recomputed in tracing)."""

    def init(params: Any) -> dict[str, Any]:
        return plain_dict(inner.init(params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, dict[str, Any]]:
        structure = jax.eval_shape(inner.init, params)
        treedef = jax.tree.structure(structure)
        paths = [path for path, _ in jax.tree_util.tree_flatten_with_path(structure)[0]]
        leaves = [at(state, path_name(path)) for path in paths]
        updates, new_state = inner.update(updates, jax.tree.unflatten(treedef, leaves), params)
        return updates, plain_dict(new_state)

    return optax.GradientTransformation(init, update)


def plain_dict(tree: Any) -> dict[str, Any]:
    """Any pytree as nested dicts keyed by field names, keys and indices (all strings)."""
    nested: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        put(nested, path_name(path), leaf)
    return nested


def path_name(path: Iterable[Any]) -> str:
    """A pytree path as one string, 'decoder/layers/0/kernel'."""
    return "/".join(map(key_name, path))


def key_name(entry: Any) -> str:
    """One step of a pytree path as a plain string: field name, dict key or index."""
    for attribute in ("key", "name", "idx"):
        if hasattr(entry, attribute):
            return str(getattr(entry, attribute))
    return str(entry)
