r"""BERT's architecture and objective on plain text, sized for a CPU: 4 layers, 128 wide, 4 heads.

    seqgen train --config=configs/masked_lm/bert_small.py \
        --config.data.dir=DIR --workdir=runs/bert_small

DIR holds train.txt[.gz] and val.txt[.gz] (or dev.txt); lines are sentences or paragraphs, blank
lines stand between documents. 15 % of the tokens, whole words together, are hidden by Devlin et al.
2019, and half of the second texts come from another document. The layers normalise first, which
small budgets train better than the paper's order; `--config.model.encoder.norm_position=post` is
BERT's. No score of a whole training is claimed here yet.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The recipe."""
    config = ConfigDict()
    config.name = "bert_small"
    config.data = dict(
        source="plain_text",
        dir="",  # given on the command line: --config.data.dir=DIR
        batching="blocks",
        block_len=128,
        num_rows=32,
        objective=dict(name="masked", unit="word", rate=0.15, pairs="next_sentence"),
    )
    config.tokenizer = dict(kind="bpe", vocab_size=8000)
    config.model = dict(
        embed_dim=128,
        tie_embeddings="target_output",
        scale_embeddings=False,
        output_bias=True,
        dropout_rate=0.1,
        encoder=dict(
            kind="transformer",
            num_layers=4,
            num_heads=4,
            ff_dim=512,
            norm_position="pre",
            norm_epsilon=1e-12,
            activation="gelu",
            positions="learned",
            max_positions=128,
            dropout_rate=0.1,
            attention_dropout_rate=0.1,
        ),
        decoder=dict(kind="none", next_sentence=True),
    )
    config.optimizer = dict(
        name="adamw",
        learning_rate=1e-3,
        schedule="linear",
        final_learning_rate_fraction=0.0,
        warmup_steps=500,
        weight_decay=0.01,
        clip_norm=1.0,
    )
    config.train = dict(
        num_steps=10_000,
        log_every_steps=50,
        eval_every_steps=500,
        checkpoint_every_steps=500,
        best_metric="eval/loss",
    )
    return config


def tiny() -> ConfigDict:
    """The same recipe, small enough to train in a test."""
    config = get_config()
    config.model.encoder.update(num_layers=1, num_heads=2, ff_dim=32, max_positions=32)
    config.model.embed_dim = 16
    config.data.update(block_len=32, num_rows=8)
    config.tokenizer.vocab_size = 300
    config.train.update(
        num_steps=6, eval_every_steps=3, checkpoint_every_steps=3, log_every_steps=1
    )
    config.optimizer.warmup_steps = 2
    return config
