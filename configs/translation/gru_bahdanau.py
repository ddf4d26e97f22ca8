r"""Translation: GRU with additive attention (Bahdanau et al., 2015).

    seqgen train --config=configs/translation/gru_bahdanau.py --config.data.dir=DIR \
        --config.data.source_lang=en --config.data.target_lang=de --workdir=runs/gru_bahdanau

DIR holds train.en[.gz], train.de[.gz], val.* (or dev.*) and test*.*.
37.07 BLEU on test2016 of Multi30k (lower-cased Moses tokens, beam 5, avg:10);
an hour on one busy core. The report is in benchmarks/results/multi30k.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The recipe."""
    config = ConfigDict()
    config.name = "gru_bahdanau"
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
        embed_dim=256,
        tie_embeddings="all",
        dropout_rate=0.3,
        encoder=dict(
            kind="gru", num_layers=1, hidden_dim=256, bidirectional=True, dropout_rate=0.3
        ),
        decoder=dict(
            kind="gru",
            num_layers=2,
            hidden_dim=256,
            attention="bahdanau",
            bridge="dense",
            attention_dim=256,
            dropout_rate=0.3,
        ),
    )
    config.optimizer = dict(
        name="adam",
        learning_rate=2e-3,
        schedule="inverse_sqrt",
        warmup_steps=500,
        b2=0.98,
        clip_norm=1.0,
    )
    config.train = dict(
        num_steps=4_000,
        log_every_steps=50,
        eval_every_steps=250,
        checkpoint_every_steps=100,
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
    config.model.encoder.hidden_dim = 16
    config.model.decoder.hidden_dim = 16
    config.model.embed_dim = 16

    config.tokenizer.update(vocab_size=120, byte_fallback=False)
    config.data.update(tokens_per_batch=256, num_buckets=2)
    config.train.update(
        num_steps=6, eval_every_steps=3, checkpoint_every_steps=3, log_every_steps=1
    )
    config.optimizer.warmup_steps = 2
    config.evaluation.max_examples = 20
    return config
