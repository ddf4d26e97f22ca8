"""The same numbers as transformers' GPT-2 and BERT, weights carried over by the table of names."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqgen.decoding import DecodeConfig, generate
from seqgen.interop.huggingface_names import BERT, GPT2, from_huggingface, to_huggingface
from seqgen.models import ModelConfig, build_model
from seqgen.models.config import (
    NoDecoderConfig,
    NoEncoderConfig,
    TransformerDecoderConfig,
    TransformerEncoderConfig,
)
from seqgen.models.layer_stack import layer_list
from seqgen.models.stack_input import stack_input
from seqgen.nn.masks import AttentionMask
from seqgen.training.config import TrainConfig
from seqgen.training.loss import make_loss
from seqgen.types import BOS_ID, EOS_ID, PAD_ID, Batch, MaskedBatch, Sequences

# What is compiled here runs once, so the compiler's own time is all that counts.
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", reason="parity needs transformers")

VOCAB, WIDTH, DIM, HEADS, LAYERS = 37, 11, 32, 4, 2
LENGTHS = np.array([11, 7, 4])
LAYER = {"num_layers": LAYERS, "num_heads": HEADS, "positions": "learned", "max_positions": 24}


def shaken(model, noise):
    """Numbers of which none is at its start: norms begin as the identity, biases at zero."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(noise * torch.randn_like(parameter))
    return model.eval()


def gpt2(noise=0.1):
    torch.manual_seed(0)
    theirs = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=VOCAB,
            n_positions=24,
            n_embd=DIM,
            n_layer=LAYERS,
            n_head=HEADS,
            bos_token_id=BOS_ID,
            eos_token_id=EOS_ID,
            pad_token_id=PAD_ID,
        )
    )
    config = ModelConfig(
        embed_dim=DIM,
        scale_embeddings=False,
        encoder=NoEncoderConfig(source_prefix=True),
        decoder=TransformerDecoderConfig(
            **LAYER, ff_dim=4 * DIM, norm_position="pre", activation="gelu_tanh"
        ),
    )
    return both(shaken(theirs, noise), config, GPT2)


def bert():
    torch.manual_seed(0)
    theirs = transformers.BertForPreTraining(
        transformers.BertConfig(
            vocab_size=VOCAB,
            max_position_embeddings=24,
            hidden_size=DIM,
            num_hidden_layers=LAYERS,
            num_attention_heads=HEADS,
            intermediate_size=48,
        )
    )
    config = ModelConfig(
        embed_dim=DIM,
        scale_embeddings=False,
        output_bias=True,
        encoder=TransformerEncoderConfig(**LAYER, ff_dim=48, activation="gelu", norm_epsilon=1e-12),
        decoder=NoDecoderConfig(),
    )
    return both(shaken(theirs, 0.1), config, BERT)


def both(theirs, config, names):
    definition = build_model(config, source_vocab_size=VOCAB, target_vocab_size=VOCAB)
    tensors = {name: tensor.numpy() for name, tensor in theirs.state_dict().items()}
    params = from_huggingface(tensors, names, like=definition.abstract)
    back = to_huggingface(params, names)
    assert set(back) == set(tensors) - set(names.copies)
    for name, tensor in back.items():
        np.testing.assert_array_equal(tensor, tensors[name])
    return theirs, definition, jax.tree.map(jnp.asarray, params)


def rows(lengths=LENGTHS, width=WIDTH):
    real = (np.arange(width) < lengths[:, None]).astype(np.int32)
    ids = np.random.default_rng(0).integers(4, VOCAB, real.shape).astype(np.int32)
    return Sequences(ids * real, real, real * np.arange(width, dtype=np.int32))


def layer_by_layer(stack, x, mask, positions):
    """What enters the first layer and what leaves each of them, `finish`ed at the end."""
    states = [x]
    for layer in layer_list(stack.layers, LAYERS):
        states.append(layer(states[-1], mask, positions))
    return [*states[:-1], stack.finish(states[-1])]


