r"""Schema-Guided Dialogue: a small encoder-decoder Transformer gives the system's next turn.

    seqgen train --config=configs/dialogue/schema_guided_transformer.py --config.data.dir=DIR \
        --workdir=runs/schema_guided
    seqgen evaluate --workdir=runs/schema_guided --split=val

DIR holds train.jsonl[.gz] and dev.jsonl[.gz] in the layout of docs/data.md: 12,174 and 2,098
dialogues of 18 turns. Histories keep the newest whole turns that fit into 256 tokens. In-loop
scores are those of the first 500 replies of dev; `seqgen evaluate` scores all.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The recipe."""
    config = ConfigDict()
    config.name = "schema_guided_transformer"
    config.data = dict(
        source="dialogue",
        dir="",  # given on the command line: --config.data.dir=DIR
        speakers=("user", "system"),
        reply_speaker="system",
        max_source_len=256,
        max_target_len=96,
        overlong="truncate",
        tokens_per_batch=8192,
        num_buckets=6,
    )
    config.tokenizer = dict(kind="bpe", vocab_size=6000, joint=True)
    config.model = dict(
        embed_dim=256,
        tie_embeddings="all",
        dropout_rate=0.1,
        encoder=dict(
            kind="transformer",
            num_layers=3,
            num_heads=4,
            ff_dim=1024,
            norm_position="pre",
            dropout_rate=0.1,
            attention_dropout_rate=0.0,
        ),
        decoder=dict(
            kind="transformer",
            num_layers=3,
            num_heads=4,
            ff_dim=1024,
            norm_position="pre",
            dropout_rate=0.1,
            attention_dropout_rate=0.0,
        ),
    )
    config.optimizer = dict(
        name="adam", learning_rate=1e-3, schedule="cosine", warmup_steps=500, clip_norm=1.0
    )
    config.train = dict(
        num_steps=8000,
        log_every_steps=50,
        eval_every_steps=1000,
        checkpoint_every_steps=1000,
        best_metric="eval/loss",
    )
    config.evaluation = dict(
        max_examples=500,
        metrics=("bleu", "distinct1", "distinct2", "repetition2", "length_ratio"),
    )
    config.decode = dict(num_beams=1, max_length=96)
    return config


def tiny() -> ConfigDict:
    """The same recipe, small enough to train in a test."""
    config = get_config()
    for part in (config.model.encoder, config.model.decoder):
        part.update(num_layers=1, num_heads=2, ff_dim=32)
    config.model.embed_dim = 16
    config.tokenizer.update(vocab_size=120, byte_fallback=False)
    config.data.update(max_source_len=64, tokens_per_batch=256, num_buckets=2)
    config.train.update(
        num_steps=6, eval_every_steps=3, checkpoint_every_steps=3, log_every_steps=1
    )
    config.optimizer.warmup_steps = 2
    config.evaluation.max_examples = 20
    config.decode.max_length = 16
    return config
