"""Which parameters are trained, and how fast: frozen ones, rates by name, rates by depth.

Layer-wise rates: Howard and Ruder, "Universal language model fine-tuning", 2018, section 3.2
(discriminative fine-tuning), and Clark et al., "ELECTRA", 2020, appendix A and its code. Names are
those of `nn.parameters.part_names`: of stacked layers each has a name and a rate of its own.
"""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from seqgen.errors import refuse
from seqgen.nn.low_rank import ADDED
from seqgen.nn.parameters import check_patterns, flat_parts, put
from seqgen.training.config import OptimizerConfig
from seqgen.types import Array, Params

# What stacks call their layers; other lists stand beside them (a decoder's bridges).
_LAYER = re.compile(r"[^/]+/(?:layers|forward|backward)/(\d+)/")
# What is read before the first layer of a stack: tables, what is added to them, their norm.
_SOURCE_INPUT = ("source_embedding/", "embedding/", "token_types/", "embedding_norm/")
_TARGET_INPUT = ("target_embedding/",)


@dataclasses.dataclass(frozen=True)
class ParameterGroups:
    """What the optimiser makes of each parameter.

    Attributes:
      rates: nested dicts like the parameters of what each update is multiplied with: a float, or
        float32 [L, 1, ...] for stacked layers. 0 = that parameter or layer is frozen.
    """

    rates: Params

    @classmethod
    def of(
        cls,
        abstract: Params,
        axes: Params,
        cfg: OptimizerConfig,
        *,
        is_trained: Callable[[str], bool] = lambda name: True,
    ) -> "ParameterGroups":
        """By the names of the parameters.

        Args:
          abstract: shapes of the parameters.
          axes: their axis names.
          cfg: `freeze`, `groups`, `layer_decay`.
          is_trained: False for what is frozen beside `cfg.freeze`.

        Raises:
          ConfigError: a pattern is no regular expression or fits no parameter, or nothing is left
            to train.
        """
        parts = flat_parts(abstract, axes)
        names = [name for row in parts.values() for name, _ in row]
        groups = [parse_group(text) for text in cfg.groups]
        for option, patterns in (("freeze", cfg.freeze), ("groups", [p for p, _ in groups])):
            check_patterns(f"optimizer.{option}", patterns, names)
        depths = depth_from_top(names) if cfg.layer_decay != 1.0 else {}

        def rate(name: str) -> float:
            if not is_trained(name) or any(re.fullmatch(p, name) for p in cfg.freeze):
                return 0.0
            own = next((value for p, value in groups if re.fullmatch(p, name)), 1.0)
            return own * cfg.layer_decay ** depths.get(name, 0)

        rates: Params = {}
        for name, row in parts.items():
            found = [rate(part) for part, _ in row]
            if row[0][0] == name or len(set(found)) == 1:
                put(rates, name, found[0])
            else:
                shape = (-1,) + (1,) * len(row[0][1])
                put(rates, name, np.array(found, np.float32).reshape(shape))
        if not any(map(np.any, jax.tree.leaves(rates))):
            refuse(
                "optimizer.freeze leaves nothing to train",
                ("frozen", f"{len(names)} parameters"),
            )
        return cls(rates)

    @property
    def is_plain(self) -> bool:
        """Everything is trained at one rate."""
        return all(type(rate) is float and rate == 1.0 for rate in jax.tree.leaves(self.rates))

    def select(self, tree: Params) -> Params:
        """Nested dicts like the parameters, without what is frozen."""
        return _select(self.rates, tree)

    def drop_frozen(self, grads: Params) -> Params:
        """Gradients of what is selected: 0, whatever they are, of frozen layers of a stack."""

        def drop(grad: Array, rate: Any) -> Array:
            frozen = np.asarray(rate) == 0.0
            return jnp.where(frozen, 0.0, grad) if frozen.any() else grad

        return jax.tree.map(drop, grads, self.select(self.rates))


def parse_group(text: str) -> tuple[str, float]:
    """A rule 'PATTERN=MULTIPLIER' of `optimizer.groups`.

    Raises:
      ConfigError: it has another form.
    """
    pattern, equals, number = text.rpartition("=")
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if not equals or not pattern or not 0.0 <= value < float("inf"):
        refuse(
            f"bad rule in optimizer.groups: {text!r}",
            ("a rule is", "PATTERN=MULTIPLIER, such as encoder/.*=0.1; 0 = frozen"),
        )
    return pattern, value


def frozen_patterns(cfg: OptimizerConfig) -> tuple[str, ...]:
    """What decides which parameters have a state in the optimiser."""
    zero = (text for text in cfg.groups if parse_group(text)[1] == 0.0)
    return (*cfg.freeze, *zero)


def depth_from_top(names: Iterable[str]) -> dict[str, int]:
    """How many layers above each parameter, its own counted: 1 for the top layer of a stack.

    The layers of encoder and decoder are counted each on its own. Tables and positions that a
    stack reads are one deeper than its first layer; what stands beside or above a stack (heads, its
    last norm, attention, bridges) is 0 and not in the answer.
    """
    # What is added to a matrix lies as deep as it.
    plain = {name: name.removeprefix(f"{ADDED}/") for name in names}
    names = list(plain.values())
    layers: dict[str, int] = {}  # first part of a name -> layers of that stack
    for name in names:
        if match := _LAYER.match(name):
            side = name.partition("/")[0]
            layers[side] = max(layers.get(side, 0), int(match[1]) + 1)
    source, target = layers.get("encoder", 0), layers.get("decoder", 0)
    shared = not any(name.startswith(_SOURCE_INPUT[:2]) for name in names)
    depths = {}
    for name in names:
        side = name.partition("/")[0]
        if match := _LAYER.match(name):
            depths[name] = layers[side] - int(match[1])
        elif "learned_positions/" in name and side in layers:
            depths[name] = layers[side] + 1
        elif name.startswith(_SOURCE_INPUT):
            depths[name] = source + 1
        elif name.startswith(_TARGET_INPUT):
            depths[name] = (max(source, target) if shared else target) + 1
    return {name: depths[own] for name, own in plain.items() if own in depths}


def _select(rates: Mapping[str, Any], tree: Mapping[str, Any]) -> dict[str, Any]:
    selected = {}
    for key, node in tree.items():
        if not isinstance(rates[key], dict):
            if np.any(rates[key]):
                selected[key] = node
        elif below := _select(rates[key], node):
            selected[key] = below
    return selected
