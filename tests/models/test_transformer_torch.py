"""The same numbers as torch.nn.Transformer with copied weights: the paper's architecture."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqgen.models.config import TransformerDecoderConfig, TransformerEncoderConfig
from seqgen.models.transformer import TransformerDecoder, TransformerEncoder
from seqgen.types import Sequences

torch = pytest.importorskip("torch")

DIM, HEADS, FF, LAYERS = 32, 4, 48, 3
SOURCE_LENGTHS, TARGET_LENGTHS = np.array([7, 4, 1]), np.array([6, 6, 2])


def sequences(lengths):
    width = lengths.max()
    real = (np.arange(width) < lengths[:, None]).astype(np.int32)
    return Sequences(*(jnp.asarray(a) for a in (real, real, real * np.arange(width))))


def set_dense(layer, weight, bias):
    layer.kernel[...] = jnp.asarray(weight.detach().numpy().T)
    layer.bias[...] = jnp.asarray(bias.detach().numpy())


def set_attention(ours, theirs):
    weights, biases = theirs.in_proj_weight.chunk(3), theirs.in_proj_bias.chunk(3)
    for layer, weight, bias in zip(
        (ours.query, ours.key, ours.value), weights, biases, strict=True
    ):
        set_dense(layer, weight, bias)
    set_dense(ours.out, theirs.out_proj.weight, theirs.out_proj.bias)


def set_norm(ours, theirs):
    ours.scale[...] = jnp.asarray(theirs.weight.detach().numpy())
    ours.bias[...] = jnp.asarray(theirs.bias.detach().numpy())


def copy_stack(ours, theirs):
    for mine, layer in zip(ours.layers, theirs.layers, strict=True):
        set_attention(mine.self_attention, layer.self_attn)
        set_norm(mine.self_norm, layer.norm1)
        norms = [layer.norm2]
        if mine.cross_attention is not None:
            set_attention(mine.cross_attention, layer.multihead_attn)
            set_norm(mine.cross_norm, layer.norm2)
            norms = [layer.norm3]
        set_norm(mine.feed_forward_norm, norms[0])
        set_dense(mine.feed_forward.up, layer.linear1.weight, layer.linear1.bias)
        set_dense(mine.feed_forward.down, layer.linear2.weight, layer.linear2.bias)
    if theirs.norm is not None:
        set_norm(ours.final_norm, theirs.norm)


def torch_model(pre, activation):
    options = {
        "dim_feedforward": FF,
        "dropout": 0.0,
        "activation": activation,
        "batch_first": True,
        "norm_first": pre,
    }
    # The class adds a last norm to post-norm stacks too, which the paper does not have.
    norm = (lambda: torch.nn.LayerNorm(DIM)) if pre else (lambda: None)
    encoder = torch.nn.TransformerEncoder(
        torch.nn.TransformerEncoderLayer(DIM, HEADS, **options),
        LAYERS,
        norm(),
        enable_nested_tensor=False,
    )
    decoder = torch.nn.TransformerDecoder(
        torch.nn.TransformerDecoderLayer(DIM, HEADS, **options), LAYERS, norm()
    )
    model = torch.nn.Transformer(
        DIM, HEADS, custom_encoder=encoder, custom_decoder=decoder, batch_first=True
    )
    torch.manual_seed(1)
    with torch.no_grad():  # copied layers are equal: make them differ, biases and norms as well
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.train()


@pytest.mark.parametrize("position", ["post", "pre"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_hidden_states_and_gradients(position, activation):
    torch.manual_seed(0)
    theirs = torch_model(position == "pre", activation)
    options = {
        "num_layers": LAYERS,
        "num_heads": HEADS,
        "ff_dim": FF,
        "activation": activation,
        "norm_position": position,
    }
    encoder = TransformerEncoder(
        TransformerEncoderConfig(**options), embed_dim=DIM, rngs=nnx.Rngs(0)
    )
    decoder = TransformerDecoder(
        TransformerDecoderConfig(**options), embed_dim=DIM, encoded=encoder.dims, rngs=nnx.Rngs(1)
    )
    copy_stack(encoder, theirs.encoder)
    copy_stack(decoder, theirs.decoder)
    source, target = sequences(SOURCE_LENGTHS), sequences(TARGET_LENGTHS)
    rng = np.random.default_rng(0)
    shapes = [(*source.ids.shape, DIM), (*target.ids.shape, DIM)]
    source_vectors, target_vectors = (
        rng.standard_normal(shape).astype(np.float32) for shape in shapes
    )
    real = np.asarray(target.segments)[..., None].astype(np.float32)

    @jax.jit
    def run(source_vectors, target_vectors):
        def scalar(source_vectors):
            encoded = encoder(source, embedded=source_vectors)
            hidden = decoder(target, encoded, embedded=target_vectors)
            return (jnp.sin(hidden) * real).sum(), hidden

        return jax.grad(scalar, has_aux=True)(source_vectors)

    gradient, hidden = run(source_vectors, target_vectors)
    source_tensor = torch.tensor(source_vectors, requires_grad=True)
    source_padding = torch.tensor(np.asarray(source.segments) == 0)
    length = target.ids.shape[1]
    expected = theirs(
        source_tensor,
        torch.tensor(target_vectors),
        tgt_mask=torch.triu(torch.ones(length, length, dtype=torch.bool), 1),
        src_key_padding_mask=source_padding,
        memory_key_padding_mask=source_padding,
        tgt_key_padding_mask=torch.tensor(np.asarray(target.segments) == 0),
    )
    total = (torch.sin(expected) * torch.tensor(real)).sum()
    (wanted,) = torch.autograd.grad(total, source_tensor)
    seen = real[..., 0] > 0
    np.testing.assert_allclose(np.asarray(hidden)[seen], expected.detach().numpy()[seen], atol=1e-5)
    np.testing.assert_allclose(gradient, wanted.numpy(), atol=5e-5)
