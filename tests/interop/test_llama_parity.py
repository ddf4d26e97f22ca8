"""The same numbers as transformers' Qwen3 and Mistral: the modern decoder, part by part.

RMSNorm, SwiGLU, grouped queries, no biases, rotary positions, queries and keys normalised, windows.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqgen.interop.huggingface_names import MISTRAL, QWEN3, from_huggingface, to_huggingface
from seqgen.models import ModelConfig, build_model
from seqgen.models.config import NoEncoderConfig, TransformerDecoderConfig
from seqgen.training.config import TrainConfig
from seqgen.training.loss import make_loss
from seqgen.types import Batch, Sequences, no_source

# What is compiled here runs once, so the compiler's own time is all that counts.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", reason="parity needs transformers")

VOCAB, WIDTH, DIM, HEADS, KV_HEADS, LAYERS, FF, WINDOW = 37, 11, 32, 4, 2, 2, 48, 3
LENGTHS = np.array([11, 7, 4])
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": DIM,
    "intermediate_size": FF,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": DIM // HEADS,
    "max_position_embeddings": 32,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "attn_implementation": "eager",
    "pad_token_id": 0,
}
FAMILIES = {
    "qwen3": (
        QWEN3,
        lambda: transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**SIZES)),
        {"qk_norm": True},
    ),
    "mistral": (
        MISTRAL,
        lambda: transformers.MistralForCausalLM(
            transformers.MistralConfig(**SIZES, sliding_window=WINDOW)
        ),
        {"attention_window": WINDOW},
    ),
}


def build(family):
    names, make, options = FAMILIES[family]
    torch.manual_seed(0)
    theirs = make()
    with torch.no_grad():  # norms begin as the identity
        for parameter in theirs.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    config = ModelConfig(
        embed_dim=DIM,
        scale_embeddings=False,
        tie_embeddings="none",
        encoder=NoEncoderConfig(),
        decoder=TransformerDecoderConfig(
            num_layers=LAYERS,
            num_heads=HEADS,
            num_kv_heads=KV_HEADS,
            ff_dim=FF,
            norm="rmsnorm",
            norm_position="pre",
            activation="swiglu",
            bias=False,
            positions="rotary",
            rotary_base=theirs.config.rope_parameters["rope_theta"],
            **options,
        ),
    )
    definition = build_model(config, source_vocab_size=VOCAB, target_vocab_size=VOCAB)
    tensors = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    params = from_huggingface(tensors, names, like=definition.abstract)
    back = to_huggingface(params, names)
    assert set(back) == set(tensors)
    for name, tensor in back.items():
        np.testing.assert_array_equal(tensor, tensors[name])
    return theirs.eval(), definition, jax.tree.map(jnp.asarray, params), names


def tensor(array):
    return torch.from_numpy(np.array(array)).long()


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_loss_every_gradient_and_steps_by_the_cache(family):
    theirs, definition, params, names = build(family)
    real = (np.arange(WIDTH) < LENGTHS[:, None]).astype(np.int32)
    ids = np.random.default_rng(0).integers(4, VOCAB, real.shape).astype(np.int32) * real
    text = Sequences(ids, real, real * np.arange(WIDTH, dtype=np.int32))
    labels = np.pad(ids[:, 1:], ((0, 0), (0, 1)))
    batch = Batch(None, text, labels, np.pad(real[:, 1:], ((0, 0), (0, 1))).astype(np.float32))

    @jit
    def run(params):
        model = definition.bind(params)
        loss = make_loss(definition, TrainConfig(), compute_dtype="float32")

        def mean(params):
            total, sums = loss(params, batch, None)
            return total / sums["weight"], sums

        gradient, sums = jax.grad(mean, has_aux=True)(params)
        state = model.init_decode(model.encode(no_source(3)), max_len=WIDTH)
        steps = []
        for t in range(WIDTH):
            out, state = model.extend(state, ids[:, t : t + 1], real[:, t])
            steps.append(model.output_logits(out.hidden[:, 0]))
        return model.output_logits(model(batch)), jnp.stack(steps, 1), gradient, sums

    logits, stepped, gradient, sums = run(params)
    expected = theirs(
        tensor(ids), attention_mask=tensor(real), labels=tensor(np.where(real, ids, -100))
    )
    want, seen = expected.logits.detach().numpy(), real > 0
    np.testing.assert_allclose(np.asarray(logits)[seen], want[seen], atol=1e-4)
    np.testing.assert_allclose(np.asarray(stepped)[seen], want[seen], atol=1e-4)
    assert float(sums["nll"] / sums["weight"]) == pytest.approx(expected.loss.item(), abs=1e-4)
    expected.loss.backward()
    tensors = {name: p.grad.numpy() for name, p in theirs.named_parameters()}
    wanted = from_huggingface(tensors, names, like=definition.abstract)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-3), gradient, wanted
    )
