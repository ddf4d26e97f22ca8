"""Recurrent decoder: layers of any cell, with or without attention.

Sutskever et al., "Sequence to sequence learning with neural networks", 2014 (no attention);
Bahdanau et al., 2015, and Luong et al., 2015 (attention, input feeding); Bengio et al., "Scheduled
sampling for sequence prediction with recurrent neural networks", 2015; Merity et al., "Regularizing
and optimizing LSTM language models", 2018 (dropout on recurrent weights).

Inside, sequences are time-major. Whatever does not wait for the step before runs over all steps at
once: every layer of a decoder that feeds nothing back, and otherwise the embedding's part of the
first layer, the keys, and the output layer.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from seqgen.models import row_state
from seqgen.models.base import DecodeOutput
from seqgen.models.checks import check_recurrent_decoder
from seqgen.models.config import EncodedDims, RecurrentDecoderConfig
from seqgen.models.recurrent_steps import attend_all, run_layers, run_steps
from seqgen.nn.additive import AdditiveAttention, LuongAttention
from seqgen.nn.dense import Dense
from seqgen.nn.dropout import dropout, fold, keep_mask
from seqgen.nn.recurrent import RecurrentLayer, build_cell
from seqgen.types import Array, Encoded, PyTree, Sequences


class RecurrentDecoder(nnx.Module):
    """A stack of recurrent layers over the target that may attend over the encoder's memory.

    Bahdanau: the previous top state is the query, and the context enters the first layer. Luong:
    the current top state is the query; with input feeding, the attentional state of the step before
    enters the first layer. The output is `tanh(W [top; context])`, as wide as the embedding.

    The decode state is that of `seqgen.models.row_state`.
    """

    def __init__(
        self,
        cfg: RecurrentDecoderConfig,
        *,
        embed_dim: int,
        encoded: EncodedDims,
        compute_dtype: str = "float32",
        rngs: nnx.Rngs,
    ):
        """Args: encoded: widths of what the encoder returns.

        Raises:
          ConfigError: if the options contradict each other or the encoder.
        """
        check_recurrent_decoder(cfg, encoded)
        self.cfg, self.compute_dtype = cfg, compute_dtype
        self.embed_dim, self.memory_dim = embed_dim, encoded.memory
        hidden = cfg.hidden_dim
        options = {"compute_dtype": compute_dtype, "rngs": rngs}
        self.layers = nnx.List(
            RecurrentLayer(
                hidden if i else embed_dim,
                hidden,
                kind=cfg.cell or cfg.kind,
                forget_bias=cfg.forget_bias,
                recurrent_init=cfg.recurrent_init,
                kernel=cfg.recurrence_kernel,
                **options,
            )
            for i in range(cfg.num_layers)
        )
        self.states = tuple(build_cell(cfg.cell or cfg.kind).states)
        self.bridge = (
            nnx.List(
                Dense(encoded.summary, hidden * len(self.states), axes=("hidden", None), **options)
                for _ in range(cfg.num_layers)
            )
            if cfg.bridge == "dense"
            else None
        )
        self.attention = _build_attention(cfg, encoded.memory, options)
        # What enters the first layer beside the embedding: changes every step ('feed'), or never.
        self.feed_dim = {"none": 0, "bahdanau": encoded.memory}.get(
            cfg.attention, embed_dim if cfg.input_feeding else 0
        )
        extra_dim = encoded.summary if cfg.context_every_step else self.feed_dim
        gates = build_cell(cfg.cell or cfg.kind).num_gates * hidden
        self.feed = (
            Dense(extra_dim, gates, axes=("embed", "hidden"), use_bias=False, **options)
            if extra_dim
            else None
        )
        context_dim = 0 if self.attention is None else encoded.memory
        self.combine = Dense(hidden + context_dim, embed_dim, axes=("hidden", "embed"), **options)

    def __call__(
        self,
        target: Sequences,
        encoded: Encoded,
        *,
        embedded: Array,
        key: Any = None,
        **sampling: Any,
    ) -> Array:
        """Teacher-forced hidden states [B, T, D]; `sampling`: see `read_on`."""
        return self.read_on(target, encoded, None, embedded=embedded, key=key, **sampling)[0]

    def init_carry(self, num_rows: int) -> PyTree:
        """Zeros that `read_on` goes on from at the start of a text, a dict by layer."""
        return {str(i): layer.initial_state(num_rows) for i, layer in enumerate(self.layers)}

    def read_on(
        self,
        target: Sequences,
        encoded: Encoded,
        carry: PyTree,
        *,
        embedded: Array,
        key: Any = None,
        teacher_forcing_rate: float = 1.0,
        next_embedding: Callable[[Array], Array] | None = None,
        feedback_scale: Array | None = None,
    ) -> tuple[Array, PyTree]:
        """Teacher-forced hidden states [B, T, D], and the layers' states after the last input.

        Args:
          target: the decoder's input rows (only their shape is used: padding stands at the end).
          encoded: the encoder's result.
          carry: the layers' states before the first input, as `init_carry` and this method give
            them (decoders without an encoder); None = those that `encoded` says.
          embedded: float32 [B, T, D] embeddings of the input.
          key: dropout key, or None for evaluation.
          teacher_forcing_rate: below 1, in training, each input after the first is with this
            probability the true one, otherwise the model's own most likely token.
          next_embedding: hidden states [B, D] -> embeddings [B, D] of their most likely tokens.
          feedback_scale: [B, T, D] factors of these embeddings: the dropout that `embedded` had.
        """
        model, shared, rows, drops = self._begin(target, encoded, key)
        if carry is not None:
            rows = {**rows, "layers": [carry[str(i)] for i in range(len(self.layers))]}
        x = embedded.swapaxes(0, 1)
        if teacher_forcing_rate < 1 and key is not None:
            assert next_embedding is not None, "scheduled sampling needs next_embedding"
            own = keep_mask(target.ids.shape, teacher_forcing_rate, fold(key, 1))
            forced = (~own | (jnp.arange(len(x)) == 0)).T
            scale = jnp.ones_like(x) if feedback_scale is None else feedback_scale.swapaxes(0, 1)
            x = model._mix_own(shared, rows, x, drops, forced, next_embedding, scale)
        hidden, _, rows = model._advance(shared, rows, x, drops)
        last = {str(i): state for i, state in enumerate(rows["layers"])}
        return hidden.swapaxes(0, 1), last

    def read_and_weigh(
        self, target: Sequences, encoded: Encoded, *, embedded: Array, key: Any = None
    ) -> tuple[Array, Array]:
        """Teacher-forced hidden states [B, T, D], and the weights over the memory [B, T, S]."""
        model, shared, rows, drops = self._begin(target, encoded, key)
        x = embedded.swapaxes(0, 1)
        hidden, weights, _ = model._advance(shared, rows, x, drops, attend=True)
        assert weights is not None, "the config's check sees to it"
        return hidden.swapaxes(0, 1), weights.swapaxes(0, 1)

    def _begin(self, target: Sequences, encoded: Encoded, key: Any) -> tuple[Any, ...]:
        """What `_advance` takes for whole rows: the model, `shared`, `rows`, and `drops`."""
        num_rows, steps = target.ids.shape
        model, drops = self._with_dropped_weights(key), self._drops(steps, num_rows, key)
        return model, *self._start(encoded), drops

    def init_decode(
        self, encoded: Encoded, *, max_len: int, num_beams: int = 1, rewindable: bool = False
    ) -> PyTree:
        """State before the first token; `rewindable` keeps all states, for `rewind`."""
        parts = self._start(encoded)
        return row_state.init_state(
            *parts, num_beams=num_beams, max_len=max_len, history=rewindable
        )

    def extend(self, state: PyTree, embedded: Array, lengths: Array) -> tuple[DecodeOutput, PyTree]:
        """Consume `embedded` [R, T, D], of which the first `lengths` [R] are real."""
        x = embedded.swapaxes(0, 1)
        seen = jnp.arange(x.shape[0])[:, None] < lengths
        drops = self._drops(x.shape[0], x.shape[1], None)
        shared, rows, history = state["shared"], state["rows"], state["history"]
        if history is None:
            hidden, attention, rows = self._advance(shared, rows, x, drops, seen, attend=True)
        else:

            def step(carry, sliced):
                rows, history = carry
                x, seen = sliced
                hidden, attention, rows = self._advance(
                    shared, rows, x[None], drops, seen[None], attend=True
                )
                history = row_state.record(history, rows)
                return (rows, history), (hidden[0], None if attention is None else attention[0])

            (rows, history), (hidden, attention) = lax.scan(step, (rows, history), (x, seen))
        output = DecodeOutput(
            hidden.swapaxes(0, 1), None if attention is None else attention.swapaxes(0, 1)
        )
        return output, {"shared": shared, "rows": rows, "history": history}

    def reorder(self, state: PyTree, parents: Array) -> PyTree:
        """Beam k of sentence b continues beam `parents[b, k]` ([B, K] int32)."""
        return row_state.reorder(state, parents)

    def select(self, state: PyTree, rows: Array) -> PyTree:
        """Keep the sentences `rows` [B'] (int32), all their beams."""
        return row_state.select(state, rows)

    def rewind(self, state: PyTree, lengths: Array) -> PyTree:
        """Forget all but the first `lengths` [R] consumed tokens; NaN without `rewindable`."""
        return row_state.rewind(state, lengths)

    def _start(self, encoded: Encoded) -> tuple[PyTree, PyTree]:
        """What stays the same for a sentence, and the first state of one row a sentence."""
        cfg, num_rows = self.cfg, encoded.memory.shape[0]
        shared: dict[str, Array] = {"mask": encoded.segments != 0}
        if self.attention is not None:
            shared["memory"] = encoded.memory
            shared["keys"] = self.attention.keys(encoded.memory)
        elif self.feed is not None:
            shared["gates"] = self.feed(encoded.summary)
        if cfg.bridge == "copy":
            layers = [dict(state) for state in encoded.states]
        elif self.bridge is not None:
            first = [jnp.tanh(bridge(encoded.summary)) for bridge in self.bridge]
            layers = [
                dict(zip(self.states, jnp.split(values, len(self.states), axis=-1)))
                for values in first
            ]
        else:
            layers = [layer.initial_state(num_rows) for layer in self.layers]
        rows = {"layers": layers, "length": jnp.zeros(num_rows, jnp.int32)}
        if getattr(self.attention, "coverage", None) is not None:
            rows["coverage"] = jnp.zeros(encoded.memory.shape[:2], jnp.float32)
        if self.feed_dim:
            rows["feed"] = jnp.zeros((num_rows, self.feed_dim), jnp.float32)
        return shared, rows

    def _with_dropped_weights(self, key: Any) -> "RecurrentDecoder":
        """The same decoder with weights of its recurrent kernels left out: one mask a batch.

        Outside of the scan, so that each of its steps reads the same thinned kernel (DropConnect as
        in Merity et al., 2018, section 2).
        """
        rate = self.cfg.weight_dropout_rate
        if key is None or rate == 0:
            return self
        graph, parameters = nnx.split(self, nnx.Param)
        flat = [
            (path, leaf.replace(dropout(leaf[...], rate, fold(key, 2, path[1]))))
            if path[-1] == "recurrent_kernel"
            else (path, leaf)
            for path, leaf in nnx.to_flat_state(parameters)
        ]
        return nnx.merge(graph, nnx.from_flat_state(flat))

    def _drops(self, steps: int, num_rows: int, key: Any) -> PyTree:
        """Dropout factors between layers and on the output, time-major; None in evaluation."""
        rate = self.cfg.dropout_rate
        if key is None or rate == 0:
            return None
        widths = [self.cfg.hidden_dim] * (len(self.layers) - 1) + [self.embed_dim]
        return [
            dropout(jnp.ones((steps, num_rows, width), jnp.float32), rate, fold(key, 0, i))
            for i, width in enumerate(widths)
        ]

    def _mix_own(self, shared, rows, x, drops, forced, next_embedding, scale) -> Array:
        """Inputs [T, B, D] of which those that are not `forced` [T, B] come from the model itself.

        The choice of a token has no gradient, so the model runs freely here with its parameters
        held fixed; the pass over the mixed inputs that follows carries the gradient.
        """
        graph, parameters = nnx.split(self)
        held = nnx.merge(graph, jax.tree.map(lax.stop_gradient, parameters))
        shared, rows, drops = lax.stop_gradient((shared, rows, drops))

        def step(carry, sliced):
            rows, own = carry
            true, forced, drops, scale = sliced
            mixed = jnp.where(forced[:, None], true, own * scale)
            now = None if drops is None else [drop[None] for drop in drops]
            hidden, _, rows = held._advance(shared, rows, lax.stop_gradient(mixed)[None], now)
            own = next_embedding(lax.stop_gradient(hidden[0]))
            return (rows, lax.stop_gradient(own)), own

        _, own = lax.scan(step, (rows, jnp.zeros_like(x[0])), (x, forced, drops, scale))
        own = jnp.concatenate([jnp.zeros_like(own[:1]), own[:-1]])
        return jnp.where(forced[..., None], x, own * scale)

    def _advance(
        self,
        shared: PyTree,
        rows: PyTree,
        x: Array,
        drops: PyTree,
        seen: Array | None = None,
        *,
        attend: bool = False,
    ) -> tuple[Array, Array | None, PyTree]:
        """Consume x [T, R, D] where `seen` [T, R]: hidden [T, R, D], weights [T, R, S], rows."""
        weights = None
        if self.feed_dim:
            last, results = run_steps(self, shared, rows, x, drops, seen, keep_weights=attend)
            weights = results.get("weights")
        else:
            last, top = run_layers(self, shared, rows, x, drops, seen)
            results = {"top": top}
            if self.attention is not None:
                results["context"], weights = attend_all(self, shared, top)
        if "hidden" in results:
            hidden = results["hidden"]
        else:
            joined = [results[name] for name in ("top", "context") if name in results]
            hidden = jnp.tanh(self.combine(jnp.concatenate(joined, axis=-1)))
        if drops is not None:
            hidden = hidden * drops[-1]
        count = x.shape[0] if seen is None else seen.sum(0, dtype=jnp.int32)
        return hidden, weights, {**last, "length": rows["length"] + count}


def _build_attention(
    cfg: RecurrentDecoderConfig, memory_dim: int, options: dict[str, Any]
) -> AdditiveAttention | LuongAttention | None:
    if cfg.attention == "none":
        return None
    if cfg.attention == "bahdanau":
        return AdditiveAttention(
            cfg.hidden_dim,
            memory_dim,
            attention_dim=cfg.attention_dim,
            coverage=cfg.coverage,
            **options,
        )
    general = cfg.attention == "luong_general"
    return LuongAttention(cfg.hidden_dim, memory_dim, general=general, **options)
