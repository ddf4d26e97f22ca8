"""Reversal of symbol strings of length 4-12, for any pairing of encoder and decoder.

    seqgen train --config=configs/reverse.py:gru,transformer --workdir=runs/reverse
    seqgen train --config=configs/reverse.py:lstm,lstm,none --workdir=runs/reverse_without_attention

The argument is `ENCODER,DECODER[,ATTENTION]` with encoders and decoders out of simple, lstm, gru,
mingru, minlstm, sru, ssru and transformer; attention (recurrent decoders only) is bahdanau by
default, or luong_dot, luong_general, none. One set of hyper-parameters serves every pairing;
`scripts/reversal_pairs.py` trains 28: simple, lstm, gru and transformer, with bahdanau and none.
"""

from ml_collections import ConfigDict

WIDTH = 128


def transformer() -> dict:
    """One stack of the Transformer."""
    return dict(
        kind="transformer",
        num_layers=2,
        num_heads=4,
        ff_dim=4 * WIDTH,
        norm_position="pre",
        dropout_rate=0.0,
        attention_dropout_rate=0.0,
    )


def get_config(arg: str = "gru,gru") -> ConfigDict:
    """The recipe."""
    parts = arg.split(",")
    if len(parts) == 1:
        raise ValueError(f"the argument is ENCODER,DECODER[,ATTENTION], not {arg!r}")
    encoder, decoder, attention = [*parts, "bahdanau"][:3]
    config = ConfigDict()
    config.name = "reverse_" + "_".join(parts)
    config.data = dict(
        source="reverse",
        min_length=4,
        max_length=12,
        num_symbols=20,
        num_examples=400_000,  # a quarter of that is learnt by heart towards the end
        val_examples=1_000,
        test_examples=2_000,
        tokens_per_batch=1_664,
        num_buckets=1,
    )
    config.tokenizer = dict(kind="word", joint=True)
    config.model = dict(embed_dim=WIDTH, tie_embeddings="none", dropout_rate=0.0)
    config.model.encoder = (
        transformer()
        if encoder == "transformer"
        else dict(kind=encoder, num_layers=1, hidden_dim=WIDTH, dropout_rate=0.0)
    )
    config.model.decoder = (
        transformer()
        if decoder == "transformer"
        else dict(
            kind=decoder,
            num_layers=1,
            hidden_dim=2 * WIDTH,
            attention=attention,
            bridge="dense",
            context_every_step=attention == "none",
            dropout_rate=0.0,
        )
    )
    config.optimizer = dict(
        name="adam", learning_rate=2e-3, schedule="cosine", warmup_steps=200, clip_norm=1.0
    )
    config.train = dict(
        num_steps=10_000,
        eval_every_steps=250,
        checkpoint_every_steps=500,
        best_metric="eval/exact_match",
        patience=4,  # pairings with attention are done long before the others
    )
    config.evaluation = dict(metrics=("exact_match",))
    return config


def tiny(arg: str = "gru,gru") -> ConfigDict:
    """The same recipe, small enough to train in a test."""
    config = get_config(arg)
    config.model.embed_dim = 16
    for part in (config.model.encoder, config.model.decoder):
        if part.kind == "transformer":
            part.update(num_layers=1, num_heads=2, ff_dim=32)
        else:
            part.hidden_dim = 16
    config.data.update(num_examples=200, val_examples=20, test_examples=20, tokens_per_batch=256)
    config.train.update(
        num_steps=6, eval_every_steps=3, checkpoint_every_steps=3, log_every_steps=1
    )
    config.optimizer.warmup_steps = 2
    config.evaluation.max_examples = 20
    return config
