r"""A word-level LSTM language model of 2 layers, 200 wide: state carried over streams, for a CPU.

    seqgen train --config=configs/language_model/wikitext2_lstm.py --config.data.dir=DIR \
        --workdir=runs/wikitext2_lstm
    seqgen evaluate --workdir=runs/wikitext2_lstm --split=val --json

DIR holds train.txt(.gz) and dev.txt (or val.txt) of words between spaces. Not trained yet: no score
is known. Sizes are the classic small setting (2 layers, 200 wide, 20 streams, 35 steps of
back-propagation, embedding tied to the output); dropout on recurrent weights is that of Merity et
al., "Regularizing and optimizing LSTM language models", 2018. Words that train.txt does not know
count as one unknown token each (`unknown_tokens` of the report): compare perplexities of equal
vocabularies alone.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The recipe."""
    config = ConfigDict()
    config.name = "wikitext2_lstm"
    config.data = dict(
        source="plain_text",
        dir="",  # given on the command line: --config.data.dir=DIR
        batching="streams",
        block_len=35,
        num_rows=20,
    )
    config.tokenizer = dict(kind="word", vocab_size=20_000, byte_fallback=False)
    config.model = dict(
        embed_dim=200,
        tie_embeddings="target_output",
        scale_embeddings=False,
        output_bias=True,
        dropout_rate=0.4,
        encoder=dict(kind="none"),
        decoder=dict(
            kind="lstm",
            num_layers=2,
            hidden_dim=200,
            attention="none",
            bridge="zero",
            dropout_rate=0.4,
            weight_dropout_rate=0.5,
        ),
    )
    config.optimizer = dict(
        name="adamw",
        learning_rate=3e-3,
        schedule="cosine",
        final_learning_rate_fraction=0.05,
        warmup_steps=100,
        weight_decay=0.01,
        clip_norm=0.25,
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
    config.model.decoder.hidden_dim = 16
    config.model.embed_dim = 16
    config.data.update(block_len=8, num_rows=4)
    config.train.update(
        num_steps=6, eval_every_steps=3, checkpoint_every_steps=3, log_every_steps=1
    )
    config.optimizer.warmup_steps = 2
    return config
