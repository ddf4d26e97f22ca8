"""Rotary positions, and rules that stretch them over texts longer than those of training.

Su et al. 2021, "RoFormer", section 3.2. Linear: Chen et al. 2023, "Extending context window of
large language models via positional interpolation". NTK-aware, "by parts" and YaRN: Peng et al.
2023, "YaRN: efficient context window extension of large language models", section 3. Llama 3.1's
rule: Dubey et al. 2024 name the base; the rule is that of the published code.
"""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np

from seqgen.types import Array

SCALINGS = ("none", "linear", "ntk", "yarn", "llama3")
BY_WAVELENGTH = ("yarn", "llama3")  # rules that must know the length of training

# Turns within the length of training above which a pair keeps its pace, and below which it is
# slowed down whole: YaRN section 3.2 (beta, alpha), and Llama 3.1's code.
_YARN_TURNS = (32.0, 1.0)
_LLAMA3_TURNS = (4.0, 1.0)


@dataclasses.dataclass(frozen=True)
class RotaryRule:
    """How fast each pair of features turns with the position.

    Attributes:
      base: pair i of H / 2 turns by `base^(-2i/H)` a position.
      scaling: 'none'; 'linear' slows all pairs down by `factor`; 'ntk' the slowest by `factor` and
        the fastest not at all, by a greater base; 'yarn' and 'llama3' those pairs that turn seldom
        within `original_len`, and in part those between. 'yarn' lengthens queries and keys too.
      factor: how many times longer the texts are.
      original_len: length of training, which yarn and llama3 must know.
    """

    base: float = 10_000.0
    scaling: str = "none"
    factor: float = 1.0
    original_len: int | None = None

    @property
    def length_scale(self) -> float:
        """By what queries and keys are multiplied: sharper attention over longer texts (YaRN)."""
        return 0.1 * math.log(self.factor) + 1.0 if self.scaling == "yarn" else 1.0

    def frequencies(self, half: int) -> np.ndarray:
        """Radians a position of each pair, float32 [half].

        Raises:
          ValueError: for an unknown scaling, or one that lacks `original_len`.
        """
        base = self.base
        if self.scaling == "ntk" and half > 1:
            base = base * self.factor ** (half / (half - 1))
        plain = np.exp(np.arange(half) * (-math.log(base) / half))
        if self.scaling in ("none", "ntk"):
            return plain.astype(np.float32)
        slow = plain / self.factor
        if self.scaling == "linear":
            return slow.astype(np.float32)
        if self.scaling not in SCALINGS:
            raise ValueError(f"rotary scaling {self.scaling!r} is not one of {SCALINGS}")
        if self.original_len is None:
            raise ValueError(f"rotary scaling {self.scaling!r} needs the length of training")
        if self.scaling == "yarn":
            kept = self._yarn_share(half, self.original_len)
        else:
            kept = self._llama3_share(plain)
        return (kept * plain + (1 - kept) * slow).astype(np.float32)

    def _yarn_share(self, half: int, original_len: int) -> np.ndarray:
        """How far each pair keeps its pace: a ramp over the number of the pair."""

        def pair_that_turns(times: float) -> float:
            turns = original_len / (2 * math.pi * times)
            return half * math.log(turns) / math.log(self.base)

        fast, seldom = _YARN_TURNS
        first = max(math.floor(pair_that_turns(fast)), 0)
        last = min(math.ceil(pair_that_turns(seldom)), 2 * half - 1)
        width = max(last - first, 1e-3)
        return 1 - np.clip((np.arange(half) - first) / width, 0, 1)

    def _llama3_share(self, plain: np.ndarray) -> np.ndarray:
        """How far each pair keeps its pace: a ramp over its turns."""
        turns = self.original_len * plain / (2 * math.pi)
        fast, seldom = _LLAMA3_TURNS
        return np.clip((turns - seldom) / (fast - seldom), 0, 1)


PLAIN = RotaryRule()


def rotate(x: Array, positions: Array, rule: RotaryRule = PLAIN) -> Array:
    """Turned by position, so that scores depend on position differences alone.

    Feature i is paired with feature i + H/2 and the pair is turned by
    `position * rule.frequencies[i]`.

    Args:
      x: queries or keys float32 [B, N, T, H], H even.
      positions: int32 [B, T].
      rule: how fast.
    """
    half = x.shape[-1] // 2
    angles = positions[:, None, :, None].astype(jnp.float32) * rule.frequencies(half)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    if rule.length_scale != 1.0:
        cos, sin = cos * rule.length_scale, sin * rule.length_scale
    first, second = x[..., :half], x[..., half:]
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
