r"""Classification: whether a tweet is hateful, offensive or neither; BERT fine-tuned.

    seqgen train --config=configs/masked_lm/bert_small.py --config.data.dir=TEXT \
        --workdir=runs/bert_small
    seqgen train --config=configs/classification/toxicity_bert.py \
        --config.data.dir=DIR --workdir=runs/toxicity_bert
    seqgen evaluate --workdir=runs/toxicity_bert --split=val --json

TEXT holds train.txt and val.txt (or dev.txt), such as wikitext2_small. As toxicity.py, which says
what DIR holds, but that encoder, embeddings and vocabulary are those of runs/bert_small (Devlin et
al. 2019); layers learn the slower the deeper they lie. No score is claimed here yet.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The recipe."""
    config = ConfigDict()
    config.name = "toxicity_bert"
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
    config.tokenizer = dict(kind="run")
    config.init = dict(runs=("runs/bert_small",), fresh=("head/.*",))
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
        layer_decay=0.8,
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
    """The same recipe, small enough to train in a test; it begins with the tiny form of BERT."""
    config = get_config()
    config.model.encoder.update(num_layers=1, num_heads=2, ff_dim=32, max_positions=32)
    config.model.embed_dim = 16
    config.data.update(tokens_per_batch=128, num_buckets=1, max_source_len=31)
    config.train.update(
        num_steps=6, eval_every_steps=3, checkpoint_every_steps=3, log_every_steps=1
    )
    config.optimizer.warmup_steps = 2
    return config