def close(got, want, real=slice(None), atol=1e-4):
    np.testing.assert_allclose(np.asarray(got)[real], want.detach().numpy()[real], atol=atol)


def assert_same_gradients(got, theirs, names, definition):
    tensors = {name: p.grad.numpy() for name, p in theirs.named_parameters()}
    want = from_huggingface(tensors, names, like=definition.abstract)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4, rtol=1e-3), got, want)


def tensor(array):
    return torch.from_numpy(np.array(array)).long()


def test_gpt2_layer_by_layer_loss_and_every_gradient():
    theirs, definition, params = gpt2()
    text = rows()
    real = text.segments > 0
    labels = np.where(real[:, 1:], text.ids[:, 1:], -100)
    batch = Batch(
        None,
        text,
        np.pad(np.maximum(labels, 0), ((0, 0), (0, 1))),
        np.pad((labels >= 0).astype(np.float32), ((0, 0), (0, 1))),
    )

    @jit
    def run(params):
        model = definition.bind(params)
        x = stack_input(model.config, model.vectors(text.ids), text, model.decoder, None)
        mask = AttentionMask(text.segments, text.segments, causal=True)
        states = layer_by_layer(model.decoder, x, mask, text.positions)
        hidden = model(batch)
        loss = make_loss(definition, TrainConfig(), compute_dtype="float32")
        gradient, sums = jax.grad(
            lambda params: (lambda total, sums: (total / sums["weight"], sums))(
                *loss(params, batch, None)
            ),
            has_aux=True,
        )(params)
        return states, hidden, model.output_logits(hidden), gradient, sums

    states, hidden, logits, gradient, sums = run(params)
    expected = theirs(
        tensor(text.ids),
        attention_mask=tensor(text.segments),
        labels=tensor(np.where(real, text.ids, -100)),
        output_hidden_states=True,
    )
    assert len(states) == len(expected.hidden_states) == LAYERS + 1
    for ours, want in zip(states, expected.hidden_states, strict=True):
        close(ours, want, real)
    close(hidden, expected.hidden_states[-1], real)
    close(logits, expected.logits, real)
    close(sums["loss"] / sums["weight"], expected.loss, ())
    expected.loss.backward()
    assert_same_gradients(gradient, theirs, GPT2, definition)


def test_gpt2_greedy_text_is_the_same_with_and_without_our_cache():
    theirs, definition, params = gpt2(noise=0.4)
    prompts, new = rows(np.array([5, 3, 1]), 5), 12  # room for EOS included
    wanted = []
    for row, length in enumerate(prompts.segments.sum(1)):
        begun = tensor([[*prompts.ids[row, :length], BOS_ID]])
        options = {
            "do_sample": False,
            "max_new_tokens": new - 1,
            "suppress_tokens": [PAD_ID, BOS_ID],
        }
        written = theirs.generate(begun, attention_mask=torch.ones_like(begun), **options)
        wanted.append(written[0, begun.shape[1] :].tolist())
    assert len({tuple(answer) for answer in wanted}) == len(wanted)
    assert max(len(set(answer)) for answer in wanted) > 2  # no model that says one thing only

    cached = jit(
        lambda params: generate(
            definition.bind(params),
            jax.tree.map(jnp.asarray, prompts),
            config=DecodeConfig(max_length=new),
            max_len=new,
        )
    )(params)
    for row, answer in enumerate(wanted):
        assert cached.ids[row, 0, : len(answer)].tolist() == answer

    @jit
    def next_token(params, text, at):
        model = definition.bind(params)
        hidden = model(Batch(None, text, text.ids, text.ids))
        logits = model.output_logits(jnp.take_along_axis(hidden, at[:, None, None], axis=1)[:, 0])
        return logits.at[:, jnp.array([PAD_ID, BOS_ID])].set(-jnp.inf).argmax(-1)

    width = prompts.ids.shape[1] + 1 + new
    ids = np.zeros((3, width), np.int32)
    ones = np.ones_like(ids)
    at = prompts.segments.sum(1)
    ids[:, :5] = prompts.ids
    ids[np.arange(3), at] = BOS_ID
    first = at + 1
    for _ in range(new - 1):
        text = Sequences(ids, ones, ones * np.arange(width, dtype=np.int32))
        token = next_token(params, text, at)
        at = at + 1
        ids[np.arange(3), at] = token
    for row, answer in enumerate(wanted):
        assert ids[row, first[row] :][: len(answer)].tolist() == answer


