"""Dropout on recurrent weights: one mask a batch, outside of the scan, for every way to run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqgen.errors import ConfigError
from seqgen.models import build_model
from seqgen.models.config import (
    ModelConfig,
    NoEncoderConfig,
    RecurrentDecoderConfig,
    RecurrentEncoderConfig,
)
from seqgen.types import Batch, Sequences

RATE, HIDDEN, VOCAB = 0.4, 6, 9


def rows(seed, batch=2, length=5):
    ids = np.random.default_rng(seed).integers(4, VOCAB, (batch, length)).astype(np.int32)
    return Sequences(ids, np.ones_like(ids), np.tile(np.arange(length), (batch, 1)))


def built(*, rate, kind="lstm", attention="none"):
    options = {"bridge": "zero"} if attention == "none" else {"attention_dim": 4}
    encoder = NoEncoderConfig()
    if attention != "none":
        encoder = RecurrentEncoderConfig(kind="gru", num_layers=1, hidden_dim=3, dropout_rate=0.0)
    decoder = RecurrentDecoderConfig(
        kind=kind,
        num_layers=2,
        hidden_dim=HIDDEN,
        dropout_rate=0.0,
        attention=attention,
        weight_dropout_rate=rate,
        **options,
    )
    cfg = ModelConfig(embed_dim=HIDDEN, dropout_rate=0.0, encoder=encoder, decoder=decoder)
    return build_model(cfg, source_vocab_size=VOCAB, target_vocab_size=VOCAB)


def thinned(params, kept):
    """The parameters with each recurrent kernel's `kept` weights scaled and the others zero."""
    layers = {
        name: {**layer, "recurrent_kernel": layer["recurrent_kernel"] * kept[name] / (1 - RATE)}
        for name, layer in params["decoder"]["layers"].items()
    }
    return {**params, "decoder": {**params["decoder"], "layers": layers}}


@pytest.mark.parametrize(("kind", "attention"), [("lstm", "none"), ("gru", "bahdanau")])
def test_it_is_the_model_of_kernels_with_some_weights_left_out(kind, attention):
    """Which ones, the gradient tells: it is zero there, whatever the row and the step."""
    dropping, plain = (built(rate=r, kind=kind, attention=attention) for r in (RATE, 0.0))
    params = plain.init(jax.random.key(0))
    batch = Batch(None if attention == "none" else rows(1), rows(2), rows(2).ids, np.ones((2, 5)))

    @jax.jit
    def run(params, key):
        return jnp.sum(jnp.sin(dropping.bind(params)(batch, key=key)))

    @jax.jit
    def reference(params):
        return jnp.sum(jnp.sin(plain.bind(params)(batch)))

    keys = np.array([7, 8], np.uint32)
    masks = []
    for key in keys:
        value, grads = jax.value_and_grad(run)(params, key)
        layers = grads["decoder"]["layers"]
        kept = {name: layer["recurrent_kernel"] != 0 for name, layer in layers.items()}
        np.testing.assert_allclose(value, reference(thinned(params, kept)), rtol=1e-5)
        masks.append(np.concatenate([np.ravel(mask) for mask in kept.values()]))
        assert abs(masks[-1].mean() - (1 - RATE)) < 0.15
        assert not np.array_equal(kept["0"], kept["1"]), "each layer has a mask of its own"
    assert not np.array_equal(*masks), "each batch has masks of its own"
    np.testing.assert_array_equal(run(params, None), reference(params))


@pytest.mark.parametrize("kind", ["mingru", "ssru"])
def test_cells_without_recurrent_kernels_refuse_it(kind):
    with pytest.raises(ConfigError, match="this cell has none"):
        built(rate=RATE, kind=kind)
