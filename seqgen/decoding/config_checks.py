"""What one option of decoding may be, alone and beside the others."""

import dataclasses
from typing import Any

from seqgen.errors import ConfigError
from seqgen.types import nearest

SAMPLING_OPTIONS = ("temperature", "top_k", "top_p", "min_p", "typical_p", "seed")
BEAM_OPTIONS = ("num_beam_groups", "coverage_penalty", "required_words")


def check_options(config: Any) -> None:
    """Refuse a `DecodeConfig` whose values are out of their range or contradict each other.

    Raises:
      ConfigError: the first one.
    """
    for field in dataclasses.fields(config):
        _check_range(field, getattr(config, field.name))
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    if config.do_sample and config.num_beams > 1:
        raise ConfigError(
            f"do_sample with num_beams={config.num_beams}",
            details=["sampling needs num_beams=1", "for several: num_return_sequences"],
        )
    idle = [name for name in BEAM_OPTIONS if getattr(config, name) != defaults[name]]
    if idle and config.num_beams == 1:
        raise ConfigError(
            f"{', '.join(idle)}: read only by beam search",
            details=["add            num_beams of 2 or more"],
        )
    several = max(config.num_beams, config.num_return_sequences)
    if config.contrastive_k and (several > 1 or config.do_sample):
        raise ConfigError(
            f"contrastive_k={config.contrastive_k} with beams, samples or several answers",
            details=["contrastive search gives one answer: num_beams=1, do_sample off"],
        )
    if config.num_beams % config.num_beam_groups:
        raise ConfigError(
            f"num_beam_groups={config.num_beam_groups} with num_beams={config.num_beams}",
            details=["num_beams must be a multiple of it: each group has equally many"],
        )
    if config.required_words and config.stop:
        raise ConfigError(
            "required_words with stop",
            details=["an answer may end at a stop string before it holds its words"],
        )
    if config.max_length and config.min_length >= config.max_length:
        raise ConfigError(
            f"min_length={config.min_length} leaves no room below max_length={config.max_length}",
            details=["both count tokens, and the last one is the end of the sentence"],
        )
    if not config.do_sample and config.num_return_sequences > config.num_beams:
        raise ConfigError(
            f"num_return_sequences={config.num_return_sequences} with num_beams={config.num_beams}",
            details=["raise num_beams to at least that, or set do_sample"],
        )


def check_overrides(config: Any, overrides: dict[str, Any]) -> None:
    """Refuse options that are unknown, or that a search of `config` with them would not read.

    Raises:
      ConfigError: the first one; of an unknown one the nearest is named.
    """
    known = [field.name for field in dataclasses.fields(config)]
    for name in overrides:
        if name not in known:
            guess = nearest(name, known)
            raise ConfigError(
                f"unknown decode option {name!r}",
                details=[f"did you mean   {guess}"] if guess else [f"known: {', '.join(known)}"],
            )
    sampling = overrides.get("do_sample", config.do_sample and overrides.get("num_beams", 1) == 1)
    idle = [name for name in SAMPLING_OPTIONS if name in overrides]
    if idle and not sampling:
        raise ConfigError(
            f"{', '.join(idle)}: read only when sampling", details=["add            do_sample"]
        )
    groups = overrides.get("num_beam_groups", config.num_beam_groups)
    if "diversity_penalty" in overrides and groups == 1:
        raise ConfigError(
            "diversity_penalty: read only by diverse beam search",
            details=["add            num_beam_groups of 2 or more"],
        )
    if "penalty_alpha" in overrides and not overrides.get("contrastive_k", config.contrastive_k):
        raise ConfigError(
            "penalty_alpha: read only by contrastive search",
            details=["add            contrastive_k of 2 or more"],
        )


def _check_range(field: dataclasses.Field, value: Any) -> None:
    low, high = field.metadata["minimum"], field.metadata["maximum"]
    choices = field.metadata["choices"]
    if choices is not None and value not in choices:
        guess = nearest(str(value), choices)
        details = [f"did you mean   {guess}"] if guess else []
        details.append(f"it takes       one of {', '.join(choices)}")
        raise ConfigError(f"bad value for  {field.name}: {value!r}", details=details)
    kind = type(field.default)
    if kind is tuple:
        element = int if low is not None else str
        right_type = isinstance(value, tuple) and all(type(item) is element for item in value)
        if not right_type or any(item == "" if low is None else item < low for item in value):
            takes = f"several {element.__name__}s, "
            takes += "none empty" if low is None else f"at least {low}"
            raise ConfigError(
                f"bad value for  {field.name}: {value!r}", details=[f"it takes       {takes}"]
            )
        return
    number = isinstance(value, int | float) and not isinstance(value, bool)
    right_type = number if kind is float else type(value) is kind
    inside = right_type and (low is None or value >= low) and (high is None or value <= high)
    if not inside:
        limits = f"at least {low}" if high is None else f"{low}..{high}"
        takes = kind.__name__ if low is None else f"{kind.__name__}, {limits}"
        raise ConfigError(
            f"bad value for  {field.name}: {value!r}", details=[f"it takes       {takes}"]
        )
