"""Names and layouts of models of Hugging Face's transformers, beside ours, in one table.

A rule stands for one tensor of theirs: where its numbers lie with us, and what has to be done to it
on the way. Read from left to right the table loads their weights, from right to left it writes
them. Ours are those of listed layers (`models.layer_stack.unstack_layers`).

Which architecture has which config of ours is said in `models/causal_lm.py`, `models/masked_lm.py`;
what Llama's descendants have in `docs/models.md`.
"""

import dataclasses
import itertools
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from seqgen.errors import ConfigError, labelled
from seqgen.types import Params

LAYER = "{layer}"


@dataclasses.dataclass(frozen=True)
class Rule:
    """One tensor of theirs.

    Attributes:
      theirs: its name; '{layer}' stands for a layer's number.
      ours: path of our parameter; of several, which are its pieces along the last axis.
      transpose: theirs lies the other way round ([out, in], as torch's linear layers do).
    """

    theirs: str
    ours: tuple[str, ...]
    transpose: bool = False


@dataclasses.dataclass(frozen=True)
class Names:
    """All tensors of an architecture.

    Attributes:
      rules: one for each.
      copies: names under which their programs list a tensor a second time (tied weights).
    """

    rules: tuple[Rule, ...]
    copies: Mapping[str, str]


def _same(theirs: str, ours: str) -> tuple[Rule, ...]:
    return (Rule(theirs, (ours,)),)


def _norm(theirs: str, ours: str) -> tuple[Rule, ...]:
    return (Rule(f"{theirs}.weight", (f"{ours}/scale",)), Rule(f"{theirs}.bias", (f"{ours}/bias",)))


def _dense(theirs: str, *ours: str, transpose: bool = True) -> tuple[Rule, ...]:
    return (
        Rule(f"{theirs}.weight", tuple(f"{path}/kernel" for path in ours), transpose),
        Rule(f"{theirs}.bias", tuple(f"{path}/bias" for path in ours)),
    )


_GPT2, _DEC = f"transformer.h.{LAYER}", f"decoder/layers/{LAYER}"
_QUERY_KEY_VALUE = tuple(f"{_DEC}/self_attention/{name}" for name in ("query", "key", "value"))

# GPT2LMHeadModel. Its matrices lie as ours do.
GPT2 = Names(
    (
        *_same("transformer.wte.weight", "target_embedding/table"),
        *_same("transformer.wpe.weight", "decoder/learned_positions/table"),
        *_norm(f"{_GPT2}.ln_1", f"{_DEC}/self_norm"),
        *_dense(f"{_GPT2}.attn.c_attn", *_QUERY_KEY_VALUE, transpose=False),
        *_dense(f"{_GPT2}.attn.c_proj", f"{_DEC}/self_attention/out", transpose=False),
        *_norm(f"{_GPT2}.ln_2", f"{_DEC}/feed_forward_norm"),
        *_dense(f"{_GPT2}.mlp.c_fc", f"{_DEC}/feed_forward/up", transpose=False),
        *_dense(f"{_GPT2}.mlp.c_proj", f"{_DEC}/feed_forward/down", transpose=False),
        *_norm("transformer.ln_f", "decoder/final_norm"),
    ),
    copies={"lm_head.weight": "transformer.wte.weight"},
)

_EMBEDDINGS = "bert.embeddings"
_BERT, _ENC = f"bert.encoder.layer.{LAYER}", f"encoder/layers/{LAYER}"
_HEAD = "cls.predictions"

# BertForPreTraining.
BERT = Names(
    (
        *_same(f"{_EMBEDDINGS}.word_embeddings.weight", "embedding/table"),
        *_same(f"{_EMBEDDINGS}.position_embeddings.weight", "encoder/learned_positions/table"),
        *_same(f"{_EMBEDDINGS}.token_type_embeddings.weight", "token_types/table"),
        *_norm(f"{_EMBEDDINGS}.LayerNorm", "embedding_norm"),
        *_dense(f"{_BERT}.attention.self.query", f"{_ENC}/self_attention/query"),
        *_dense(f"{_BERT}.attention.self.key", f"{_ENC}/self_attention/key"),
        *_dense(f"{_BERT}.attention.self.value", f"{_ENC}/self_attention/value"),
        *_dense(f"{_BERT}.attention.output.dense", f"{_ENC}/self_attention/out"),
        *_norm(f"{_BERT}.attention.output.LayerNorm", f"{_ENC}/self_norm"),
        *_dense(f"{_BERT}.intermediate.dense", f"{_ENC}/feed_forward/up"),
        *_dense(f"{_BERT}.output.dense", f"{_ENC}/feed_forward/down"),
        *_norm(f"{_BERT}.output.LayerNorm", f"{_ENC}/feed_forward_norm"),
        *_dense("bert.pooler.dense", "pooler"),
        *_dense(f"{_HEAD}.transform.dense", "token_dense"),
        *_norm(f"{_HEAD}.transform.LayerNorm", "token_norm"),
        *_same(f"{_HEAD}.bias", "output_bias"),
        *_same("cls.seq_relationship.weight", "next_sentence/table"),
        *_same("cls.seq_relationship.bias", "next_sentence_bias"),
    ),
    copies={
        f"{_HEAD}.decoder.weight": f"{_EMBEDDINGS}.word_embeddings.weight",
        f"{_HEAD}.decoder.bias": f"{_HEAD}.bias",
    },
)


