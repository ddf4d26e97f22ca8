r"""Summarisation: a pointer-generator network with coverage, on SciTLDR-A.

    seqgen train --config=configs/summarisation/scitldr_copying.py --config.data.dir=DIR \
        --workdir=runs/scitldr_copying
    seqgen evaluate --workdir=runs/scitldr_copying --split=val

DIR holds what `scitldr.py` reads, whose Transformer is the one to compare with. The network is that
of See et al. 2017, "Get to the point": one bidirectional LSTM, one LSTM with additive attention,
128-wide embeddings of one vocabulary. Other than there, the vocabulary is of subwords, the
optimiser is Adam, and coverage is trained from the first step on. It has no score yet: nobody has
trained it beyond its tiny form.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """The recipe."""
    config = ConfigDict()
    config.name = "scitldr_copying"
    config.data = dict(
        source="jsonl",
        dir="",  # given on the command line: --config.data.dir=DIR
        source_lang="en",
        target_lang="en",
        references_field="references",
        max_source_len=448,
        max_target_len=96,
        overlong="truncate",
        tokens_per_batch=8_192,
        num_buckets=4,
    )
    config.tokenizer = dict(kind="bpe", vocab_size=6_000, joint=True)
    config.model = dict(
        embed_dim=128,
        tie_embeddings="all",
        dropout_rate=0.3,
        encoder=dict(
            kind="lstm", num_layers=1, hidden_dim=256, bidirectional=True, dropout_rate=0.3
        ),
        decoder=dict(
            kind="lstm",
            num_layers=1,
            hidden_dim=256,
            attention="bahdanau",
            attention_dim=256,
            copy=True,
            coverage=True,
            dropout_rate=0.3,
        ),
    )
    config.optimizer = dict(
        name="adam",
        learning_rate=1e-3,
        schedule="inverse_sqrt",
        warmup_steps=500,
        b2=0.98,
        clip_norm=2.0,
    )
    config.train = dict(
        num_steps=3_000,
        log_every_steps=50,
        eval_every_steps=500,
        checkpoint_every_steps=500,
        label_smoothing=0.1,
        best_metric="eval/rougeL",
    )
    config.evaluation = dict(
        metrics=(
            *("rouge1", "rouge2", "rougeL", "rougeLsum"),
            *(f"{kind}{n}" for kind in ("copied", "novel") for n in (1, 2, 3, 4)),
            *("repetition2", "length_ratio"),
        )
    )
    config.decode = dict(num_beams=4)
    return config


def tiny() -> ConfigDict:
    """The same recipe, small enough to train in a test."""
    config = get_config()
    config.model.encoder.hidden_dim = 16
    config.model.decoder.update(hidden_dim=16, attention_dim=16)
    config.model.embed_dim = 16

    config.tokenizer.update(vocab_size=120, byte_fallback=False)
    config.data.update(tokens_per_batch=256, num_buckets=2)
    config.train.update(
        num_steps=6, eval_every_steps=3, checkpoint_every_steps=3, log_every_steps=1
    )
    config.optimizer.warmup_steps = 2
    config.evaluation.max_examples = 20
    return config
