r"""Coffee orders: LSTM encoder over the history, LSTM decoder with attention for the reply.

    seqgen train --config=configs/dialogue/coffee_lstm.py --config.data.dir=DIR \
        --workdir=runs/coffee_lstm
    seqgen evaluate --workdir=runs/coffee_lstm --split=val --output=replies.txt

DIR holds train.jsonl[.gz] and dev.jsonl[.gz] of Taskmaster-4's coffee orders in the layout of
docs/data.md: 3,417 and 108 dialogues of four turns. Every turn of the assistant is learnt after
the turns before it.
Twin of coffee_gpt.py: the model is the experiment, all else is equal.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The recipe."""
    config = ConfigDict()
    config.name = "coffee_lstm"
    config.data = dict(
        source="dialogue",
        dir="",  # given on the command line: --config.data.dir=DIR
        speakers=("user", "assistant"),
        reply_speaker="assistant",
        max_source_len=160,
        max_target_len=96,
        overlong="truncate",
        tokens_per_batch=4096,
        num_buckets=6,
    )
    config.tokenizer = dict(kind="bpe", vocab_size=2000, joint=True)
    config.model = dict(
        embed_dim=192,
        tie_embeddings="all",
        dropout_rate=0.2,
        encoder=dict(
            kind="lstm", num_layers=1, hidden_dim=192, bidirectional=True, dropout_rate=0.2
        ),
        decoder=dict(
            kind="lstm",
            num_layers=1,
            hidden_dim=256,
            attention="bahdanau",
            dropout_rate=0.2,
        ),
    )
    config.optimizer = dict(
        name="adam", learning_rate=1e-3, schedule="cosine", warmup_steps=200, clip_norm=1.0
    )
    config.train = dict(
        num_steps=2000,
        log_every_steps=50,
        eval_every_steps=250,
        checkpoint_every_steps=250,
        best_metric="eval/loss",
    )
    config.evaluation = dict(
        metrics=("bleu", "distinct1", "distinct2", "repetition2", "length_ratio"),
    )
    config.decode = dict(num_beams=1, max_length=96)
    return config


def tiny() -> ConfigDict:
    """The same recipe, small enough to train in a test."""
    config = get_config()
    config.model.encoder.hidden_dim = 16
    config.model.decoder.hidden_dim = 16
    config.model.embed_dim = 16
    config.tokenizer.update(vocab_size=120, byte_fallback=False)
    config.data.update(max_source_len=64, tokens_per_batch=256, num_buckets=2)
    config.train.update(
        num_steps=6, eval_every_steps=3, checkpoint_every_steps=3, log_every_steps=1
    )
    config.optimizer.warmup_steps = 2
    config.evaluation.max_examples = 20
    config.decode.max_length = 16
    return config
