"""Runs that converse, with parameters as before training: for tests of what surrounds the model."""

import jax
import numpy as np

from seqgen import config, config_schema, data
from seqgen.building import build_definition, make_generator
from seqgen.data.config import TokenizerConfig
from seqgen.data.tokenizer_store import build_tokenizers, save_tokenizers, wrap
from seqgen.training.checkpoint import CheckpointStore
from seqgen.training.run_directory import RunDirectory
from seqgen.training.state import TrainState

SYSTEM = "be kind"
TEXTS = ["a latte please", "ein Café 咖啡, ça va?", "be kind", "yes, your mocha comes!"]
DECODER = {"num_layers": 1, "num_heads": 2, "ff_dim": 16}
ENCODERS = {
    "causal": {"kind": "none", "source_prefix": True},
    "pairs": {"kind": "transformer", **DECODER},
}


def parts(kind, *, system_line=SYSTEM, tokenizer="byte"):
    """Config, tokenizers, definition and decided parameters; kind 'causal' or 'pairs'."""
    cfg = config.from_dict(
        {
            "name": kind,
            "data": {
                "source": "dialogue",
                "speakers": ("user", "bot"),
                "reply_speaker": "bot",
                "system_line": system_line,
                "max_source_len": 256,
            },
            "model": {
                "embed_dim": 16,
                "tie_embeddings": "none",
                "encoder": ENCODERS[kind],
                "decoder": DECODER,
            },
            "decode": {"max_length": 12},
        }
    )
    vocabularies = build_tokenizers(
        TokenizerConfig(kind=tokenizer, vocab_size=320),
        source_texts=lambda: iter(TEXTS * 4),
        target_texts=lambda: (),
    )
    tokenizers = wrap(vocabularies, cfg.data)
    definition = build_definition(cfg, tokenizers, compute_dtype="float32")
    params = jax.jit(definition.init)(jax.random.key(3))
    params["output"]["table"] = params["output"]["table"] * 6
    return cfg, tokenizers, definition, params


def generator(kind, **options):
    cfg, tokenizers, definition, params = parts(kind, **options)
    return make_generator(cfg, definition, params, tokenizers)


def write_run(workdir, cfg, tokenizers: data.Tokenizers, params):
    """A run directory whose only checkpoint holds `params`."""
    state = TrainState(
        step=np.asarray(1, np.int32),
        params=params,
        opt_state={},
        key=np.asarray(0, np.uint32),
        ema=None,
        counters={},
    )
    with RunDirectory(workdir) as run:
        run.write_config(config_schema.to_dict(cfg))
    (workdir / "tokenizer").mkdir()
    save_tokenizers(tokenizers, workdir / "tokenizer", made_from="test")
    CheckpointStore(workdir, asynchronous=False).save(1, state, {})
    return workdir
