"""A model beside others that read longer sources than it can."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from seqgen.types import EOS_ID, Params, Sequences


@dataclasses.dataclass(frozen=True)
class ShortSourceDefinition:
    """A model whose sources are cut where they are too long for it.

    Attributes:
      definition: gives a `Decodable` by `bind(params)`.
      limit: most source tokens that it reads, EOS counted.
    """

    definition: Any
    limit: int

    def bind(self, params: Params) -> Any:
        """The `Decodable` holding `params`."""
        return _ShortSourceModel(self.definition.bind(params), self.limit)


class _ShortSourceModel:
    """In all but what it encodes the model itself."""

    def __init__(self, model: Any, limit: int):
        self._model, self._limit = model, limit

    def encode(self, source: Sequences, *, key: Any = None) -> Any:
        return self._model.encode(cut_sources(source, self._limit), key=key)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def cut_sources(source: Sequences, limit: int) -> Sequences:
    """Sources of at most `limit` tokens; what is cut ends with EOS, as whole sources do.

    Args:
      source: B sentences, one a row.
      limit: at least 1.
    """
    if source.ids.shape[1] <= limit:
        return source
    ids, segments = source.ids[:, :limit], source.segments[:, :limit]
    longer = source.segments[:, limit] > 0
    ids = ids.at[:, -1].set(jnp.where(longer, EOS_ID, ids[:, -1]))
    return Sequences(ids, segments, source.positions[:, :limit])
