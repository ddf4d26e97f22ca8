r"""Translation into text without spaces: English to Chinese sentences of Tatoeba.

    seqgen train --config=configs/translation/tatoeba_enzh.py --config.data.dir=DIR \
        --workdir=runs/tatoeba_enzh
    seqgen evaluate --workdir=runs/tatoeba_enzh --split=val

DIR holds train.en[.gz], train.zh[.gz], dev.en and dev.zh: 27,000 pairs, six English words each on
average, in simplified and traditional characters. SentencePiece cuts both sides, as it needs no
spaces. BLEU is on sacrebleu's `zh` tokens; the default 13a would take most sentences for one word.
The other direction is `tatoeba_enzh.py:zh-en`, whose English answers are cut by 13a.
"""

from ml_collections import ConfigDict

TOKENIZE = {"zh": "zh", "en": "13a"}  # of BLEU, by the language of the answers


def get_config(direction: str = "en-zh") -> ConfigDict:
    """The recipe from English to Chinese, or `zh-en`."""
    source, _, target = direction.partition("-")
    if {source, target} != set(TOKENIZE):
        raise ValueError(f"the argument is en-zh or zh-en, not {direction!r}")
    config = ConfigDict()
    config.name = f"tatoeba_{source}{target}"
    config.data = dict(
        source="text",
        dir="",  # given on the command line: --config.data.dir=DIR
        source_lang=source,
        target_lang=target,
        max_source_len=64,
        max_target_len=64,
        tokens_per_batch=2_048,
        num_buckets=4,
    )
    config.tokenizer = dict(kind="bpe", vocab_size=8_000, joint=False, character_coverage=0.9995)
    config.model = dict(
        embed_dim=256,
        tie_embeddings="target_output",
        dropout_rate=0.3,
        encoder=dict(
            kind="transformer",
            num_layers=2,
            num_heads=4,
            ff_dim=512,
            norm_position="pre",
            dropout_rate=0.3,
            attention_dropout_rate=0.0,
        ),
        decoder=dict(
            kind="transformer",
            num_layers=2,
            num_heads=4,
            ff_dim=512,
            norm_position="pre",
            dropout_rate=0.3,
            attention_dropout_rate=0.0,
        ),
    )
    config.optimizer = dict(
        name="adam",
        learning_rate=1e-3,
        schedule="inverse_sqrt",
        warmup_steps=1_000,
        b2=0.98,
        clip_norm=1.0,
    )
    config.train = dict(
        num_steps=6_000,
        log_every_steps=50,
        eval_every_steps=1_000,
        checkpoint_every_steps=500,
        label_smoothing=0.1,
        best_metric="eval/bleu",
    )
    config.evaluation = dict(metrics=("bleu", "chrf", "exact_match"), tokenize=TOKENIZE[target])
    config.decode = dict(num_beams=5)
    return config


def tiny(direction: str = "en-zh") -> ConfigDict:
    """The same recipe, small enough to train in a test."""
    config = get_config(direction)
    for part in (config.model.encoder, config.model.decoder):
        part.update(num_layers=1, num_heads=2, ff_dim=32)
    config.model.embed_dim = 16

    config.tokenizer.update(vocab_size=120, byte_fallback=False)
    config.data.update(tokens_per_batch=256, num_buckets=2)
    config.train.update(
        num_steps=6, eval_every_steps=3, checkpoint_every_steps=3, log_every_steps=1
    )
    config.optimizer.warmup_steps = 2
    config.evaluation.max_examples = 20
    return config
