"""What the options of a Transformer stack ask of each other, of the width and of the lengths."""

from typing import Any

from seqgen.errors import refuse
from seqgen.models.config import TransformerDecoderConfig, TransformerEncoderConfig
from seqgen.nn.rotary import BY_WAVELENGTH

StackConfig = TransformerEncoderConfig | TransformerDecoderConfig

# Option: what decides whether it is read, and by which choices.
_POSITION_READERS = {
    "rotary_base": ("positions", ("rotary",)),
    "rotary_scaling": ("positions", ("rotary",)),
    "rotary_original_len": ("rotary_scaling", BY_WAVELENGTH),
    "relative_buckets": ("positions", ("relative",)),
    "relative_max_distance": ("positions", ("relative",)),
}


def check_stack(where: str, part: StackConfig, width: int, longest: tuple[str, int]) -> None:
    """Refuse a stack that cannot be built, or options that would be ignored.

    Args:
      where: the stack's name in the config, 'model.encoder' or 'model.decoder'.
      part: its options.
      width: of the embedding.
      longest: the field that bounds its rows, and that bound; 0 = not known.

    Raises:
      ConfigError: the first of them.
    """
    _check_heads(where, part, width)
    _check_positions(where, part, width, longest)
    _check_rotary(where, part)
    _check_relative(where, part)


def _check_heads(where: str, part: Any, width: int) -> None:
    if width % part.num_heads:
        refuse(
            f"{where}.num_heads={part.num_heads} does not divide model.embed_dim={width}",
            ("choose", f"one of {', '.join(map(str, _divisors(width)))}"),
        )
    groups = part.num_kv_heads
    if groups is not None and part.num_heads % groups:
        refuse(
            f"{where}.num_kv_heads={groups} does not divide {where}.num_heads={part.num_heads}",
            ("choose", f"one of {', '.join(map(str, _divisors(part.num_heads)))}, or none"),
        )


def _check_positions(where: str, part: Any, width: int, longest: tuple[str, int]) -> None:
    if part.positions == "rotary" and (width // part.num_heads) % 2:
        refuse(
            f"rotary positions need an even head width, not {width // part.num_heads}",
            ("head width", f"model.embed_dim={width} / {where}.num_heads={part.num_heads}"),
        )
    for name, (chooser, names) in _POSITION_READERS.items():
        value, chosen = getattr(part, name), getattr(part, chooser)
        if value != getattr(type(part), name) and chosen not in names:
            refuse(
                f"{where}.{name}={value} would be ignored by {where}.{chooser}={chosen}",
                ("choose", f"{where}.{chooser}={' or '.join(names)}"),
            )
    if part.positions == "sinusoidal" and width % 2:
        refuse(f"sinusoidal positions need an even model.embed_dim, not {width}")
    field, length = longest
    if part.positions == "learned" and part.max_positions < length:
        refuse(
            f"{where}.max_positions={part.max_positions} is less than {field}={length}",
            ("either", f"raise {where}.max_positions, or lower {field}"),
            ("or", f"{where}.positions=sinusoidal, which has no limit"),
        )


def _check_rotary(where: str, part: Any) -> None:
    scaled = part.rotary_scaling != "none"
    if scaled != (part.rotary_factor != 1.0):
        refuse(
            f"{where}.rotary_scaling={part.rotary_scaling} with "
            f"{where}.rotary_factor={part.rotary_factor:g} changes nothing",
            ("either", f"{where}.rotary_factor=4 or whatever the texts are longer by"),
            ("and", f"{where}.rotary_scaling=linear, ntk, yarn or llama3; or neither"),
        )
    if part.rotary_scaling in BY_WAVELENGTH and part.rotary_original_len is None:
        refuse(
            f"{where}.rotary_scaling={part.rotary_scaling} must know the length of training before",
            ("set", f"{where}.rotary_original_len"),
        )


def _check_relative(where: str, part: Any) -> None:
    exact = part.relative_buckets // (4 if isinstance(part, TransformerEncoderConfig) else 2)
    if part.positions == "relative" and part.relative_max_distance <= exact:
        refuse(
            f"{where}.relative_max_distance={part.relative_max_distance} leaves no distances for "
            f"the wide ones of {where}.relative_buckets={part.relative_buckets}",
            ("choose", f"{where}.relative_max_distance above {exact}, or fewer buckets"),
        )


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, min(number, 128) + 1) if number % d == 0]
