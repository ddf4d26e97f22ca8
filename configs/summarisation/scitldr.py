r"""Summarisation: one sentence that says what a paper is about, from its abstract (SciTLDR-A).

    seqgen train --config=configs/summarisation/scitldr.py --config.data.dir=DIR \
        --workdir=runs/scitldr
    seqgen evaluate --workdir=runs/scitldr --split=val

DIR holds train.jsonl[.gz] and dev.jsonl[.gz], objects with the fields `source` and `target`, those
of dev with `references`, too: every summary that was written of the paper (Cachola et al. 2020,
"TLDR: Extreme Summarization of Scientific Documents"). Training reads the first; ROUGE is taken
against the best. What to beat: the first sentence of each abstract has ROUGE-1/2/L 30.0/11.4/23.6
on dev (stems). 1,990 pairs are few: from scratch this is a bound from below.

`scitldr.py:copying` is the pointer-generator network with coverage of See et al. 2017, "Get to the
point": one bidirectional LSTM, one LSTM with additive attention, 128-wide embeddings of one
vocabulary. Other than there, the vocabulary is of subwords, the optimiser is Adam, and coverage is
trained from the first step on. It has no score yet: nobody has trained it beyond its tiny form.
"""

from ml_collections import ConfigDict


def transformer() -> dict:
    """Widths and stacks of the Transformer."""
    stack = dict(
        kind="transformer",
        num_layers=2,
        num_heads=4,
        ff_dim=1024,
        norm_position="pre",
        dropout_rate=0.3,
        attention_dropout_rate=0.0,
    )
    return dict(embed_dim=256, encoder=stack, decoder=dict(stack))


def copying() -> dict:
    """Widths and stacks of the pointer-generator network."""
    stack = dict(kind="lstm", num_layers=1, hidden_dim=256, dropout_rate=0.3)
    reading = dict(attention="bahdanau", attention_dim=256, copy=True, coverage=True)
    return dict(embed_dim=128, encoder=dict(stack, bidirectional=True), decoder=stack | reading)


MODELS = {"transformer": transformer, "copying": copying}


def get_config(model: str = "transformer") -> ConfigDict:
    """The recipe, for one of `MODELS`."""
    if model not in MODELS:
        raise ValueError(f"the argument is {' or '.join(MODELS)}, not {model!r}")
    copies = model == "copying"
    config = ConfigDict()
    config.name = "scitldr_copying" if copies else "scitldr"
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
    config.model = dict(tie_embeddings="all", dropout_rate=0.3, **MODELS[model]())
    config.optimizer = dict(
        name="adam",
        learning_rate=1e-3,
        schedule="inverse_sqrt",
        warmup_steps=500,
        b2=0.98,
        clip_norm=2.0 if copies else 1.0,  # that of the paper
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
    config.decode = dict(num_beams=5)
    return config


def tiny(model: str = "transformer") -> ConfigDict:
    """The same recipe, small enough to train in a test."""
    config = get_config(model)
    small = dict(num_layers=1, num_heads=2, ff_dim=32)
    if model == "copying":
        small = dict(hidden_dim=16)
        config.model.decoder.attention_dim = 16
    for part in (config.model.encoder, config.model.decoder):
        part.update(small)
    config.model.embed_dim = 16

    config.tokenizer.update(vocab_size=120, byte_fallback=False)
    config.data.update(tokens_per_batch=256, num_buckets=2)
    config.train.update(
        num_steps=6, eval_every_steps=3, checkpoint_every_steps=3, log_every_steps=1
    )
    config.optimizer.warmup_steps = 2
    config.evaluation.max_examples = 20
    return config
