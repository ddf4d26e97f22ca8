"""The table of names, read both ways, on made-up numbers; what does not fit is named."""

import jax
import numpy as np
import pytest

from seqgen.errors import ConfigError
from seqgen.interop.huggingface_names import GPT2, from_huggingface, to_huggingface
from seqgen.models import ModelConfig, build_model
from seqgen.models.config import NoEncoderConfig, TransformerDecoderConfig

DEFINITION = build_model(
    ModelConfig(
        embed_dim=8,
        encoder=NoEncoderConfig(),
        decoder=TransformerDecoderConfig(
            num_layers=11, num_heads=2, ff_dim=12, norm_position="pre", positions="learned"
        ),
    ),
    source_vocab_size=9,
    target_vocab_size=9,
)


def tensors():
    random = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: random.standard_normal(leaf.shape).astype(np.float32), DEFINITION.abstract
    )
    return params, to_huggingface(params, GPT2)


def test_out_and_back_is_the_same_in_each_of_eleven_layers():
    params, found = tensors()
    assert len(found) == 4 + 11 * 12  # their query, key and value are one tensor
    joint = found["transformer.h.10.attn.c_attn.weight"]
    layer = params["decoder"]["layers"]["10"]["self_attention"]
    np.testing.assert_array_equal(joint[:, 8:16], layer["key"]["kernel"])
    found["lm_head.weight"] = found["transformer.wte.weight"].copy()
    back = from_huggingface(found, GPT2, like=DEFINITION.abstract)
    jax.tree.map(np.testing.assert_array_equal, back, params)


def test_what_does_not_fit_is_named():
    def refused(match, **changes):
        _, found = tensors()
        found |= {name.replace("__", "."): value for name, value in changes.items()}
        found = {name: value for name, value in found.items() if value is not None}
        with pytest.raises(ConfigError, match=match):
            from_huggingface(found, GPT2, like=DEFINITION.abstract)

    refused(r"no place for +transformer\.ln_9", transformer__ln_9=np.zeros(8))
    refused("no place for +decoder/layers/11/", transformer__h__11__ln_1__weight=np.zeros(8))
    refused("missing +decoder/final_norm/bias", transformer__ln_f__bias=None)
    refused(r"final_norm/bias \(7,\), model \(8,\)", transformer__ln_f__bias=np.zeros(7))
    refused("not tied +lm_head.weight", lm_head__weight=np.zeros((9, 8)))
    params, _ = tensors()
    with pytest.raises(ConfigError, match=r"without +odd/scale"):
        to_huggingface({**params, "odd": {"scale": np.zeros(8)}}, GPT2)
