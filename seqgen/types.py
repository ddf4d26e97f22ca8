"""Shapes, identifiers and the pytrees that travel between packages (no flax here).

Shape letters used in every signature and einsum of the project:

    B batch   K beams   R = B * K decode rows   S source length   T target length   D model width
    F feed-forward width   N heads   H head width   V vocabulary   L layers   E summary width
"""

import dataclasses
import difflib
import importlib
from collections.abc import Mapping
from typing import Any, Protocol, TypeVar

import jax
import jax.numpy as jnp

from seqgen.errors import ConfigError

# jax.Array in traced code, numpy.ndarray on the host. As a union, a type checker would refuse every
# use that only one of them allows.
Array = Any
PyTree = Any
Params = dict[str, Any]  # nested dicts of float32 arrays; keys are strings ('layers/0/...')

PAD_ID, UNK_ID, BOS_ID, EOS_ID = 0, 1, 2, 3
NUM_CONTROL_IDS = 4

AXIS_NAMES = (
    "batch",
    "length",
    "embed",
    "mlp",
    "heads",
    "head_dim",
    "vocab",
    "hidden",
    "layers",
)
MESH_AXES = ("data", "fsdp", "tensor", "sequence")

ComponentT = TypeVar("ComponentT")


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Sequences:
    """Rows of token ids, possibly several packed examples a row.

    Attributes:
      ids: int32 [B, T]; PAD_ID where nothing stands.
      segments: int32 [B, T]; 0 = padding, otherwise 1, 2, ... numbers the packed example. A row
        that is not packed holds 1s, then 0s.
      positions: int32 [B, T]; position inside the segment, counted from 0 (0 on padding).
    """

    ids: Array
    segments: Array
    positions: Array


def no_source(num_rows: int) -> Sequences:
    """Sources of no tokens, [num_rows, 0]: what a language model without a prompt goes on from."""
    return Sequences(*(jnp.zeros((num_rows, 0), jnp.int32) for _ in range(3)))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """One micro-batch of pairs, or (without sources) of plain text.

    Attributes:
      source: ids end with EOS_ID; None where a language model reads targets alone.
      target: the decoder's INPUT: BOS_ID followed by the target ids.
      labels: int32 [B, T]: the target ids followed by EOS_ID (target shifted left by one).
      weights: float32 [B, T]: 1 on real labels, 0 on padding.
    """

    source: Sequences | None
    target: Sequences
    labels: Array
    weights: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MaskedBatch:
    """One micro-batch of text with hidden tokens, P places a row to tell them at.

    Attributes:
      text: what the encoder reads, some tokens hidden. The next-sentence head reads the first token
        of a row, so rows with `next_weights` are not packed.
      token_types: int32 [B, T]; 0 in a row's first text, 1 in its second.
      masked_positions: int32 [B, P], columns of `text` that are to be told; 0 where nothing is.
      labels: int32 [B, P], what stood there.
      weights: float32 [B, P], 1 on real places, 0 on padding.
      next_labels: int32 [B]; 0 = the second text follows the first, 1 = it does not.
      next_weights: float32 [B], how many masked tokens the loss of a pair counts for. Where they
        sum to what `weights` sum to in a step (all its micro-batches), the objective is the mean
        over tokens plus the mean over pairs, as in Devlin et al. 2019, A.2; 0 = no pair.
    """

    text: Sequences
    token_types: Array
    masked_positions: Array
    labels: Array
    weights: Array
    next_labels: Array
    next_weights: Array


AnyBatch = Batch | MaskedBatch


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Encoded:
    """What an encoder hands to any decoder.

    Attributes:
      memory: [B, S, D] one vector a source position (padding positions hold anything).
      segments: int32 [B, S]; 0 = padding.
      positions: int32 [B, S].
      summary: [B, E] one vector a sentence: a recurrent encoder's last hidden state (both
        directions side by side), a Transformer's mean over real positions.
      states: recurrent encoders only, else (): per layer a dict of final states {'h': [B, H]}, with
        'c': [B, H] for cells that keep one (LSTM, SRU, SSRU), for decoders that copy them.
      ids: int32 [B, S], the source itself, where a decoder may copy from it, else None.
    """

    memory: Array
    segments: Array
    positions: Array
    summary: Array
    states: tuple[dict[str, Array], ...] = ()
    ids: Array | None = None


class Tokenizer(Protocol):
    """Text to ids and back. Control ids are never produced from user text nor printed.

    `data.base_tokenizer` has a base with defaults.

    Attributes:
      vocab_size: control ids are counted.
      fingerprint: digest of all that decides the ids of texts.
      multiline: texts may have several lines.
    """

    vocab_size: int
    fingerprint: str
    multiline: bool

    @property
    def drops_line_space(self) -> bool:
        """Where a line begins, decoding takes a space off its first piece."""
        ...

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without BOS_ID and EOS_ID."""
        ...

    def decode(self, ids: Any) -> str:
        """Plain text; stops at EOS_ID, skips other control ids."""
        ...

    def piece_bytes(self, token_id: int) -> bytes:
        """What a token adds to a text that it stands behind, in UTF-8; of control ids nothing."""
        ...


def option(
    default: Any = dataclasses.MISSING,
    *,
    help: str,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[Any, ...] | None = None,
    open_choices: bool = False,
) -> Any:
    """A field of a config dataclass with its documentation and range (both ends included).

    `open_choices` marks a component name: one of `choices`, or `module:name` of a user's own.
    """
    metadata = {
        "help": help,
        "minimum": minimum,
        "maximum": maximum,
        "choices": choices,
        "open_choices": open_choices,
    }
    if isinstance(default, (list, dict)):
        raise TypeError("option defaults are immutable: use a tuple")
    if dataclasses.is_dataclass(default) and not isinstance(default, type):
        value = default
        return dataclasses.field(default_factory=lambda: value, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def nearest(name: str, names: Any) -> str | None:
    """The known name closest to a misspelt one, or None if nothing is close."""
    matches = difflib.get_close_matches(name, list(names), n=1, cutoff=0.5)
    return matches[0] if matches else None


def load_component(name: str, builtins: Mapping[str, ComponentT], *, what: str) -> ComponentT:
    """Look up a built-in component, or import a user's own given as `module:name`.

    Raises:
      ConfigError: if the name is neither; the nearest built-in is named.
    """
    if name in builtins:
        return builtins[name]
    if ":" in name:
        module_name, _, attribute = name.partition(":")
        try:
            return getattr(importlib.import_module(module_name), attribute)
        except (ImportError, AttributeError) as error:
            raise ConfigError(f"cannot load {what} {name!r}", details=[str(error)]) from error
    guess = nearest(name, builtins)
    details = [f"did you mean   {guess}"] if guess else []
    raise ConfigError(
        f"unknown {what} {name!r}",
        details=[*details, f"built in       {', '.join(sorted(builtins))}", "or module:name"],
    )
