r"""Poems: a subword Transformer of 4 layers, 256 wide, learns verse by stanzas, for a CPU.

    seqgen train --config=configs/language_model/poetry.py --config.data.dir=DIR \
        --workdir=runs/poetry
    seqgen evaluate --workdir=runs/poetry --split=val --json
    seqgen generate --workdir=runs/poetry --prompt="Shall I compare thee" --do_sample --top_p=0.9

DIR holds train.txt[.gz] and val.txt[.gz]: a verse a line, blank lines between stanzas. Of one file
every twentieth stanza makes a val.txt:

    zcat poems.txt.gz | awk -v RS= -v ORS='\n\n' '{print > (NR % 20 ? "train.txt" : "val.txt")}'

Nine books of public-domain verse, 2.6 MB, are some 12 epochs of 0.7 M tokens. Not trained yet: no
score is known.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The recipe."""
    config = ConfigDict()
    config.name = "poetry"
    config.data = dict(
        source="plain_text",
        dir="",  # given on the command line: --config.data.dir=DIR
        batching="blocks",
        block_len=256,
        num_rows=16,
    )
    config.tokenizer = dict(kind="bpe", vocab_size=4000)
    config.model = dict(
        embed_dim=256,
        tie_embeddings="target_output",
        scale_embeddings=False,
        dropout_rate=0.2,
        encoder=dict(kind="none"),
        decoder=dict(
            kind="transformer",
            num_layers=4,
            num_heads=4,
            ff_dim=1024,
            norm_position="pre",
            activation="gelu_tanh",
            positions="rotary",
            dropout_rate=0.2,
            attention_dropout_rate=0.0,
        ),
    )
    config.optimizer = dict(
        name="adamw",
        learning_rate=1e-3,
        schedule="cosine",
        final_learning_rate_fraction=0.1,
        warmup_steps=100,
        b2=0.98,
        weight_decay=0.1,
        clip_norm=1.0,
    )
    config.train = dict(
        num_steps=2000,
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
    config.data.update(block_len=16, num_rows=4)
    config.tokenizer.vocab_size = 300
    config.train.update(
        num_steps=6, eval_every_steps=3, checkpoint_every_steps=3, log_every_steps=1
    )
    config.optimizer.warmup_steps = 2
    return config
