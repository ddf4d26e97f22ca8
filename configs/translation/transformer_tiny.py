r"""Translation: Transformer tiny (4+4 layers, 128 wide).

    seqgen train --config=configs/translation/transformer_tiny.py --config.data.dir=DIR \
        --config.data.source_lang=en --config.data.target_lang=de --workdir=runs/transformer_tiny

DIR holds train.en[.gz], train.de[.gz], val.* (or dev.*) and test*.*.
40.59 BLEU on test2016 of Multi30k (lower-cased Moses tokens, beam 5, avg:10);
an hour on two cores. The report is in benchmarks/results/multi30k.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The recipe."""
    config = ConfigDict()
    config.name = "transformer_tiny"
    config.data = dict(
        source="text",
        dir="",  # given on the command line: --config.data.dir=DIR
        source_lang="en",
        target_lang="de",
        max_source_len=128,
        max_target_len=128,
        tokens_per_batch=4_096,
        num_buckets=8,
    )
    config.tokenizer = dict(kind="bpe", vocab_size=10_000, joint=True)
    config.model = dict(
        embed_dim=128,
        tie_embeddings="all",
        dropout_rate=0.3,
        encoder=dict(
            kind="transformer",
            num_layers=4,
            num_heads=4,
            ff_dim=256,
            norm_position="post",
            dropout_rate=0.3,
            attention_dropout_rate=0.0,
        ),
        decoder=dict(
            kind="transformer",
            num_layers=4,
            num_heads=4,
            ff_dim=256,
            norm_position="post",
            dropout_rate=0.3,
            attention_dropout_rate=0.0,
        ),
    )
    config.optimizer = dict(
        name="adam",
        learning_rate=3.5e-3,
        schedule="inverse_sqrt",
        warmup_steps=2_000,
        b2=0.98,
        clip_norm=1.0,
    )
    config.train = dict(
        num_steps=12_000,
        log_every_steps=50,
        eval_every_steps=500,
        checkpoint_every_steps=150,
        keep_checkpoints=10,
        label_smoothing=0.1,
        best_metric="eval/bleu",
    )
    config.evaluation = dict(max_examples=0)
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
