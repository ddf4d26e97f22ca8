r"""Summarisation: the one-line synopsis of a Debian package from its long description.

    seqgen train --config=configs/summarisation/debian_synopsis.py --config.data.dir=DIR \
        --workdir=runs/debian_synopsis
    seqgen evaluate --workdir=runs/debian_synopsis --split=val

DIR holds train.jsonl[.gz] and dev.jsonl[.gz], objects with the fields `source` and `target`: 27,000
descriptions of 20 to 220 words with a synopsis of 3 to 14. Scored by ROUGE; what the answers copy
from the description, and what they add, is shown beside it.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The recipe."""
    config = ConfigDict()
    config.name = "debian_synopsis"
    config.data = dict(
        source="jsonl",
        dir="",  # given on the command line: --config.data.dir=DIR
        source_lang="en",
        target_lang="en",
        max_source_len=384,
        max_target_len=48,
        overlong="truncate",
        tokens_per_batch=8_192,
        num_buckets=8,
    )
    config.tokenizer = dict(kind="bpe", vocab_size=8_000, joint=True)
    config.model = dict(
        embed_dim=256,
        tie_embeddings="all",
        dropout_rate=0.2,
        encoder=dict(
            kind="transformer",
            num_layers=3,
            num_heads=4,
            ff_dim=1024,
            norm_position="pre",
            dropout_rate=0.2,
            attention_dropout_rate=0.0,
        ),
        decoder=dict(
            kind="transformer",
            num_layers=3,
            num_heads=4,
            ff_dim=1024,
            norm_position="pre",
            dropout_rate=0.2,
            attention_dropout_rate=0.0,
        ),
    )
    config.optimizer = dict(
        name="adam",
        learning_rate=1e-3,
        schedule="inverse_sqrt",
        warmup_steps=1_000,
        b2=0.98,
        clip_norm=1.0,
    )
    config.train = dict(
        num_steps=8_000,
        log_every_steps=50,
        eval_every_steps=1_000,
        checkpoint_every_steps=500,
        label_smoothing=0.1,
        best_metric="eval/rougeL",
    )
    config.evaluation = dict(
        metrics=(
            *("rouge1", "rouge2", "rougeL", "rougeLsum"),
            *(f"{kind}{n}" for kind in ("copied", "novel") for n in (1, 2, 3, 4)),
            *("repetition2", "length_ratio"),
        )
    )
    config.decode = dict(num_beams=5)
    return config


def tiny() -> ConfigDict:
    """The same recipe, small enough to train in a test."""
    config = get_config()
    for part in (config.model.encoder, config.model.decoder):
        part.update(num_layers=1, num_heads=2, ff_dim=32)
    config.model.embed_dim = 16

    config.tokenizer.update(vocab_size=120, byte_fallback=False)
    config.data.update(tokens_per_batch=256, num_buckets=2)
    config.train.update(
        num_steps=6, eval_every_steps=3, checkpoint_every_steps=3, log_every_steps=1
    )
    config.optimizer.warmup_steps = 2
    config.evaluation.max_examples = 20
    return config
