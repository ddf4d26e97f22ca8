"""LSTM layers by cuDNN: JAX's own reference stands in for the call where there is no GPU."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import export
from jax.experimental import rnn
from jax.interpreters import mlir

from seqgen.models.config import EncodedDims, RecurrentDecoderConfig, RecurrentEncoderConfig
from seqgen.models.recurrent import RecurrentDecoder, RecurrentEncoder
from seqgen.nn import recurrent_cudnn
from seqgen.nn.dropout import make_key
from seqgen.nn.partitioning import axis_rules
from seqgen.nn.recurrent import RecurrentLayer
from seqgen.nn.recurrent_cudnn import cudnn_refusal, on_cuda, pack_weights
from seqgen.training.config import MeshConfig
from seqgen.training.sharding import build_mesh
from seqgen.types import Encoded, Sequences

STEPS, IN_DIM, HIDDEN = 5, 3, 4
LENGTHS = np.array([5, 2, 0, 3])
MASK = jnp.asarray(np.arange(STEPS)[:, None] < LENGTHS)


def random(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def reference_call(calls, x, h, c, weights, lengths, in_dim, hidden, layers, dropout, both, _):
    """What `rnn.lstm` computes, from the same flat weights."""
    calls.append(x.shape)
    sizes = (in_dim, hidden, layers, both)
    unpacked = rnn.unpack_lstm_weights(weights, *sizes)
    return rnn.lstm_ref(x, h, c, *unpacked, lengths, in_dim, hidden, layers, dropout, both)


@pytest.fixture
def calls(monkeypatch):
    """As on a GPU, with the reference in cuDNN's place; the shapes of its inputs."""
    seen = []
    stand_in = types.SimpleNamespace(lstm=functools.partial(reference_call, seen))
    monkeypatch.setattr(recurrent_cudnn, "rnn", stand_in)
    monkeypatch.setattr(recurrent_cudnn, "on_cuda", lambda: True)
    return seen


def test_packed_weights_are_what_cudnn_unpacks():
    two = [
        (random(i, IN_DIM, 4 * HIDDEN), random(i + 5, HIDDEN, 4 * HIDDEN), random(i, 4 * HIDDEN))
        for i in range(2)
    ]
    flat = pack_weights(two)
    assert flat.size == rnn.get_num_params_in_lstm(IN_DIM, HIDDEN, 1, True)
    parts = rnn.unpack_lstm_weights(flat, IN_DIM, HIDDEN, 1, True)
    for direction, (entering, own, bias) in enumerate(two):
        wanted = (entering.T, own.T, bias, jnp.zeros_like(bias))
        for part, want in zip(parts, wanted, strict=True):
            np.testing.assert_array_equal(part[direction], want)


def layer_results(kernel):
    """Real outputs, last state, and gradients in parameters, input and first state."""
    layer = RecurrentLayer(IN_DIM, HIDDEN, kind="lstm", kernel=kernel, rngs=nnx.Rngs(0))
    graph, params = nnx.split(layer)
    params = jax.tree.map(lambda p: p + 0.1 * random(3, *p.shape), params)  # no bias is zero

    def total(params, x, start):
        outputs, last = nnx.merge(graph, params)(x, state=start, mask=MASK)
        real = jnp.where(MASK[..., None], outputs, 0)
        value = (real * random(4, *real.shape)).sum() + jnp.sin(last["h"] + 2 * last["c"]).sum()
        return value, (real, last)

    start = {"h": random(1, 4, HIDDEN), "c": random(2, 4, HIDDEN)}
    x = random(0, STEPS, 4, IN_DIM)
    return jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True))(params, x, start)


def close(got, want, tolerance=1e-5):
    for (path, a), b in zip(jax.tree.leaves_with_path(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, atol=tolerance, err_msg=str(path))


def test_a_layer_with_lengths_and_a_first_state_equals_the_scan(calls):
    got = layer_results("auto")
    assert calls == [(4, STEPS, IN_DIM)]
    close(got, layer_results("scan"))
    assert len(calls) == 1


def encoder_results(kernel):
    cfg = RecurrentEncoderConfig(
        num_layers=2, hidden_dim=HIDDEN, dropout_rate=0.3, residual=True, recurrence_kernel=kernel
    )
    graph, params = nnx.split(RecurrentEncoder(cfg, embed_dim=2 * HIDDEN, rngs=nnx.Rngs(0)))
    segments = MASK.T.astype(jnp.int32)
    source = Sequences(ids=segments, segments=segments, positions=segments)

    def total(params, x):
        encoded = nnx.merge(graph, params)(source, embedded=x, key=make_key(0, step=1))
        memory = jnp.where(segments[..., None] != 0, encoded.memory, 0)
        value = (memory**2).sum() + encoded.states[0]["c"].sum() + (encoded.summary**2).sum()
        return value, (memory, encoded.states, encoded.summary)

    run = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))
    return run(params, random(0, 4, STEPS, 2 * HIDDEN))


def test_an_encoder_of_two_directions_is_one_call_a_layer_with_dropout_between(calls):
    got = encoder_results("auto")
    assert calls == [(4, STEPS, 2 * HIDDEN)] * 2
    close(got, encoder_results("scan"))


