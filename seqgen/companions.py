"""Loaded runs that help one another: ensembles, and drafts of speculative decoding."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from seqgen.decoding.ensemble import MEANS, EnsembleDefinition
from seqgen.decoding.rescoring import log_probs_of, map_chunks
from seqgen.decoding.short_sources import ShortSourceDefinition
from seqgen.errors import ConfigError
from seqgen.inference import Generator
from seqgen.metrics import WeightedMean
from seqgen.types import Array, Batch, Params


def join(generators: Sequence[Generator], names: Sequence[str], *, mean: str) -> Generator:
    """One `Generator` of several, with the options of the first one.

    Args:
      generators: without shortlists.
      names: what errors call them.
      mean: see `decoding.ensemble.mean_log_probs`.

    Raises:
      ConfigError: an unknown `mean`, or models that do not read and write the same tokens.
    """
    if mean not in MEANS:
        raise ConfigError(
            f"bad ensemble_mean: {mean!r}", details=[f"it takes       {' or '.join(MEANS)}"]
        )
    first = generators[0]
    for other, name in zip(generators[1:], names[1:], strict=True):
        check_same_tokens(first, other, names=(names[0], name), what="an ensemble")
    sources, targets = zip(*(each.limits for each in generators), strict=True)
    return Generator(
        EnsembleDefinition(tuple(each.definition for each in generators), mean),
        {str(i): each.params for i, each in enumerate(generators)},
        first.source_tokenizer,
        first.target_tokenizer,
        first.decode_config,
        max_source_len=_smallest(sources),
        max_target_len=_smallest(targets),
        reads_prompts=first.reads_prompts,
    )


def with_draft(generator: Generator, draft: Generator, names: tuple[str, str]) -> Generator:
    """`generator`, to which `draft` proposes tokens; `names` are what errors call the two.

    A source that is too long for the draft is cut for it, as for any model: its proposals get
    worse, the answers stay the other one's own.

    Raises:
      ConfigError: they do not read and write the same tokens.
    """
    check_same_tokens(generator, draft, names=names, what="speculative decoding")
    max_source_len, max_target_len = generator.limits
    proposing: Any = draft.definition
    if draft.limits[0] is not None and not draft.reads_prompts:
        proposing = ShortSourceDefinition(proposing, draft.limits[0])
    return Generator(
        generator.definition,
        generator.params,
        generator.source_tokenizer,
        generator.target_tokenizer,
        generator.decode_config,
        max_source_len=max_source_len,
        max_target_len=max_target_len,
        reads_prompts=generator.reads_prompts,
        draft=(proposing, draft.params),
    )


def check_same_tokens(
    first: Generator, other: Generator, *, names: tuple[str, str], what: str
) -> None:
    """Refuse two models that do not read and write the same tokens.

    Raises:
      ConfigError: it says in what they differ; `what` wants them equal.
    """
    if first.reads_prompts != other.reads_prompts:
        kinds = {True: "a language model", False: "a model of pairs"}
        raise ConfigError(
            f"{what} of models that are not asked the same",
            details=[
                f"{names[0]}   is {kinds[first.reads_prompts]}",
                f"{names[1]}   is {kinds[other.reads_prompts]}",
            ],
        )
    sides = {"target": (first.target_tokenizer, other.target_tokenizer)}
    if not first.reads_prompts:
        sides["source"] = (first.source_tokenizer, other.source_tokenizer)
    for side, (one, another) in sides.items():
        if one.fingerprint != another.fingerprint:
            raise ConfigError(
                f"{what} needs one vocabulary: the {side} tokenizers of {names[0]} and {names[1]} "
                "differ",
                details=[
                    f"{names[0]}   {one.fingerprint[:16]}, {one.vocab_size} tokens",
                    f"{names[1]}   {another.fingerprint[:16]}, {another.vocab_size} tokens",
                    "train both with the same data and config.tokenizer",
                ],
            )


def make_eval_step(
    definition: EnsembleDefinition,
) -> Callable[[Params, Any], Mapping[str, WeightedMean]]:
    """A jitted step that measures a batch as `training.loss.make_eval_step`: 'loss', 'accuracy'."""

    @jax.jit
    def eval_step(params: Params, batch: Batch) -> dict[str, WeightedMean]:
        model: Any = definition.bind(params)

        def measure(hidden: Array, labels: Array) -> tuple[Array, Array]:
            logits = model.output_logits(hidden)
            return log_probs_of(labels[..., None], logits)[..., 0], logits.argmax(-1) == labels

        log_probs, hits = map_chunks(measure, model(batch), batch.labels)
        weight = jnp.sum(batch.weights)
        return {
            "loss": WeightedMean(-jnp.sum(batch.weights * log_probs), weight),
            "accuracy": WeightedMean(jnp.sum(batch.weights * hits), weight),
        }

    return eval_step


def _smallest(limits: Sequence[int | None]) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)