def test_bert_layer_by_layer_both_heads_their_loss_and_every_gradient():
    theirs, definition, params = bert()
    text = rows()
    real = text.segments > 0
    types = real * (np.arange(WIDTH) >= LENGTHS[:, None] // 2).astype(np.int32)
    positions = np.array([[1, 4, 10], [0, 6, 0], [2, 3, 0]], np.int32)
    weights = np.array([[1, 1, 1], [1, 1, 0], [1, 0, 0]], np.float32)
    labels = np.array([[5, 9, 36], [4, 8, 0], [30, 0, 0]], np.int32)
    follows = np.array([0, 1, 1], np.int32)
    batch = MaskedBatch(
        text, types, positions, labels, weights, follows, np.full(3, weights.sum() / 3, np.float32)
    )

    @jit
    def run(params):
        model = definition.bind(params)
        mask = AttentionMask(text.segments, text.segments)
        states = layer_by_layer(model.encoder, model.embed(text, types), mask, text.positions)
        memory = model.encode(text, types).memory
        everywhere = jnp.broadcast_to(jnp.arange(WIDTH), text.ids.shape)
        logits = model.output_logits(model.token_states(memory, everywhere))
        masked = model.output_logits(model(batch))
        loss = make_loss(definition, TrainConfig(), compute_dtype="float32")
        gradient, sums = jax.grad(
            lambda params: (lambda total, sums: (total / sums["weight"], sums))(
                *loss(params, batch, None)
            ),
            has_aux=True,
        )(params)
        pairs = model.next_sentence_logits(model.pool(memory))
        return states, memory, logits, masked, pairs, gradient, sums

    states, memory, logits, masked, pairs, gradient, sums = run(params)
    given = np.full_like(text.ids, -100)
    for row, column in zip(*np.nonzero(weights), strict=True):
        given[row, positions[row, column]] = labels[row, column]
    expected = theirs(
        tensor(text.ids),
        attention_mask=tensor(text.segments),
        token_type_ids=tensor(types),
        labels=tensor(given),
        next_sentence_label=tensor(follows),
        output_hidden_states=True,
    )
    assert len(states) == len(expected.hidden_states) == LAYERS + 1
    for ours, want in zip(states, expected.hidden_states, strict=True):
        close(ours, want, real)
    close(memory, expected.hidden_states[-1], real)
    close(logits, expected.prediction_logits, real)
    told = expected.prediction_logits.detach().numpy()[np.arange(3)[:, None], positions]
    np.testing.assert_allclose(np.asarray(masked), told, atol=1e-4)
    close(pairs, expected.seq_relationship_logits)
    close(sums["loss"] / sums["weight"], expected.loss, ())
    expected.loss.backward()
    assert_same_gradients(gradient, theirs, BERT, definition)


def test_published_sizes_of_bert_base():
    config = ModelConfig(
        embed_dim=768,
        output_bias=True,
        encoder=TransformerEncoderConfig(
            num_layers=12, num_heads=12, ff_dim=3072, positions="learned", max_positions=512
        ),
        decoder=NoDecoderConfig(),
    )
    ours = build_model(config, source_vocab_size=30522, target_vocab_size=30522)
    with torch.device("meta"):
        theirs = transformers.BertForPreTraining(transformers.BertConfig())
    assert ours.num_parameters == theirs.num_parameters()
    without = dataclasses.replace(config, decoder=NoDecoderConfig(next_sentence=False))
    ours = build_model(without, source_vocab_size=30522, target_vocab_size=30522)
    with torch.device("meta"):
        theirs = transformers.BertForMaskedLM(transformers.BertConfig())
    assert ours.num_parameters == theirs.num_parameters()
