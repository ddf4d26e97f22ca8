r"""Tiny Shakespeare by characters: GPT of 4 layers, 128 wide, blocks of 64, 2,000 steps of 12 rows.

    seqgen train --config=configs/language_model/shakespeare_char.py --config.data.dir=DIR \
        --workdir=runs/shakespeare_char
    seqgen evaluate --workdir=runs/shakespeare_char --split=val --checkpoint=last --json

DIR holds train.txt and val.txt. Loss 1.811 (2.613 bits per character) over the whole val.txt in
blocks of 64, mean of seeds 0 to 2; the steps took 71 s on two cores beside other work. The setting
is nanoGPT's small one for CPUs (1.88 there, estimated on 20 batches). With
model.decoder.positions='rotary' the loss is 1.714 (seed 0, float32 products). The report is in
benchmarks/results/shakespeare_char.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The recipe."""
    config = ConfigDict()
    config.name = "shakespeare_char"
    config.data = dict(
        source="plain_text",
        dir="",  # given on the command line: --config.data.dir=DIR
        batching="blocks",
        block_len=64,
        num_rows=12,
    )
    config.tokenizer = dict(kind="char", byte_fallback=False)
    config.model = dict(
        embed_dim=128,
        tie_embeddings="target_output",
        scale_embeddings=False,
        dropout_rate=0.0,
        encoder=dict(kind="none"),
        decoder=dict(
            kind="transformer",
            num_layers=4,
            num_heads=4,
            ff_dim=512,
            norm_position="pre",
            activation="gelu",
            positions="learned",
            max_positions=64,
            bias=False,
            dropout_rate=0.0,
            attention_dropout_rate=0.0,
        ),
    )
    config.optimizer = dict(
        name="adamw",
        learning_rate=1e-3,
        schedule="cosine",
        final_learning_rate_fraction=0.1,
        warmup_steps=100,
        b2=0.99,
        weight_decay=0.1,
        clip_norm=1.0,
    )
    config.train = dict(
        num_steps=2000,
        log_every_steps=100,
        eval_every_steps=500,
        checkpoint_every_steps=500,
        best_metric="eval/loss",
    )
    return config


def tiny() -> ConfigDict:
    """The same recipe, small enough to train in a test."""
    config = get_config()
    config.model.decoder.update(num_layers=1, num_heads=2, ff_dim=32)
    config.model.embed_dim = 16
    config.data.update(block_len=16, num_rows=4)
    config.train.update(
        num_steps=6, eval_every_steps=3, checkpoint_every_steps=3, log_every_steps=1
    )
    config.optimizer.warmup_steps = 2
    return config
