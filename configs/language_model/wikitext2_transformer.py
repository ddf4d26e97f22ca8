r"""A word-level Transformer language model of 2 layers, 200 wide: twin of wikitext2_lstm.py.

    seqgen train --config=configs/language_model/wikitext2_transformer.py --config.data.dir=DIR \
        --workdir=runs/wikitext2_transformer
    seqgen evaluate --workdir=runs/wikitext2_transformer --split=val --json

DIR holds train.txt(.gz) and dev.txt (or val.txt) of words between spaces. Vocabulary, width, steps,
words a step and parameters a layer are those of the LSTM. Where that has a state which goes on,
this has blocks of 140 words: in evaluation a word sees 70 before it on average, there all of them.
Not trained yet: no score is known.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The recipe."""
    config = ConfigDict()
    config.name = "wikitext2_transformer"
    config.data = dict(
        source="plain_text",
        dir="",  # given on the command line: --config.data.dir=DIR
        batching="blocks",
        block_len=140,
        num_rows=5,
    )
    config.tokenizer = dict(kind="word", vocab_size=20_000, byte_fallback=False)
    config.model = dict(
        embed_dim=200,
        tie_embeddings="target_output",
        scale_embeddings=False,
        output_bias=True,
        dropout_rate=0.3,
        encoder=dict(kind="none"),
        decoder=dict(
            kind="transformer",
            num_layers=2,
            num_heads=4,
            ff_dim=400,
            norm_position="pre",
            activation="gelu_tanh",
            positions="rotary",
            dropout_rate=0.3,
            attention_dropout_rate=0.1,
        ),
    )
    config.optimizer = dict(
        name="adamw",
        learning_rate=1e-3,
        schedule="cosine",
        final_learning_rate_fraction=0.05,
        warmup_steps=100,
        weight_decay=0.01,
        clip_norm=1.0,
    )
    config.train = dict(
        num_steps=6000,  # some 20 epochs of 0.2 M words
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
    config.data.update(block_len=8, num_rows=4)
    config.train.update(
        num_steps=6, eval_every_steps=3, checkpoint_every_steps=3, log_every_steps=1
    )
    config.optimizer.warmup_steps = 2
    return config
