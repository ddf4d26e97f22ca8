"""Number words: a decoder alone, 4 layers, pre-norm; each source stands before its target.

    seqgen train --config=configs/number_words/gpt.py --workdir=runs/gpt

Twin of the other files of this folder: the model is the experiment, all else is equal.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The recipe."""
    config = ConfigDict()
    config.name = "number_words_gpt"
    config.data = dict(
        source="number_words",
        source_lang="en",
        target_lang="de",
        num_examples=60_000,
        val_examples=1_000,
        test_examples=2_000,
        tokens_per_batch=2_048,
        num_buckets=4,
    )
    config.tokenizer = dict(kind="bpe", vocab_size=300, joint=True, byte_fallback=False)
    config.model = dict(
        embed_dim=128,
        tie_embeddings="target_output",
        dropout_rate=0.1,
        encoder=dict(kind="none", source_prefix=True),
        decoder=dict(
            kind="transformer",
            num_layers=4,
            num_heads=4,
            ff_dim=512,
            norm_position="pre",
            activation="gelu_tanh",
            positions="rotary",
            dropout_rate=0.1,
            attention_dropout_rate=0.0,
        ),
    )
    config.optimizer = dict(
        name="adam", learning_rate=2e-3, schedule="cosine", warmup_steps=200, clip_norm=1.0
    )
    config.train = dict(
        num_steps=3000,
        log_every_steps=50,
        eval_every_steps=500,
        checkpoint_every_steps=500,
        label_smoothing=0.0,
        best_metric="eval/loss",
    )
    config.evaluation = dict(max_examples=300, metrics=("exact_match", "chrf"))
    config.decode = dict(num_beams=1)
    return config


def tiny() -> ConfigDict:
    """The same recipe, small enough to train in a test."""
    config = get_config()
    config.model.decoder.update(num_layers=1, num_heads=2, ff_dim=32)
    config.model.embed_dim = 16

    config.tokenizer.update(vocab_size=120, byte_fallback=False)
    config.data.update(
        num_examples=400, val_examples=20, test_examples=20, tokens_per_batch=256, num_buckets=2
    )
    config.train.update(
        num_steps=6, eval_every_steps=3, checkpoint_every_steps=3, log_every_steps=1
    )
    config.optimizer.warmup_steps = 2
    config.evaluation.max_examples = 20
    return config
