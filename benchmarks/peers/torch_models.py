"""The models of `train_torch.py`: what a PyTorch user would write, or take from Hugging Face.

Each is called as `model(source, target)` and gives logits, [B, T, V]; the GPT as `model(ids)`. The
shapes, the tied embedding and the places of dropout are those of the models that `train_seqgen.py`
builds, so that both sides do the same arithmetic.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from work import (
    BOS_ID,
    BPE_SIZE,
    DROPOUT_RATE,
    EOS_ID,
    GPT_DIM,
    GPT_HEADS,
    GPT_LAYERS,
    GPT_SHAPES,
    GPT_VOCAB,
    HIDDEN_DIM,
    PAD_ID,
    RECURRENT_MODELS,
    SIZES,
    TransformerSize,
)

MAX_LEN = 256


class Transformer(nn.Module):
    """`nn.Transformer`, pre-norm, with sinusoidal positions and one embedding for everything."""

    def __init__(self, size: TransformerSize):
        super().__init__()
        dim = size.model_dim
        self.embedding = nn.Embedding(size.vocab_size, dim, padding_idx=PAD_ID)
        nn.init.normal_(self.embedding.weight, std=dim**-0.5)
        self.stacks = nn.Transformer(
            dim,
            size.num_heads,
            num_encoder_layers=size.num_layers,
            num_decoder_layers=size.num_layers,
            dim_feedforward=size.ff_dim,
            dropout=DROPOUT_RATE,
            norm_first=True,
            batch_first=True,
        )
        self.dropout = nn.Dropout(DROPOUT_RATE)
        rates = 10_000.0 ** (-torch.arange(0, dim, 2) / dim)
        angles = torch.outer(torch.arange(MAX_LEN), rates)
        self.register_buffer("positions", torch.cat([angles.sin(), angles.cos()], dim=1))

    def embed(self, ids: Tensor) -> Tensor:
        vectors = self.embedding(ids) * math.sqrt(self.embedding.embedding_dim)
        return self.dropout(vectors + self.positions[: ids.shape[1]])

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        length, is_pad = target.shape[1], source == PAD_ID
        hidden = self.stacks(
            self.embed(source),
            self.embed(target),
            src_key_padding_mask=is_pad,
            memory_key_padding_mask=is_pad,
            tgt_mask=torch.ones(length, length, dtype=torch.bool).triu(diagonal=1),
            tgt_is_causal=True,
        )
        return F.linear(hidden, self.embedding.weight)


def build_marian(size: TransformerSize, **options: object) -> nn.Module:
    """Hugging Face's Marian of this size, random weights; also what the decoding peers run."""
    from transformers import MarianConfig, MarianMTModel

    sides = {
        "layers": size.num_layers,
        "attention_heads": size.num_heads,
        "ffn_dim": size.ff_dim,
    }
    config = MarianConfig(
        vocab_size=size.vocab_size,
        d_model=size.model_dim,
        **{f"{side}_{name}": n for side in ("encoder", "decoder") for name, n in sides.items()},
        activation_function="relu",
        max_position_embeddings=MAX_LEN,
        scale_embedding=True,
        pad_token_id=PAD_ID,
        eos_token_id=EOS_ID,
        decoder_start_token_id=BOS_ID,
        forced_eos_token_id=None,
        **options,
    )
    return MarianMTModel(config)


class Marian(nn.Module):
    """`build_marian` set up for training."""

    def __init__(self, size: TransformerSize):
        super().__init__()
        rates = dict.fromkeys(("dropout", "attention_dropout", "activation_dropout"), DROPOUT_RATE)
        self.marian = build_marian(size, use_cache=False, **rates)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        mask = (source != PAD_ID).long()
        output = self.marian(input_ids=source, attention_mask=mask, decoder_input_ids=target)
        return output.logits


