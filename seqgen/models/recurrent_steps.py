"""The two ways in which a recurrent decoder runs: layer by layer, or step by step.

Layer by layer, every layer reads its whole sequence before the next begins: possible where nothing
of a step's output enters the next step but each layer's own state. Step by step otherwise, in one
time scan over all layers; all that does not wait for the step before is computed outside of it.
"""

from typing import Any, Protocol

import jax.numpy as jnp

from seqgen.models.config import RecurrentDecoderConfig
from seqgen.nn.additive import (
    AdditiveAttention,
    LuongAttention,
    additive_scores,
    attention_weights,
)
from seqgen.nn.dense import Dense, batched_matmul
from seqgen.nn.quantization import as_float
from seqgen.nn.recurrent import RecurrentLayer, keep_where
from seqgen.nn.scan import Project, time_scan
from seqgen.types import Array, PyTree


class DecoderParts(Protocol):
    """What is needed of a decoder here."""

    cfg: RecurrentDecoderConfig
    compute_dtype: str
    attention: AdditiveAttention | LuongAttention | None
    combine: Dense
    feed: Dense | None
    layers: Any  # list of RecurrentLayer


def run_layers(
    decoder: DecoderParts, shared: PyTree, rows: PyTree, x: Array, drops: PyTree, seen: Array | None
) -> tuple[PyTree, Array]:
    """Every layer over all of x [T, R, D]: the last states, and the top outputs [T, R, H]."""
    last = []
    added = shared.get("gates")
    if added is not None:
        added = jnp.repeat(added, x.shape[1] // added.shape[0], axis=0)
    for i, layer in enumerate(decoder.layers):
        outputs, state = layer(
            x, state=rows["layers"][i], mask=seen, added=added if i == 0 else None
        )
        last.append(state)
        if decoder.cfg.residual and i > 0:
            outputs = outputs + x
        is_top = i + 1 == len(decoder.layers)
        x = outputs if drops is None or is_top else outputs * drops[i]
    return {"layers": last}, x


def attend_all(decoder: DecoderParts, shared: PyTree, top: Array) -> tuple[Array, Array]:
    """Luong's attention of all top outputs [T, R, H]: contexts [T, R, D], weights [T, R, S]."""
    steps, num_rows, width = top.shape
    num_sentences = shared["mask"].shape[0]
    queries = top.swapaxes(0, 1).reshape(num_sentences, -1, width)
    assert decoder.attention is not None
    weights = decoder.attention.weigh(queries, shared["keys"], shared["mask"])
    contexts: Any = batched_matmul(weights, shared["memory"], decoder.compute_dtype)

    def time_major(values: Array) -> Array:
        return values.reshape(num_rows, steps, -1).swapaxes(0, 1)

    return time_major(contexts), time_major(weights)


def run_steps(
    decoder: DecoderParts,
    shared: PyTree,
    rows: PyTree,
    x: Array,
    drops: PyTree,
    seen: Array | None,
    *,
    keep_weights: bool,
) -> tuple[PyTree, PyTree]:
    """All layers step by step over x [T, R, D], with attention inside.

    Returns:
      The last states, and stacked outputs: {'top': [T, R, H], 'context': [T, R, D]} for additive
      attention or {'hidden': [T, R, D]} with input feeding; 'weights' [T, R, S] if kept.
    """
    cfg, attention, layers = decoder.cfg, decoder.attention, decoder.layers
    additive = isinstance(attention, AdditiveAttention)
    assert attention is not None and decoder.feed is not None
    kernels, biases = {"memory": shared["memory"]}, {}
    for i, layer in enumerate(layers):
        feed = as_float(decoder.feed.kernel[...]) if i == 0 else None
        more_kernels, more_biases = layer.products(str(i), input_kernel=feed)
        kernels |= more_kernels
        biases |= more_biases
    constants: dict[str, Array] = {"mask": shared["mask"]}
    if isinstance(attention, AdditiveAttention):
        kernels["query"] = as_float(attention.query.kernel[...])
        constants |= {"keys": shared["keys"], "vector": attention.vector[...]}
        if attention.coverage is not None:
            constants["coverage"] = attention.coverage[...]
    else:
        kernels["keys"] = shared["keys"]
        kernels["combine"] = as_float(decoder.combine.kernel[...])
        assert decoder.combine.bias is not None
        biases["combine"] = decoder.combine.bias[...]

    def attend(
        project: Project, constants: PyTree, query: Array, past: Array | None
    ) -> tuple[Array, Array]:
        mask = constants["mask"]
        if additive:
            by_sentence = project("query", query).reshape(mask.shape[0], -1, cfg.attention_dim)
            covered = None
            if past is not None:
                covered = past.reshape(*by_sentence.shape[:2], -1, 1) * constants["coverage"]
            scores = additive_scores(by_sentence, constants["keys"], constants["vector"], covered)
            scores = project.keep("scores", scores)
        else:
            scores = project("keys", query).reshape(mask.shape[0], -1, mask.shape[1])
        weights = attention_weights(scores, mask[:, None]).reshape(query.shape[0], -1)
        return project("memory", weights), weights

    def step(project: Project, constants: PyTree, carry: PyTree, sliced: PyTree):
        seen, drops, embedded = sliced
        states, feed, past = carry["layers"], carry["feed"], carry.get("coverage")
        context = weights = None
        if additive:
            context, weights = attend(project, constants, states[-1]["h"], past)
            feed = context
        below, new_states = feed, []
        for i, (layer, state) in enumerate(zip(layers, states)):
            # The first layer's own input is the embedding; what is fed in comes beside it.
            passed = embedded if i == 0 else None
            new = layer.step(project, str(i), below, state, passed=passed)
            new_states.append(keep_where(seen, new, state))
            output = new["h"] + below if cfg.residual and i > 0 else new["h"]
            is_top = i + 1 == len(layers)
            below = output if drops is None or is_top else output * drops[i]
        if additive:
            result: dict[str, Any] = {"top": below, "context": context}
        else:
            context, weights = attend(project, constants, below, None)
            feed = jnp.tanh(project("combine", jnp.concatenate([below, context], axis=-1)))
            result = {"hidden": feed}
        if keep_weights:
            result["weights"] = weights
        after = {"feed": feed}
        if past is not None:
            after["coverage"] = past + weights
        fed = keep_where(seen, after, carry)
        return {"layers": new_states, **fed}, result

    first: RecurrentLayer = layers[0]
    between = None if drops is None else drops[:-1]
    return time_scan(
        step,
        {name: rows[name] for name in ("layers", "feed", "coverage") if name in rows},
        (seen, between, x if first.highway else None),
        kernels=kernels,
        biases=biases,
        hoisted={first.step_name("0"): first.hoist(x)},
        constants=constants,
        compute_dtype=decoder.compute_dtype,
    )