@pytest.mark.parametrize(
    ("options", "num_calls"),
    [
        ({"attention": "none"}, 2),
        ({"attention": "none", "context_every_step": True}, 1),  # the first layer's gates get more
        ({"attention": "luong_general"}, 2),
        ({"attention": "luong_general", "input_feeding": True}, 0),
        ({"attention": "bahdanau"}, 0),
    ],
)
def test_decoders_use_it_where_layers_run_one_by_one(calls, options, num_calls):
    dims = EncodedDims(memory=HIDDEN, summary=HIDDEN)
    segments = jnp.ones((4, 2), jnp.int32)
    encoded = Encoded(
        memory=random(0, 4, 2, HIDDEN),
        segments=segments,
        positions=segments,
        summary=random(1, 4, HIDDEN),
    )
    target = Sequences(*[jnp.ones((4, STEPS), jnp.int32)] * 3)
    x = random(2, 4, STEPS, IN_DIM)
    results = []
    for kernel in ("auto", "scan"):
        cfg = RecurrentDecoderConfig(
            hidden_dim=HIDDEN, attention_dim=HIDDEN, recurrence_kernel=kernel, **options
        )
        decoder = RecurrentDecoder(cfg, embed_dim=IN_DIM, encoded=dims, rngs=nnx.Rngs(0))

        @jax.jit
        def run(x, decoder=decoder):
            state, steps = decoder.init_decode(encoded, max_len=STEPS), []
            for t in range(2):
                step, state = decoder.extend(state, x[:, t : t + 1], jnp.ones(4, jnp.int32))
                steps.append(step.hidden)
            return decoder(target, encoded, embedded=x), jnp.concatenate(steps, axis=1)

        parallel, stepped = run(x)
        np.testing.assert_allclose(stepped, parallel[:, :2], atol=1e-5)
        results.append(parallel)
    close(*results)
    assert len(calls) == num_calls, "the whole pass only, not the single steps"


def test_on_this_cpu_auto_is_the_scan_bit_for_bit():
    if on_cuda():
        pytest.skip("there is an NVIDIA GPU here")
    for a, b in zip(*(jax.tree.leaves(layer_results(k)) for k in ("auto", "scan")), strict=True):
        np.testing.assert_array_equal(a, b)


def test_refusals_say_why(calls):
    assert cudnn_refusal("lstm", 7, added=False) is None
    for arguments, cause in (
        (("gru", 7, False), "'gru'"),
        (("lstm", 7, True), "added"),
        (("lstm", 1, False), "single step"),
    ):
        assert cause in (cudnn_refusal(*arguments[:2], added=arguments[2]) or "")
    with axis_rules(build_mesh(MeshConfig(data=2))):
        assert "mesh" in (cudnn_refusal("lstm", 7, added=False) or "")


def test_without_a_gpu_it_says_so(monkeypatch):
    monkeypatch.setattr(recurrent_cudnn, "on_cuda", lambda: False)
    assert "no NVIDIA GPU" in (cudnn_refusal("lstm", 7, added=False) or "")


def test_terms_added_to_the_gates_and_reading_backwards_alone_stay_with_the_scan(calls):
    layer = RecurrentLayer(IN_DIM, HIDDEN, kind="lstm", kernel="auto", rngs=nnx.Rngs(0))
    x = random(0, STEPS, 4, IN_DIM)
    layer(x, mask=MASK, reverse=True)
    layer(x, mask=MASK, added=random(1, 4, 4 * HIDDEN))
    layer(x[:1], mask=MASK[:1])
    assert not calls


@pytest.fixture
def plugin(monkeypatch):
    """JAX's CUDA plug-in as far as lowering asks it; its sizes are made up."""
    library = pytest.importorskip("jaxlib.gpu_rnn")
    described = []

    def describe(*sizes):
        described.append(sizes)
        return "descriptor"

    fake = types.SimpleNamespace(build_rnn_descriptor=describe)
    monkeypatch.setattr(
        library, "compute_rnn_workspace_reserve_space_sizes", lambda *_: (64, 32), raising=False
    )
    platform_rules = mlir._platform_specific_lowerings["cuda"]
    for primitive, rule in (
        (rnn.rnn_fwd_p, library._rnn_fwd_lowering),
        (rnn.rnn_bwd_p, library._rnn_bwd_lowering),
    ):
        monkeypatch.setitem(platform_rules, primitive, platform_rules[primitive])
        mlir.register_lowering(primitive, functools.partial(rule, fake, "cu"), platform="cuda")
    monkeypatch.setattr(recurrent_cudnn, "on_cuda", lambda: True)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")  # no CPU layouts
    return described


@pytest.mark.parametrize(("compute_dtype", "tf32"), [("float32", False), ("bfloat16", True)])
def test_lowers_for_cuda_forward_and_backward(plugin, compute_dtype, tf32):
    layer = RecurrentLayer(
        IN_DIM, HIDDEN, kind="lstm", kernel="auto", compute_dtype=compute_dtype, rngs=nnx.Rngs(0)
    )
    graph, params = nnx.split(layer)

    def total(params, x):
        outputs, last = nnx.merge(graph, params)(x, mask=MASK)
        return outputs.sum() + last["c"].sum()

    unstable = [
        export.DisabledSafetyCheck.custom_call(f"cudnn_rnn{way}_ffi") for way in ("", "_bwd")
    ]
    with jax.default_matmul_precision(None):
        lower = export.export(
            jax.jit(jax.grad(total)), platforms=["cuda"], disabled_checks=unstable
        )
        program = lower(params, random(0, STEPS, 4, IN_DIM)).mlir_module()
    assert "cudnn_rnn_ffi" in program and "cudnn_rnn_bwd_ffi" in program
    sizes = (IN_DIM, HIDDEN, 1, 4, STEPS, 0.0, False, tf32, 64, 32)
    assert plugin == [sizes] * 2


@pytest.mark.skipif(not on_cuda(), reason="needs an NVIDIA GPU (JAX_PLATFORMS=cuda)")
@pytest.mark.parametrize("results", [layer_results, encoder_results])
def test_cudnn_itself_equals_the_scan(results):
    close(results("auto"), results("scan"), tolerance=1e-4)