class Recurrent(nn.Module):
    """Two bidirectional layers, two decoder layers, attention by Bahdanau (2015) or Luong (2015).

    Bahdanau's decoder goes step by step: the last top state asks, and what it finds enters the
    first layer. Luong's reads the whole target, then attends for all positions at once.
    """

    def __init__(self, cell: str, attention: str):
        super().__init__()
        dim, lstm = HIDDEN_DIM, cell == "lstm"
        layers = nn.LSTM if lstm else nn.GRU
        self.states_per_layer = 2 if lstm else 1
        self.embedding = nn.Embedding(BPE_SIZE, dim, padding_idx=PAD_ID)
        nn.init.normal_(self.embedding.weight, std=dim**-0.5)
        self.encoder = layers(
            dim, dim, num_layers=2, bidirectional=True, batch_first=True, dropout=DROPOUT_RATE
        )
        self.bridges = nn.ModuleList(
            nn.Linear(2 * dim, self.states_per_layer * dim) for _ in range(2)
        )
        self.additive = attention == "bahdanau"
        self.key = nn.Linear(2 * dim, dim, bias=self.additive)
        if self.additive:
            self.query = nn.Linear(dim, dim, bias=False)
            self.score = nn.Linear(dim, 1, bias=False)
            cells = nn.LSTMCell if lstm else nn.GRUCell
            self.decoder = nn.ModuleList([cells(3 * dim, dim), cells(dim, dim)])
        else:
            self.decoder = layers(dim, dim, num_layers=2, batch_first=True, dropout=DROPOUT_RATE)
        self.combine = nn.Linear(3 * dim, dim)
        self.dropout = nn.Dropout(DROPOUT_RATE)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        is_pad = source == PAD_ID
        memory, summary = self.encode(source, is_pad)
        first = [
            torch.tanh(bridge(summary)).chunk(self.states_per_layer, dim=1)
            for bridge in self.bridges
        ]
        words = self.dropout(self.embedding(target))
        decode = self.decode_stepwise if self.additive else self.decode_at_once
        hidden = torch.tanh(self.combine(decode(words, memory, is_pad, first)))
        return F.linear(self.dropout(hidden), self.embedding.weight)

    def encode(self, source: Tensor, is_pad: Tensor) -> tuple[Tensor, Tensor]:
        """Memory [B, S, 2H], and the last states of the top layer, both directions, [B, 2H]."""
        packed = nn.utils.rnn.pack_padded_sequence(
            self.dropout(self.embedding(source)),
            (~is_pad).sum(dim=1),
            batch_first=True,
            enforce_sorted=False,
        )
        packed, last = self.encoder(packed)
        memory, _ = nn.utils.rnn.pad_packed_sequence(
            packed, batch_first=True, total_length=source.shape[1]
        )
        hidden = last[0] if isinstance(last, tuple) else last
        return self.dropout(memory), torch.cat([hidden[-2], hidden[-1]], dim=1)

    def decode_at_once(self, words: Tensor, memory: Tensor, is_pad: Tensor, first: list) -> Tensor:
        # Autocast gives the bridges' states in bfloat16; torch wants them in the words' type.
        states = tuple(torch.stack(parts).to(words.dtype) for parts in zip(*first, strict=True))
        top, _ = self.decoder(words, states if len(states) > 1 else states[0])
        scores = top @ self.key(memory).transpose(1, 2)
        weights = scores.masked_fill(is_pad[:, None], -torch.inf).softmax(dim=-1)
        return torch.cat([top, weights.to(memory.dtype) @ memory], dim=-1)

    def decode_stepwise(self, words: Tensor, memory: Tensor, is_pad: Tensor, first: list) -> Tensor:
        keys, states, outputs = self.key(memory), list(first), []
        for word in words.unbind(dim=1):
            scores = self.score(torch.tanh(keys + self.query(states[1][0])[:, None])).squeeze(-1)
            weights = scores.masked_fill(is_pad, -torch.inf).softmax(dim=-1)
            context = (weights.to(memory.dtype)[:, None] @ memory)[:, 0]
            below = torch.cat([word, context], dim=1)
            for i, cell in enumerate(self.decoder):
                state = cell(below, states[i] if len(states[i]) > 1 else states[i][0])
                states[i] = state if isinstance(state, tuple) else (state,)
                below = self.dropout(states[i][0])
            outputs.append(torch.cat([states[1][0], context], dim=1))
        return torch.stack(outputs, dim=1)


class GPTBlock(nn.Module):
    """Causal self-attention and a GELU layer, each normed before and added to its input."""

    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(GPT_DIM, bias=False) for _ in range(2))
        self.projections = nn.Linear(GPT_DIM, 3 * GPT_DIM, bias=False)
        self.merge = nn.Linear(GPT_DIM, GPT_DIM, bias=False)
        self.up = nn.Linear(GPT_DIM, 4 * GPT_DIM, bias=False)
        self.down = nn.Linear(4 * GPT_DIM, GPT_DIM, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, length, dim = x.shape
        heads = self.projections(self.norms[0](x)).view(batch, length, 3, GPT_HEADS, -1)
        query, key, value = heads.transpose(1, 3).unbind(dim=2)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.merge(mixed.transpose(1, 2).reshape(batch, length, dim))
        return x + self.down(F.gelu(self.up(self.norms[1](x))))


class GPT(nn.Module):
    """A character model: 4 layers, 128 wide, no biases, no dropout, tied embedding."""

    def __init__(self, context: int):
        super().__init__()
        self.words = nn.Embedding(GPT_VOCAB, GPT_DIM)
        self.places = nn.Embedding(context, GPT_DIM)
        self.blocks = nn.Sequential(*(GPTBlock() for _ in range(GPT_LAYERS)))
        self.norm = nn.LayerNorm(GPT_DIM, bias=False)
        for parameter in self.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, ids: Tensor) -> Tensor:
        hidden = self.blocks(self.words(ids) + self.places.weight[: ids.shape[1]])
        return F.linear(self.norm(hidden), self.words.weight)


def build_torch_model(name: str) -> nn.Module:
    """A model by its name in `MODELS`."""
    kind, _, size = name.partition("-")
    if kind == "transformer":
        return Transformer(SIZES[size])
    if kind == "marian":
        return Marian(SIZES[size])
    if kind == "gpt":
        return GPT(GPT_SHAPES[name][1])
    return Recurrent(*RECURRENT_MODELS[name])


MODELS = (
    *(f"transformer-{size}" for size in SIZES),
    *(f"marian-{size}" for size in SIZES),
    *RECURRENT_MODELS,
    *GPT_SHAPES,
)
