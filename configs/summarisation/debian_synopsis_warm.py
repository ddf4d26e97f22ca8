r"""Summarisation from two pre-trained parts: BERT's encoder, GPT's decoder, new cross-attention.

    seqgen train --config=configs/masked_lm/bert_small.py --config.data.dir=TEXT \
        --workdir=runs/bert_small
    seqgen train --config=configs/language_model/wikitext2_gpt.py --config.data.dir=TEXT \
        --config.tokenizer.kind=run --config.tokenizer.path=runs/bert_small \
        --workdir=runs/wikitext2_gpt
    seqgen train --config=configs/summarisation/debian_synopsis_warm.py --config.data.dir=DIR \
        --workdir=runs/debian_synopsis_warm

TEXT holds train.txt and val.txt (or dev.txt), such as wikitext2_small; DIR holds train.jsonl[.gz]
and dev.jsonl[.gz] as for debian_synopsis.py. Parts and sizes are those of the two runs (Rothe et
al. 2020); descriptions are cut to the 128 positions that the encoder knows. Cross-attention and
what starts random beside it learn at the whole rate, what is pre-trained at a fifth of it. No score
is claimed here yet.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The recipe."""
    config = ConfigDict()
    config.name = "debian_synopsis_warm"
    config.data = dict(
        source="jsonl",
        dir="",  # given on the command line: --config.data.dir=DIR
        source_lang="en",
        target_lang="en",
        max_source_len=128,
        max_target_len=48,
        overlong="truncate",
        tokens_per_batch=8_192,
        num_buckets=8,
    )
    config.tokenizer = dict(kind="run")
    config.init = dict(
        runs=("bert=runs/bert_small", "gpt=runs/wikitext2_gpt"),
        map=(
            "source_embedding/ -> bert:embedding/",
            "(token_types|embedding_norm|encoder)/ -> bert:\\1/",
            "(target_embedding|decoder)/ -> gpt:\\1/",
        ),
        fresh=(".*/cross_(attention|norm)/.*",),
    )
    config.model = dict(
        embed_dim=128,
        tie_embeddings="target_output",
        scale_embeddings=False,
        source_token_types=2,
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
            attention_dropout_rate=0.0,
        ),
        decoder=dict(
            kind="transformer",
            num_layers=4,
            num_heads=4,
            ff_dim=512,
            norm_position="pre",
            activation="gelu_tanh",
            positions="learned",
            max_positions=128,
            dropout_rate=0.1,
            attention_dropout_rate=0.0,
        ),
    )
    config.optimizer = dict(
        name="adam",
        learning_rate=1e-3,
        schedule="inverse_sqrt",
        warmup_steps=500,
        b2=0.98,
        clip_norm=1.0,
        groups=(".*/cross_(attention|norm)/.*=1", ".*=0.2"),
    )
    config.train = dict(
        num_steps=4_000,
        log_every_steps=50,
        eval_every_steps=500,
        checkpoint_every_steps=500,
        label_smoothing=0.1,
        best_metric="eval/rougeL",
    )
    config.evaluation = dict(metrics=("rouge1", "rouge2", "rougeL", "rougeLsum", "length_ratio"))
    config.decode = dict(num_beams=5)
    return config


def tiny() -> ConfigDict:
    """The same recipe, small enough to train in a test; it begins with the tiny forms."""
    config = get_config()
    for part in (config.model.encoder, config.model.decoder):
        part.update(num_layers=1, num_heads=2, ff_dim=32, max_positions=32)
    config.model.embed_dim = 16
    config.data.update(tokens_per_batch=256, num_buckets=2, max_source_len=32, max_target_len=32)
    config.train.update(
        num_steps=6, eval_every_steps=3, checkpoint_every_steps=3, log_every_steps=1
    )
    config.optimizer.warmup_steps = 2
    config.evaluation.max_examples = 20
    return config
