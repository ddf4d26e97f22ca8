"""The models that are compared, each a function of one width; widths matched by parameters.

A model is one line of `MODELS`. Recurrent ones have one bidirectional encoder layer whose two
directions make up the width together, and one decoder layer of that width, so that doubling the
width means the same for all of them; the Transformer has two layers a side and a feed-forward layer
about four times as wide. GPT has all four layers in its decoder, which reads each source and then
its target as one row; nothing else differs from the Transformer. As language models all are their
decoders alone.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from fractions import Fraction

from seqgen.benchmarking.named import check_known
from seqgen.errors import ConfigError
from seqgen.models import ModelConfig, build_model
from seqgen.models.config import (
    NoEncoderConfig,
    RecurrentDecoderConfig,
    RecurrentEncoderConfig,
    TransformerDecoderConfig,
    TransformerEncoderConfig,
)
from seqgen.nn.parameters import Definition

DROPOUT = 0.1
WIDTH_STEP = 4  # heads divide it, halves of it are even, and it is fine enough to match within 3 %
NUM_HEADS = 4
FF_STEP = 8
MAX_WIDTH = 1 << 14
ATTENTION = "-attention"  # ends the name of a recurrent model that looks at its source


@dataclasses.dataclass(frozen=True)
class BenchModel:
    """One line of the table.

    Attributes:
      build: (width, fine) -> config; `fine` is 0, or steps of the model's finer dial.
      has_fine_dial: whether `fine` changes anything (a Transformer's feed-forward width).
    """

    build: Callable[[int, int], ModelConfig]
    has_fine_dial: bool = False


def _recurrent(kind: str, attention: str) -> BenchModel:
    def build(width: int, fine: int) -> ModelConfig:
        del fine
        return ModelConfig(
            embed_dim=width,
            dropout_rate=DROPOUT,
            encoder=RecurrentEncoderConfig(
                kind=kind, num_layers=1, hidden_dim=width // 2, dropout_rate=DROPOUT
            ),
            decoder=RecurrentDecoderConfig(
                kind=kind,
                num_layers=1,
                hidden_dim=width,
                attention=attention,
                attention_dim=width,
                dropout_rate=DROPOUT,
            ),
        )

    return BenchModel(build)


def _transformer(*, num_layers: int, has_encoder: bool) -> BenchModel:
    def build(width: int, fine: int) -> ModelConfig:
        options = {
            "num_layers": num_layers,
            "num_heads": NUM_HEADS,
            "ff_dim": max(FF_STEP, 4 * width + FF_STEP * fine),
            "norm_position": "pre",
            "dropout_rate": DROPOUT,
            "attention_dropout_rate": 0.0,
        }
        return ModelConfig(
            embed_dim=width,
            dropout_rate=DROPOUT,
            encoder=TransformerEncoderConfig(**options)
            if has_encoder
            else NoEncoderConfig(source_prefix=True),
            decoder=TransformerDecoderConfig(**options),
        )

    return BenchModel(build, has_fine_dial=True)


MODELS: dict[str, BenchModel] = {
    **{
        f"{kind}{suffix}": _recurrent(kind, attention)
        for kind in ("simple", "lstm", "gru", "mingru")
        for suffix, attention in (("", "none"), (ATTENTION, "bahdanau"))
    },
    "transformer": _transformer(num_layers=2, has_encoder=True),
    "gpt": _transformer(num_layers=4, has_encoder=False),
}


def get_model(name: str, *, alone: bool = False) -> BenchModel:
    """The line of the table.

    Args:
      name: of the line.
      alone: the decoder without a source, as a language model.

    Raises:
      ConfigError: there is none of that name; the nearest is named.
    """
    check_known(name, MODELS, what="bench model")
    model = MODELS[name]
    if not alone:
        return model
    return dataclasses.replace(model, build=lambda width, fine: _alone(model.build(width, fine)))


def _alone(config: ModelConfig) -> ModelConfig:
    decoder = config.decoder
    if isinstance(decoder, RecurrentDecoderConfig):
        decoder = dataclasses.replace(decoder, attention="none", bridge="zero")
    return dataclasses.replace(config, encoder=NoEncoderConfig(), decoder=decoder)


def language_models(names: Iterable[str]) -> tuple[str, ...]:
    """`names` without attention, each once: there is no source to attend to."""
    return tuple(dict.fromkeys(name.removesuffix(ATTENTION) for name in names))


def define(config: ModelConfig, *, vocab: int, dtype: str = "float32") -> Definition:
    """The model of `config` with `vocab` tokens on either side."""
    return build_model(
        config, source_vocab_size=vocab, target_vocab_size=vocab, compute_dtype=dtype
    )


def count_parameters(config: ModelConfig, *, vocab: int) -> int:
    """Numbers in all parameters, embeddings included; no array is made."""
    return define(config, vocab=vocab).num_parameters


@functools.cache
def match_parameters(name: str, target: int, *, vocab: int, alone: bool = False) -> ModelConfig:
    """The width of a model whose parameter count is nearest to `target`; `alone` as `get_model`.

    Widths are multiples of `WIDTH_STEP`; a model with a finer dial then turns that one. Counts are
    quadratic in the width and linear in the fine dial, so that few models need to be built.

    Raises:
      ConfigError: unknown model, or even the narrowest one is more than 3 % beyond the target.
    """
    model = get_model(name, alone=alone)
    square, slope, constant = _count_by_width(model.build, vocab)

    def by_width(steps: int) -> int:
        width = steps * WIDTH_STEP
        return int(square * width * width + slope * width + constant)

    steps = _nearest_place(by_width, target, low=1, high=MAX_WIDTH // WIDTH_STEP)
    width = steps * WIDTH_STEP
    if steps == 1 and by_width(steps) > 1.03 * target:
        raise ConfigError(
            f"no {name} has only {target:,} parameters",
            details=[f"the smallest   {by_width(1):,} with a vocabulary of {vocab:,}"],
        )
    if not model.has_fine_dial:
        return model.build(width, 0)
    start = by_width(steps)
    gain = count_parameters(model.build(width, 1), vocab=vocab) - start
    lowest = 1 - 4 * width // FF_STEP
    return model.build(width, max(lowest, round((target - start) / gain)))


def _count_by_width(
    build: Callable[[int, int], ModelConfig], vocab: int
) -> tuple[Fraction, Fraction, Fraction]:
    """(a, b, c) of the parameter count a * width ** 2 + b * width + c, from three small models."""
    step = WIDTH_STEP
    one, two, three = (count_parameters(build(place * step, 0), vocab=vocab) for place in (1, 2, 3))
    square = Fraction(three - 2 * two + one, 2 * step * step)
    slope = Fraction(two - one, step) - 3 * step * square
    return square, slope, one - square * step * step - slope * step


def _nearest_place(count: Callable[[int], int], target: int, *, low: int, high: int) -> int:
    """The place whose rising `count` is nearest to `target`, by bisection."""
    first = low
    while low < high:
        middle = (low + high) // 2
        if count(middle) < target:
            low = middle + 1
        else:
            high = middle
    places = [place for place in (low - 1, low) if place >= first]
    return min(places, key=lambda place: abs(count(place) - target))
