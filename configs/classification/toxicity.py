r"""Classification: whether a tweet is hateful, offensive or neither; trained from scratch.

    seqgen train --config=configs/classification/toxicity.py \
        --config.data.dir=DIR --workdir=runs/toxicity
    seqgen evaluate --workdir=runs/toxicity --split=val --json

DIR holds train.jsonl[.gz] and dev.jsonl[.gz], objects with the fields `text` and `label` (Davidson
et al. 2017: 21,032 tweets, 77 % of them offensive; the labels are known to be biased against
dialects). The model is the encoder of masked_lm/bert_small.py, so that toxicity_bert.py differs in
where it begins. No score of a whole training is claimed here yet.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The recipe."""
    config = ConfigDict()
    config.name = "toxicity"
    config.data = dict(
        source="jsonl",
        dir="",  # given on the command line: --config.data.dir=DIR
        source_field="text",
        target_field="label",
        targets="labels",
        max_source_len=96,
        overlong="truncate",
        tokens_per_batch=4_096,
        num_buckets=6,
    )
    config.tokenizer = dict(kind="bpe", vocab_size=8_000)
    config.model = dict(
        embed_dim=128,
        scale_embeddings=False,
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
        decoder=dict(kind="none"),
        head=dict(kind="classifier", pooling="mean"),
    )
    config.optimizer = dict(
        name="adamw",
        learning_rate=5e-4,
        schedule="linear",
        final_learning_rate_fraction=0.0,
        warmup_steps=200,
        weight_decay=0.01,
        clip_norm=1.0,
    )
    config.train = dict(
        num_steps=2_000,
        log_every_steps=50,
        eval_every_steps=200,
        checkpoint_every_steps=200,
        best_metric="eval/macro_f1",
    )
    return config


def tiny() -> ConfigDict:
    """The same recipe, small enough to train in a test."""
    config = get_config()
    config.model.encoder.update(num_layers=1, num_heads=2, ff_dim=32, max_positions=32)
    config.model.embed_dim = 16
    config.data.update(tokens_per_batch=128, num_buckets=1, max_source_len=31)
    config.tokenizer.update(vocab_size=120, byte_fallback=False)
    config.train.update(
        num_steps=6, eval_every_steps=3, checkpoint_every_steps=3, log_every_steps=1
    )
    config.optimizer.warmup_steps = 2
    return config
