"""From a config to its model, and from parameters to what answers or labels text."""

from typing import Any

from seqgen import data
from seqgen.config import Config
from seqgen.decoding.shortlist import Shortlist
from seqgen.inference import Generator
from seqgen.labelling import TextLabeller
from seqgen.models import build_model
from seqgen.models.config import NoEncoderConfig
from seqgen.nn.low_rank import LowRankDefinition
from seqgen.nn.parameters import Definition
from seqgen.types import Params

# Evaluation and decoding compute in float32 unless told otherwise, however a run was trained: only
# then is an answer independent of its batch, and the search's scores equal to rescored ones.
SCORING_DTYPE = "float32"


def build_definition(cfg: Config, tokenizers: data.Tokenizers, *, compute_dtype: str) -> Definition:
    """The model of a config as it is trained, computing in 'float32' or 'bfloat16'.

    Raises:
      ConfigError: targets of low-rank adaptation that fit no matrix; see `build_model`.
    """
    base = build_model(
        cfg.model,
        source_vocab_size=tokenizers.source.vocab_size,
        target_vocab_size=tokenizers.target.vocab_size,
        compute_dtype=compute_dtype,
    )
    if not cfg.lora.rank:
        return base
    return LowRankDefinition(
        base,
        rank=cfg.lora.rank,
        alpha=cfg.lora.alpha,
        targets=cfg.lora.targets,
        also_trained=cfg.lora.train,
    )


def reads_prompts(cfg: Config) -> bool:
    """Whether the model knows no sources: a decoder alone, of text or of targets."""
    encoder = cfg.model.encoder
    alone = isinstance(encoder, NoEncoderConfig)
    return alone and (cfg.data.contiguous or not encoder.source_prefix)


def make_generator(
    cfg: Config,
    definition: Definition,
    params: Params,
    tokenizers: data.Tokenizers,
    *,
    shortlist: Shortlist | None = None,
) -> Generator:
    """A `Generator` with the limits that the model's position tables set."""
    encoder = cfg.model.encoder
    source_limit, target_limit = position_limit(encoder), position_limit(cfg.model.decoder)
    prefixed = isinstance(encoder, NoEncoderConfig) and not reads_prompts(cfg)
    if target_limit is not None and prefixed:
        source_limit = cfg.data.max_source_len  # both stand in the decoder's table
        target_limit -= source_limit
    return Generator(
        definition,
        params,
        tokenizers.source,
        tokenizers.target,
        cfg.decode,
        max_source_len=source_limit,
        max_target_len=target_limit,
        reads_prompts=reads_prompts(cfg),
        shortlist=shortlist,
    )


def make_labeller(
    cfg: Config, definition: Definition, params: Params, tokenizers: data.Tokenizers
) -> TextLabeller:
    """A `TextLabeller` that cuts texts as training does."""
    return TextLabeller(
        definition,
        params,
        tokenizers.source,
        tokenizers.labels,
        max_source_len=cfg.data.max_source_len,
        decode_config=cfg.decode,
    )


def position_limit(part: Any) -> int | None:
    """Length of a table of learned positions; None = there is none."""
    return part.max_positions if getattr(part, "positions", "") == "learned" else None
