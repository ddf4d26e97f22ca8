"""The same logits as GPT-2 written with torch.nn, its weights copied."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqgen.models import ModelConfig, build_model
from seqgen.models.config import NoEncoderConfig, TransformerDecoderConfig
from seqgen.types import Batch, Sequences

torch = pytest.importorskip("torch")
nn = torch.nn

VOCAB, CONTEXT, DIM, HEADS, LAYERS = 37, 11, 32, 4, 2


class Block(nn.Module):
    """One layer of GPT-2 (Radford et al. 2019), with the names of the published weights."""

    def __init__(self):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(DIM), nn.LayerNorm(DIM)
        self.c_attn, self.c_proj = nn.Linear(DIM, 3 * DIM), nn.Linear(DIM, DIM)
        self.c_fc, self.mlp_proj = nn.Linear(DIM, 4 * DIM), nn.Linear(4 * DIM, DIM)

    def forward(self, x):
        length = x.shape[1]
        heads = [
            part.view(*part.shape[:2], HEADS, -1).transpose(1, 2)
            for part in self.c_attn(self.ln_1(x)).split(DIM, dim=2)
        ]
        query, key, value = heads
        scores = query @ key.transpose(2, 3) / math.sqrt(DIM // HEADS)
        later = torch.ones(length, length, dtype=torch.bool).triu(1)
        weights = scores.masked_fill(later, -torch.inf).softmax(-1)
        x = x + self.c_proj((weights @ value).transpose(1, 2).reshape(x.shape))
        up = self.c_fc(self.ln_2(x))
        gelu_new = 0.5 * up * (1 + torch.tanh(math.sqrt(2 / math.pi) * (up + 0.044715 * up**3)))
        return x + self.mlp_proj(gelu_new)


class GPT2(nn.Module):
    def __init__(self):
        super().__init__()
        self.wte, self.wpe = nn.Embedding(VOCAB, DIM), nn.Embedding(CONTEXT, DIM)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.ln_f = nn.LayerNorm(DIM)

    def forward(self, ids):
        x = self.wte(ids) + self.wpe.weight[: ids.shape[1]]
        return self.ln_f(self.blocks(x)) @ self.wte.weight.T


def array(tensor):
    return jnp.asarray(tensor.detach().numpy())


def linear(layer):
    return {"kernel": array(layer.weight).T, "bias": array(layer.bias)}


def norm(layer):
    return {"scale": array(layer.weight), "bias": array(layer.bias)}


def block(theirs):
    joint = linear(theirs.c_attn)
    cut = {name: jnp.split(joint[name], 3, axis=-1) for name in joint}
    attention = {
        name: {part: cut[part][i] for part in cut}
        for i, name in enumerate(("query", "key", "value"))
    }
    return {
        "self_norm": norm(theirs.ln_1),
        "self_attention": {**attention, "out": linear(theirs.c_proj)},
        "feed_forward_norm": norm(theirs.ln_2),
        "feed_forward": {"up": linear(theirs.c_fc), "down": linear(theirs.mlp_proj)},
    }


def test_logits_and_gradients_are_those_of_gpt2():
    torch.manual_seed(0)
    theirs = GPT2()
    with torch.no_grad():  # norms start as the identity, the same for every mistake in them
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    config = ModelConfig(
        embed_dim=DIM,
        scale_embeddings=False,
        encoder=NoEncoderConfig(),
        decoder=TransformerDecoderConfig(
            num_layers=LAYERS,
            num_heads=HEADS,
            ff_dim=4 * DIM,
            norm_position="pre",
            positions="learned",
            max_positions=CONTEXT,
            activation="gelu_tanh",
        ),
    )
    definition = build_model(config, source_vocab_size=VOCAB, target_vocab_size=VOCAB)
    params = {
        "target_embedding": {"table": array(theirs.wte.weight)},
        "decoder": {
            "layers": {str(i): block(layer) for i, layer in enumerate(theirs.blocks)},
            "learned_positions": {"table": array(theirs.wpe.weight)},
            "final_norm": norm(theirs.ln_f),
        },
    }
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(lambda x: x.shape, definition.abstract)
    ids = np.random.default_rng(0).integers(0, VOCAB, (3, CONTEXT)).astype(np.int32)
    ones = np.ones_like(ids)
    rows = Sequences(ids, ones, ones * np.arange(CONTEXT, dtype=np.int32))

    @jax.jit
    def run(params):
        def scalar(params):
            model = definition.bind(params)
            logits = model.output_logits(model(Batch(None, rows, ids, ones.astype(np.float32))))
            return jnp.sin(logits).sum(), logits

        return jax.grad(scalar, has_aux=True)(params)

    gradients, logits = run(params)
    expected = theirs(torch.from_numpy(ids).long())
    np.testing.assert_allclose(logits, expected.detach().numpy(), atol=1e-4)
    torch.sin(expected).sum().backward()
    for got, want in (
        (gradients["target_embedding"]["table"], theirs.wte.weight.grad),
        (gradients["decoder"]["learned_positions"]["table"], theirs.wpe.weight.grad),
        (gradients["decoder"]["final_norm"]["bias"], theirs.ln_f.bias.grad),
    ):
        np.testing.assert_allclose(got, want.numpy(), atol=2e-3, rtol=1e-3)
