r"""GPT-2 small on plain text: 12 layers, 768 wide, 12 heads, 1,024 positions; 124 M parameters.

    seqgen train --config=configs/language_model/gpt2_small.py --config.data.dir=DIR \
        --workdir=runs/gpt2_small

DIR holds train.txt[.gz] and val.txt[.gz] (or dev.txt). Sizes, dropout and activation are those of
Radford et al., 2019; the vocabulary of 50,257 is learnt from DIR, and a smaller corpus gives fewer
pieces. Half a million tokens a step, the learning rate and its course are those usual for
reproductions of it. For accelerators: no score of a whole training is claimed here.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The recipe."""
    config = ConfigDict()
    config.name = "gpt2_small"
    config.data = dict(
        source="plain_text",
        dir="",  # given on the command line: --config.data.dir=DIR
        batching="blocks",
        block_len=1024,
        num_rows=16,
    )
    config.tokenizer = dict(kind="bpe", vocab_size=50_257)
    config.model = dict(
        embed_dim=768,
        tie_embeddings="target_output",
        scale_embeddings=False,
        dropout_rate=0.1,
        encoder=dict(kind="none"),
        decoder=dict(
            kind="transformer",
            num_layers=12,
            num_heads=12,
            ff_dim=3072,
            norm_position="pre",
            activation="gelu_tanh",
            positions="learned",
            max_positions=1024,
            dropout_rate=0.1,
            attention_dropout_rate=0.1,
            scan_layers=True,
        ),
    )
    config.optimizer = dict(
        name="adamw",
        learning_rate=6e-4,
        schedule="cosine",
        final_learning_rate_fraction=0.1,
        warmup_steps=2000,
        b2=0.95,
        weight_decay=0.1,
        clip_norm=1.0,
    )
    config.train = dict(
        num_steps=100_000,
        accumulation_steps=32,
        log_every_steps=50,
        eval_every_steps=1000,
        checkpoint_every_steps=1000,
        best_metric="eval/loss",
    )
    return config


def tiny() -> ConfigDict:
    """The same recipe, small enough to train in a test."""
    config = get_config()
    config.model.decoder.update(num_layers=2, num_heads=2, ff_dim=32, max_positions=16)
    config.model.embed_dim = 16
    config.data.update(block_len=16, num_rows=4)
    config.tokenizer.vocab_size = 300
    config.train.update(
        num_steps=6,
        accumulation_steps=2,
        eval_every_steps=3,
        checkpoint_every_steps=3,
        log_every_steps=1,
    )
    config.optimizer.warmup_steps = 2
    return config
