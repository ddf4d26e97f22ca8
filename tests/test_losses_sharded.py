"""The loss on meshes that cut the vocabulary: equal to one device's, nothing put together."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from seqgen.losses import Mixture, vocabulary_loss
from seqgen.nn.partitioning import DEFAULT_RULES, axis_rules, spec_for
from seqgen.training.config import MeshConfig
from seqgen.training.sharding import build_mesh

# No other length is a multiple of 11, so that a whole vocabulary shows in a program's text.
B, T, D, V = 4, 6, 10, 44
AXES = {
    "hidden": ("batch", "length", None),
    "kernel": ("vocab", "embed"),
    "bias": ("vocab",),
    "labels": ("batch", "length"),
    "weights": ("batch", "length"),
}
MESHES = {
    "tensor=2": MeshConfig(tensor=2),
    "tensor=4": MeshConfig(tensor=4),
    "data=2 tensor=4": MeshConfig(data=2, tensor=4),
    "data=2 fsdp=2 tensor=2": MeshConfig(data=2, fsdp=2, tensor=2),
    "tensor=2 sequence=2": MeshConfig(tensor=2, sequence=2),
}
OPTIONS = {"label_smoothing": 0.1, "z_loss": 0.01, "chunk_tokens": 8}


def example(vocab_size=V, batch=B):
    rng = np.random.default_rng(0)
    shapes = {"hidden": (batch, T, D), "kernel": (vocab_size, D), "bias": (vocab_size,)}
    arrays = {n: jnp.asarray(rng.standard_normal(s), jnp.float32) for n, s in shapes.items()}
    labels = rng.integers(0, vocab_size, (batch, T))
    labels[0, :2] = 0, vocab_size - 1
    arrays["labels"] = jnp.asarray(labels, jnp.int32)
    arrays["weights"] = jnp.asarray(rng.choice([0.0, 0.5, 1.0], (batch, T)), jnp.float32)
    # Some tokens are guessed rightly, on either side of the cuts.
    best = jnp.argmax(arrays["hidden"] @ arrays["kernel"].T + arrays["bias"], -1)
    arrays["labels"] = jnp.where(rng.random((batch, T)) < 0.4, best, arrays["labels"])
    return arrays


def gradients(arrays, options):
    def loss(learnt):
        given = {**arrays, **learnt}
        out = vocabulary_loss(*(given.get(name) for name in AXES), **options)
        return 0.3 * out.loss, out

    learnt = {n: arrays[n] for n in ("hidden", "kernel", "bias") if n in arrays}
    return jax.grad(loss, has_aux=True)(learnt)


def place(arrays, mesh, rules=DEFAULT_RULES):
    return {
        n: jax.device_put(
            x, NamedSharding(mesh, spec_for(AXES[n], rules, shape=x.shape, mesh=mesh))
        )
        for n, x in arrays.items()
    }


def run(arrays, mesh_cfg=None, rules=DEFAULT_RULES, **options):
    """Gradients and outputs, and the text of the program."""
    mesh = None if mesh_cfg is None else build_mesh(mesh_cfg)
    if mesh is not None:
        arrays = place(arrays, mesh, rules)
    with axis_rules(mesh, rules):
        program = jax.jit(lambda a: gradients(a, {**OPTIONS, **options})).lower(arrays).compile()
    return program(arrays), program.as_text()


def check(got, want, tolerance=1e-5):
    (got_grads, got_out), (want_grads, want_out) = got, want
    for name in ("loss", "nll", "correct", "weight"):
        np.testing.assert_allclose(
            getattr(got_out, name), getattr(want_out, name), rtol=tolerance, err_msg=name
        )
    for name, wanted in want_grads.items():
        error = np.linalg.norm(np.asarray(got_grads[name]) - np.asarray(wanted))
        assert error <= tolerance * np.linalg.norm(wanted), (name, error)


def lengths_in(text):
    """All lengths of axes of all arrays that a compiled program names."""
    found = re.findall(r"\b(?:pred|[fsu]\d+|bf16)\[([\d,]+)\]", text)
    return {int(length) for shape in found for length in shape.split(",")}


@pytest.mark.parametrize("name", MESHES)
def test_equals_one_device_and_never_puts_the_vocabulary_together(name):
    want, whole = run(example())
    got, text = run(example(), MESHES[name])
    check(got, want)
    assert want[1].correct > 1
    assert V in lengths_in(whole), "the search would see a whole vocabulary"
    assert V not in lengths_in(text)
    assert V // MESHES[name].tensor in lengths_in(text)
    sharding = got[0]["kernel"].sharding
    assert sharding.shard_shape((V, D))[0] == V // MESHES[name].tensor


def test_a_second_way_to_the_labels():
    rng = np.random.default_rng(2)
    logs = [jnp.asarray(np.log(rng.random((B, T)) / 2), jnp.float32) for _ in range(2)]
    mesh = build_mesh(MESHES["data=2 tensor=4"])

    def gradients(arrays):
        def loss(hidden, kernel, logs):
            given = {**arrays, "hidden": hidden, "kernel": kernel}
            given = [given[name] for name in AXES]
            out = vocabulary_loss(*given, mixture=Mixture(*logs, logs[0]), **OPTIONS)
            return out.loss, out

        learnt = arrays["hidden"], arrays["kernel"], logs[:2]
        return jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)(*learnt)

    want = jax.jit(gradients)(example())
    with axis_rules(mesh):
        program = jax.jit(gradients).lower(place(example(), mesh)).compile()
    got = program(place(example(), mesh))
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert V not in lengths_in(program.as_text())


def test_without_bias_in_evaluation():
    arrays = example()
    del arrays["bias"]
    check(run(arrays, MESHES["tensor=4"])[0], run(arrays)[0])
    mesh = build_mesh(MESHES["tensor=4"])
    placed = place(arrays, mesh)
    given = [placed.get(name) for name in AXES]
    with axis_rules(mesh):
        out = jax.jit(lambda *a: vocabulary_loss(*a))(*given)
    want = vocabulary_loss(*(arrays.get(name) for name in AXES))
    for a, b in zip(jax.tree.leaves(out), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_a_vocabulary_that_does_not_divide_stays_whole_and_right():
    arrays = example(vocab_size=43)
    got, text = run(arrays, MESHES["data=2 tensor=4"])
    check(got, run(arrays)[0])
    assert 43 in lengths_in(text)


def test_rows_that_do_not_divide_are_counted_once():
    arrays = example(batch=3)
    check(run(arrays, MESHES["data=2 tensor=4"])[0], run(arrays)[0])


def test_an_axis_that_has_rows_apart_cannot_cut_the_classes():
    rules = {**DEFAULT_RULES, "vocab": ("data", "tensor")}
    arrays = example(vocab_size=48)
    check(run(arrays, MESHES["data=2 tensor=4"], rules)[0], run(arrays)[0])


def test_bfloat16_rounds_as_on_one_device():
    """Sums of exact products of rounded operands differ by order alone; so do rounded d_logits."""
    arrays = example()
    got, _ = run(arrays, MESHES["data=2 tensor=4"], compute_dtype="bfloat16")
    want, _ = run(arrays, compute_dtype="bfloat16")
    check(got, want, tolerance=2e-3)


def test_extreme_logits_stay_finite():
    arrays = example()
    arrays["hidden"] = 300 * arrays["hidden"]
    check(run(arrays, MESHES["tensor=4"])[0], run(arrays)[0])
