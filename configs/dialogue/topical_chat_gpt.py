r"""Topical-Chat: a decoder alone goes on with a conversation about anything, for either speaker.

    seqgen train --config=configs/dialogue/topical_chat_gpt.py --config.data.dir=DIR \
        --workdir=runs/topical_chat
    seqgen evaluate --workdir=runs/topical_chat --split=val
    echo "Are you a football fan?" | seqgen generate --workdir=runs/topical_chat

DIR holds train.jsonl[.gz] and dev.jsonl[.gz] in the layout of docs/data.md: 1,023 and 55 dialogues
of 22 turns, speakers A and B (the corpus' validation sets: its train set is not among them). Every
turn but the first answers the newest whole turns that fit into 192 tokens; the first opens the
conversation. Many replies fit one history, so perplexity and the shares of distinct n-grams say
more than BLEU. Not trained yet: no score is known.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The recipe."""
    config = ConfigDict()
    config.name = "topical_chat_gpt"
    config.data = dict(
        source="dialogue",
        dir="",  # given on the command line: --config.data.dir=DIR
        speakers=("A", "B"),
        max_source_len=192,
        max_target_len=96,
        overlong="truncate",
        tokens_per_batch=8192,
        num_buckets=6,
    )
    config.tokenizer = dict(kind="bpe", vocab_size=4000, joint=True)
    config.model = dict(
        embed_dim=256,
        tie_embeddings="target_output",
        dropout_rate=0.2,
        encoder=dict(kind="none", source_prefix=True),
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
        name="adam", learning_rate=1e-3, schedule="cosine", warmup_steps=200, clip_norm=1.0
    )
    config.train = dict(
        num_steps=4000,
        log_every_steps=50,
        eval_every_steps=500,
        checkpoint_every_steps=500,
        best_metric="eval/loss",
    )
    config.evaluation = dict(
        max_examples=500,
        metrics=("bleu", "distinct1", "distinct2", "repetition2", "length_ratio"),
    )
    config.decode = dict(num_beams=1, max_length=96)
    return config


def tiny() -> ConfigDict:
    """The same recipe, small enough to train in a test."""
    config = get_config()
    config.model.decoder.update(num_layers=1, num_heads=2, ff_dim=32)
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
