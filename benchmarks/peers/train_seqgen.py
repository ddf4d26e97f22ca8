"""Training steps of seqgen: a pass trains on the batches of `prepare.py` (GPT: random ids).

    echo | python benchmarks/peers/train_seqgen.py --model lstm-luong --nb 1 [--dtype float32]

The step is the framework's own (`seqgen.training.step.make_train_step`), with state, optimiser and
layout made as the training loop makes them. `drive.py` and `measure.py` run it beside others.
"""

import argparse
import sys
from typing import Any

from protocol import serve
from work import (
    ADAM_BETAS,
    BPE_SIZE,
    CLIP_NORM,
    DROPOUT_RATE,
    GPT_DIM,
    GPT_HEADS,
    GPT_LAYERS,
    GPT_SHAPES,
    GPT_VOCAB,
    HIDDEN_DIM,
    LABEL_SMOOTHING,
    LEARNING_RATE,
    PAD_ID,
    RECURRENT_MODELS,
    SIZES,
    PeerBatch,
    count_tokens,
    load_batches,
    make_characters,
)

MODELS = (*(f"transformer-{size}" for size in SIZES), *RECURRENT_MODELS, *GPT_SHAPES)


def model_config(name: str) -> tuple[Any, int]:
    """The `ModelConfig` of a name in `MODELS` and its vocabulary size."""
    from seqgen.models.config import (
        ModelConfig,
        NoEncoderConfig,
        RecurrentDecoderConfig,
        RecurrentEncoderConfig,
        TransformerDecoderConfig,
        TransformerEncoderConfig,
    )

    if name in GPT_SHAPES:
        decoder = TransformerDecoderConfig(
            num_layers=GPT_LAYERS,
            num_heads=GPT_HEADS,
            ff_dim=4 * GPT_DIM,
            activation="gelu",
            norm_position="pre",
            positions="learned",
            max_positions=GPT_SHAPES[name][1],
            dropout_rate=0.0,
            attention_dropout_rate=0.0,
            bias=False,
        )
        config = ModelConfig(
            embed_dim=GPT_DIM,
            dropout_rate=0.0,
            scale_embeddings=False,
            encoder=NoEncoderConfig(),
            decoder=decoder,
        )
        return config, GPT_VOCAB
    shared = {"dropout_rate": DROPOUT_RATE, "tie_embeddings": "all"}
    if name in RECURRENT_MODELS:
        cell, attention = RECURRENT_MODELS[name]
        layers = {
            "kind": cell,
            "num_layers": 2,
            "hidden_dim": HIDDEN_DIM,
            "dropout_rate": DROPOUT_RATE,
        }
        scores = {"bahdanau": "bahdanau", "luong": "luong_general"}[attention]
        config = ModelConfig(
            embed_dim=HIDDEN_DIM,
            scale_embeddings=False,
            encoder=RecurrentEncoderConfig(**layers),
            decoder=RecurrentDecoderConfig(**layers, attention=scores, attention_dim=HIDDEN_DIM),
            **shared,
        )
        return config, BPE_SIZE
    size = SIZES[name.removeprefix("transformer-")]
    layers = {
        "num_layers": size.num_layers,
        "num_heads": size.num_heads,
        "ff_dim": size.ff_dim,
        "norm_position": "pre",
        "dropout_rate": DROPOUT_RATE,
        "attention_dropout_rate": DROPOUT_RATE,
        "activation_dropout_rate": DROPOUT_RATE,
    }
    config = ModelConfig(
        embed_dim=size.model_dim,
        encoder=TransformerEncoderConfig(**layers),
        decoder=TransformerDecoderConfig(**layers),
        **shared,
    )
    return config, size.vocab_size


def build_definition(name: str, *, compute_dtype: str) -> Any:
    """The model of a name, without parameters."""
    from seqgen.models import build_model

    config, vocab_size = model_config(name)
    return build_model(
        config,
        source_vocab_size=vocab_size,
        target_vocab_size=vocab_size,
        compute_dtype=compute_dtype,
    )


def to_rows(ids: Any, real: Any) -> Any:
    """`Sequences` of ids [B, T] where `real` (bool [B, T])."""
    import numpy as np

    from seqgen.types import Sequences

    positions = np.where(real, np.arange(ids.shape[1], dtype=np.int32), 0)
    return Sequences(ids=ids, segments=real.astype(np.int32), positions=positions)


def to_batch(batch: PeerBatch) -> Any:
    """The same rows as the framework's loader hands them over."""
    import numpy as np

    from seqgen.types import Batch

    real = batch.labels != PAD_ID
    return Batch(
        source=to_rows(batch.source, batch.source != PAD_ID),
        # A short row's EOS is no input: the loader never puts it there, the peers' mask hides it.
        target=to_rows(np.where(real, batch.target, PAD_ID).astype(np.int32), real),
        labels=batch.labels,
        weights=real.astype(np.float32),
    )


def character_batches(name: str) -> tuple[list[Any], int]:
    """Batches of a character model, without sources, and the tokens of all of them."""
    import numpy as np

    from seqgen.types import Batch

    steps = make_characters(name)
    real = np.ones(steps[0, :, 1:].shape, bool)
    weights = real.astype(np.float32)
    batches = [Batch(None, to_rows(ids[:, :-1], real), ids[:, 1:], weights) for ids in steps]
    return batches, steps[..., 1:].size


def make_setup(name: str, *, dtype: str) -> Any:
    """The `TrainSetup` of a name, with the peers' options."""
    from seqgen.training.config import OptimizerConfig, TrainConfig
    from seqgen.training.setup import TrainSetup

    smoothing = 0.0 if name in GPT_SHAPES else LABEL_SMOOTHING
    optimizer_cfg = OptimizerConfig(
        learning_rate=LEARNING_RATE,
        schedule="constant",
        b1=ADAM_BETAS[0],
        b2=ADAM_BETAS[1],
        clip_norm=CLIP_NORM,
    )
    return TrainSetup.of(
        build_definition(name, compute_dtype=dtype),
        train_cfg=TrainConfig(label_smoothing=smoothing, compute_dtype=dtype),
        optimizer_cfg=optimizer_cfg,
        compute_dtype=dtype,
    )


def run(name: str, *, dtype: str, num_batches: int) -> None:
    """Build everything and serve passes."""
    from seqgen.training.compilation import enable_compile_cache
    from seqgen.training.precision import resolve_compute_dtype

    enable_compile_cache()
    dtype = resolve_compute_dtype(dtype, report=lambda line: print(line, file=sys.stderr))
    setup = make_setup(name, dtype=dtype)
    step = setup.make_step(report=lambda report: print(report.line(), file=sys.stderr))
    state = setup.init()
    if name in GPT_SHAPES:
        batches, tokens = character_batches(name)
    else:
        loaded = load_batches(num_batches)
        batches, tokens = [to_batch(batch) for batch in loaded], count_tokens(loaded)

    def run_pass() -> float:
        nonlocal state
        metrics: dict[str, Any] = {}
        for batch in batches:
            state, metrics = step(state, [batch])
        return float(metrics["loss"])  # waits for the last step

    serve(f"seqgen-{name}-{dtype}", run_pass, tokens=tokens)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="transformer-small")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--nb", type=int, default=1, help="batches in a pass")
    args = parser.parse_args()
    run(args.model, dtype=args.dtype, num_batches=args.nb)


if __name__ == "__main__":
    main()
