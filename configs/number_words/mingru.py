"""Number words: minGRU encoder and decoder, no attention: steps in parallel (Feng et al., 2024).

    seqgen train --config=configs/number_words/mingru.py --workdir=runs/mingru

Twin of the other files of this folder: the model is the experiment, all else is equal.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The recipe."""
    config = ConfigDict()
    config.name = "number_words_mingru"
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
        encoder=dict(
            kind="mingru", num_layers=1, hidden_dim=128, bidirectional=True, dropout_rate=0.1
        ),
        decoder=dict(
            kind="mingru",
            num_layers=1,
            hidden_dim=256,
            attention="none",
            bridge="dense",
            dropout_rate=0.1,
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
    config.model.encoder.hidden_dim = 16
    config.model.decoder.hidden_dim = 16
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
