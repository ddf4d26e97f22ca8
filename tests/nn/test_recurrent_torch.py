"""Parity of stacked recurrent layers with torch.nn, weights copied, padded and packed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from seqgen.models.config import RecurrentEncoderConfig
from seqgen.models.recurrent import RecurrentEncoder
from seqgen.types import Sequences

torch = pytest.importorskip("torch")

LAYERS, IN_DIM, HIDDEN, STEPS = 2, 3, 4, 6
LENGTHS = np.array([6, 2, 5, 1])
TORCH = {"simple": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}


def copied(encoder, model, *, joint):
    """Put torch's weights into the encoder; torch's two biases are summed where they add up."""
    for direction, suffix in ((encoder.forward, ""), (encoder.backward, "_reverse")):
        for i, layer in enumerate(direction):
            get = lambda name, i=i, suffix=suffix: jnp.asarray(  # noqa: E731
                getattr(model, f"{name}_l{i}{suffix}").detach().numpy()
            )
            layer.input.kernel[...] = get("weight_ih").T
            layer.recurrent_kernel[...] = get("weight_hh").T
            layer.input.bias[...] = get("bias_ih") + (get("bias_hh") if joint else 0)
            if not joint:
                layer.recurrent_bias[...] = get("bias_hh")


def gradients_of(encoder, tree, *, joint):
    """The encoder's gradients under torch's names."""
    named = {}
    for direction, suffix in (("forward", ""), ("backward", "_reverse")):
        for i in range(LAYERS):
            layer = tree[direction][i]
            named[f"weight_ih_l{i}{suffix}"] = layer["input"]["kernel"][...].T
            named[f"weight_hh_l{i}{suffix}"] = layer["recurrent_kernel"][...].T
            named[f"bias_ih_l{i}{suffix}"] = layer["input"]["bias"][...]
            own = layer["input"]["bias"] if joint else layer["recurrent_bias"]
            named[f"bias_hh_l{i}{suffix}"] = own[...]
    return named


@pytest.mark.parametrize("kind", ["simple", "lstm", "gru"])
def test_two_bidirectional_layers_equal_torch_forward_and_backward(kind):
    torch.manual_seed(0)
    joint = kind != "gru"
    model = TORCH[kind](IN_DIM, HIDDEN, LAYERS, batch_first=True, bidirectional=True)
    cfg = RecurrentEncoderConfig(
        kind=kind, num_layers=LAYERS, hidden_dim=HIDDEN, bidirectional=True
    )
    encoder = RecurrentEncoder(cfg, embed_dim=IN_DIM, rngs=nnx.Rngs(0))
    copied(encoder, model, joint=joint)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(len(LENGTHS), STEPS, IN_DIM)).astype(np.float32)
    weigh = rng.normal(size=(len(LENGTHS), STEPS, 2 * HIDDEN)).astype(np.float32)
    weigh_last = rng.normal(size=(len(LENGTHS), 2 * HIDDEN)).astype(np.float32)

    x_torch = torch.tensor(x, requires_grad=True)
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        x_torch, torch.tensor(LENGTHS), batch_first=True, enforce_sorted=False
    )
    packed_memory, last = model(packed)
    memory, _ = torch.nn.utils.rnn.pad_packed_sequence(
        packed_memory, batch_first=True, total_length=STEPS
    )
    last_h = last[0] if kind == "lstm" else last
    by_layer = last_h.view(LAYERS, 2, len(LENGTHS), HIDDEN)
    summary = torch.cat([by_layer[-1, 0], by_layer[-1, 1]], -1)
    total = (memory * torch.tensor(weigh)).sum() + (summary * torch.tensor(weigh_last)).sum()
    total.backward()

    segments = jnp.asarray((np.arange(STEPS) < LENGTHS[:, None]).astype(np.int32))
    source = Sequences(ids=segments, segments=segments, positions=segments)
    graph, params = nnx.split(encoder)

    @jax.jit
    def run(params, x):
        encoded = nnx.merge(graph, params)(source, embedded=x)
        masked = jnp.where(segments[..., None] != 0, encoded.memory, 0)
        total = (masked * weigh).sum() + (encoded.summary * weigh_last).sum()
        return total, (masked, encoded)

    (_, (masked, encoded)), (grads, dx) = jax.value_and_grad(run, (0, 1), has_aux=True)(params, x)
    np.testing.assert_allclose(masked, memory.detach().numpy(), atol=1e-5)
    np.testing.assert_allclose(encoded.summary, summary.detach().numpy(), atol=1e-5)
    for i, states in enumerate(encoded.states):
        both = torch.cat([by_layer[i, 0], by_layer[i, 1]], -1).detach().numpy()
        np.testing.assert_allclose(states["h"], both, atol=1e-5)
    if kind == "lstm":
        cells = last[1].view(LAYERS, 2, len(LENGTHS), HIDDEN)
        both = torch.cat([cells[-1, 0], cells[-1, 1]], -1).detach().numpy()
        np.testing.assert_allclose(encoded.states[-1]["c"], both, atol=1e-5)
    np.testing.assert_allclose(dx, x_torch.grad.numpy(), atol=1e-5)
    for name, gradient in gradients_of(encoder, grads, joint=joint).items():
        wanted = getattr(model, name).grad.numpy()
        np.testing.assert_allclose(gradient, wanted, atol=2e-5, err_msg=name)