_LLAMA, _LLAMA_ATTENTION = f"model.layers.{LAYER}", f"model.layers.{LAYER}.self_attn"


def _weight(theirs: str, ours: str) -> tuple[Rule, ...]:
    return (Rule(f"{theirs}.weight", (f"{ours}/kernel",), transpose=True),)


# MistralForCausalLM, and LlamaForCausalLM, its output not tied.
MISTRAL = Names(
    (
        *_same("model.embed_tokens.weight", "target_embedding/table"),
        *_same(f"{_LLAMA}.input_layernorm.weight", f"{_DEC}/self_norm/scale"),
        *_weight(f"{_LLAMA_ATTENTION}.q_proj", f"{_DEC}/self_attention/query"),
        *_weight(f"{_LLAMA_ATTENTION}.k_proj", f"{_DEC}/self_attention/key"),
        *_weight(f"{_LLAMA_ATTENTION}.v_proj", f"{_DEC}/self_attention/value"),
        *_weight(f"{_LLAMA_ATTENTION}.o_proj", f"{_DEC}/self_attention/out"),
        *_same(f"{_LLAMA}.post_attention_layernorm.weight", f"{_DEC}/feed_forward_norm/scale"),
        *_weight(f"{_LLAMA}.mlp.gate_proj", f"{_DEC}/feed_forward/gate"),
        *_weight(f"{_LLAMA}.mlp.up_proj", f"{_DEC}/feed_forward/up"),
        *_weight(f"{_LLAMA}.mlp.down_proj", f"{_DEC}/feed_forward/down"),
        *_same("model.norm.weight", "decoder/final_norm/scale"),
        *_same("lm_head.weight", "output/table"),
    ),
    copies={},
)

# Qwen3ForCausalLM, its output not tied.
QWEN3 = Names(
    (
        *MISTRAL.rules,
        *_same(f"{_LLAMA_ATTENTION}.q_norm.weight", f"{_DEC}/self_attention/query_norm/scale"),
        *_same(f"{_LLAMA_ATTENTION}.k_norm.weight", f"{_DEC}/self_attention/key_norm/scale"),
    ),
    copies={},
)


def from_huggingface(tensors: Mapping[str, np.ndarray], names: Names, *, like: Params) -> Params:
    """Our parameters out of their tensors.

    Args:
      tensors: arrays by their names.
      names: the table of their architecture.
      like: our parameters' shapes (`Definition.abstract`), layers listed.

    Raises:
      ConfigError: a tensor has no place with us, one of ours is missing or has another shape, or
        what should be tied is not equal.
    """
    found: dict[str, np.ndarray] = {}
    untied, unknown = [], []
    for name, tensor in tensors.items():
        if name in names.copies:
            first = names.copies[name]
            if first not in tensors or not np.array_equal(tensor, tensors[first]):
                untied.append(f"{name} != {first}")
            continue
        place = _place(name, names)
        if place is None:
            unknown.append(name)
            continue
        rule, layer = place
        pieces = np.split(tensor.T if rule.transpose else tensor, len(rule.ours), axis=-1)
        found |= {path.replace(LAYER, layer): piece for path, piece in zip(rule.ours, pieces)}
    wanted = {path: tuple(leaf.shape) for path, leaf in _flat(like).items()}
    complaints = {
        "not tied": untied,
        "no place for": [*unknown, *(path for path in found if path not in wanted)],
        "missing": [path for path in wanted if path not in found],
        "other shape": [
            f"{path} {found[path].shape}, model {shape}"
            for path, shape in wanted.items()
            if path in found and found[path].shape != shape
        ],
    }
    if any(complaints.values()):
        raise ConfigError(
            "these weights are not this model's",
            details=[labelled(what, ", ".join(some)) for what, some in complaints.items() if some],
        )
    return _nested(found)


def to_huggingface(params: Params, names: Names) -> dict[str, np.ndarray]:
    """Their tensors by their names, tied copies left out, as safetensors files have them.

    The inverse of `from_huggingface`.

    Raises:
      ConfigError: a parameter of ours has no name there.
    """
    flat = _flat(params)
    tensors: dict[str, np.ndarray] = {}
    for rule in names.rules:
        for layer in itertools.count():
            paths = [path.replace(LAYER, str(layer)) for path in rule.ours]
            if not all(path in flat for path in paths):
                break
            tensor = np.concatenate([np.asarray(flat.pop(path)) for path in paths], axis=-1)
            tensor = tensor.T if rule.transpose else tensor
            tensors[rule.theirs.replace(LAYER, str(layer))] = np.ascontiguousarray(tensor)
    if flat:
        raise ConfigError(
            "parameters without a name in this architecture",
            details=[labelled("without", ", ".join(flat))],
        )
    return tensors


def _place(name: str, names: Names) -> tuple[Rule, str] | None:
    """The rule for a tensor's name and the layer's number in it ('' if it has none)."""
    for rule in names.rules:
        match = re.fullmatch(re.escape(rule.theirs).replace(re.escape(LAYER), r"(\d+)"), name)
        if match:
            return rule, "".join(match.groups())
    return None


def _flat(tree: Params) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, child in tree.items():
        inner = _flat(child).items() if isinstance(child, dict) else ()
        found |= {f"{name}/{path}": leaf for path, leaf in inner} or {name: child}
    return found


def _nested(flat: Mapping[str, Any]) -> Params:
    tree: Params = {}
    for path, value in flat.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = value
    return tree
