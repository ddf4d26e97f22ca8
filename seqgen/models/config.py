"""Architecture choices as frozen dataclasses, one class a variant of a component.

How components are put together (`seqgen.models.encoder_decoder`): an encoder is built as
`Encoder(cfg, embed_dim=, compute_dtype=, rngs=)`, called with `(source, embedded=, key=)`, and has
an attribute `dims: EncodedDims`; a decoder is built as
`Decoder(cfg, embed_dim=, encoded=EncodedDims, compute_dtype=, rngs=)` and returns hidden states of
width `embed_dim`, ready for the output layer. Embedding (with its dropout) and output layer belong
to `TargetSide`, from which `EncoderDecoder` and `CausalLM` (no encoder) are made; `MaskedLM` (no
decoder) has its own.
"""

import dataclasses

from seqgen.nn.rotary import SCALINGS
from seqgen.types import option

RECURRENT_KINDS = ("simple", "lstm", "gru", "mingru", "minlstm", "sru", "ssru")
_CELL = "cell; from mingru on, gates read the input alone and time runs in parallel"


@dataclasses.dataclass(frozen=True)
class EncodedDims:
    """Static widths of an `Encoded`: what a decoder must know to build its projections.

    Attributes:
      memory: width of `Encoded.memory`; 0 = there is no encoder, and nothing to attend to.
      summary: width of `Encoded.summary`.
      states: width of each entry's 'h' in `Encoded.states`, () if there are none.
      has_cell: whether the entries hold 'c' as well (LSTM, SRU, SSRU).
    """

    memory: int
    summary: int
    states: tuple[int, ...] = ()
    has_cell: bool = False


def _rate(default: float, help: str) -> float:
    return option(default, help=help, minimum=0.0, maximum=0.95)


def _recurrence_kernel() -> str:
    return option(
        "scan",
        help="how a layer runs over time: a scan, or auto = cuDNN for lstm on one NVIDIA GPU "
        "wherever whole sequences run layer by layer",
        choices=("scan", "auto"),
    )


@dataclasses.dataclass(frozen=True)
class _TransformerConfig:
    kind: str = option("transformer", help="Transformer stack", choices=("transformer",))
    num_layers: int = option(6, help="layers", minimum=1, maximum=256)
    num_heads: int = option(8, help="attention heads; divides embed_dim", minimum=1, maximum=1024)
    num_kv_heads: int | None = option(
        None, help="key/value heads (grouped-query); None = num_heads", minimum=1, maximum=1024
    )
    ff_dim: int = option(2048, help="feed-forward width", minimum=1, maximum=1_000_000)
    activation: str = option(
        "relu",
        help="feed-forward activation; gelu_tanh is GPT-2's approximation of gelu",
        choices=("relu", "gelu", "gelu_tanh", "swiglu"),
    )
    norm: str = option("layernorm", help="normalisation", choices=("layernorm", "rmsnorm"))
    norm_position: str = option(
        "post", help="after each residual sum, or before each sub-layer", choices=("post", "pre")
    )
    norm_epsilon: float | None = option(
        None,
        help="added to the variance; none = 1e-5 for layernorm (GPT-2), 1e-6 for rmsnorm; BERT has "
        "1e-12",
        minimum=0.0,
        maximum=0.1,
    )
    qk_norm: bool = option(
        False, help="RMSNorm of each head's queries and keys (norm_epsilon as for rmsnorm)"
    )
    positions: str = option(
        "sinusoidal",
        help="position signal: added to embeddings, turning queries and keys, or added to scores "
        "by distance (alibi; relative = T5's trained buckets)",
        choices=("sinusoidal", "learned", "rotary", "alibi", "relative"),
    )
    max_positions: int = option(
        512, help="size of the learned position table", minimum=1, maximum=1_000_000
    )
    rotary_base: float = option(
        10_000.0,
        help="rotary positions: pair i of H / 2 turns by base^(-2i / H) a place",
        minimum=2.0,
        maximum=1e9,
    )
    rotary_scaling: str = option(
        "none",
        help="how rotary positions are slowed down for texts longer than those of training",
        choices=SCALINGS,
    )
    rotary_factor: float = option(
        1.0, help="how many times longer they are", minimum=1.0, maximum=10_000.0
    )
    rotary_original_len: int | None = option(
        None,
        help="length of training before, in tokens (yarn, llama3)",
        minimum=1,
        maximum=100_000_000,
    )
    relative_buckets: int = option(
        32,
        help="relative positions: buckets of distances; half of an encoder's for later tokens",
        minimum=4,
        maximum=4096,
    )
    relative_max_distance: int = option(
        128,
        help="relative positions: from where on distances share a bucket",
        minimum=2,
        maximum=1_000_000,
    )
    dropout_rate: float = _rate(0.1, "dropout on each sub-layer's output")
    attention_dropout_rate: float = _rate(0.1, "dropout on attention weights")
    attention_kernel: str = option(
        "auto",
        help="how attention is computed: all scores at once, some rows at a time, or in blocks; "
        "auto = by shape: at once or by rows up to a million scores a head",
        choices=("auto", "plain", "sliced", "blocked"),
    )
    attention_window: int | None = option(
        None,
        help="self-attention sees tokens less than so many places away (in an encoder on both "
        "sides); None = all",
        minimum=1,
        maximum=1_000_000,
    )
    activation_dropout_rate: float = _rate(0.0, "dropout inside the feed-forward layer")
    bias: bool = option(True, help="biases in projections and LayerNorm")
    scan_layers: bool = option(False, help="one traced layer run by lax.scan (short compiles)")
    remat: str = option(
        "none",
        help="recompute in the backward pass: nothing, whole layers, or all but products",
        choices=("none", "full", "dots"),
    )


@dataclasses.dataclass(frozen=True)
class TransformerEncoderConfig(_TransformerConfig):
    """Transformer encoder (Vaswani et al. 2017 and its usual variants)."""


def _copy() -> bool:
    return option(
        False, help="may copy tokens of the source, where it attends to it (one vocabulary)"
    )


@dataclasses.dataclass(frozen=True)
class TransformerDecoderConfig(_TransformerConfig):
    """Transformer decoder; attends over the encoder's memory, where there is an encoder."""

    copy: bool = _copy()
    coverage: bool = option(
        False, help="copying: a loss on attending twice to a place (train.coverage_weight)"
    )


@dataclasses.dataclass(frozen=True)
class RecurrentEncoderConfig:
    """Stack of recurrent layers over the source."""

    kind: str = option("lstm", help=_CELL, choices=RECURRENT_KINDS)
    cell: str | None = option(
        None, help="a cell class of your own (module:name, see nn/recurrent.py) in the kind's place"
    )
    num_layers: int = option(2, help="layers", minimum=1, maximum=64)
    hidden_dim: int = option(256, help="units a direction", minimum=1, maximum=65536)
    bidirectional: bool = option(True, help="also read the source backwards")
    dropout_rate: float = _rate(0.1, "dropout between layers and on the memory")
    residual: bool = option(False, help="add a layer's input to its output where widths agree")
    forget_bias: float = option(
        1.0,
        help="start of the forget gate's bias (lstm, minlstm, sru, ssru)",
        minimum=-10.0,
        maximum=10.0,
    )
    recurrent_init: str = option(
        "orthogonal",
        help="recurrent kernel's start (simple, lstm, gru: the others have none)",
        choices=("orthogonal", "uniform"),
    )
    recurrence_kernel: str = _recurrence_kernel()


@dataclasses.dataclass(frozen=True)
class NoEncoderConfig:
    """No encoder: a decoder alone, such as GPT or a recurrent language model."""

    kind: str = option("none", help="no encoder", choices=("none",))
    source_prefix: bool = option(
        False,
        help="read a source before its target in the same row, the loss on the target alone; "
        "otherwise sources are refused",
    )
    prefix_attention: str = option(
        "causal",
        choices=("causal", "full"),
        help="Transformer decoders: what a token of a source, or of a prompt, sees of it: what "
        "stands before, or all of it (a prompt's last token is read as the answer's first)",
    )


@dataclasses.dataclass(frozen=True)
class RecurrentDecoderConfig:
    """Stack of recurrent layers over the target, with or without attention."""

    kind: str = option("lstm", help=_CELL, choices=RECURRENT_KINDS)
    cell: str | None = option(
        None, help="a cell class of your own (module:name, see nn/recurrent.py) in the kind's place"
    )
    num_layers: int = option(2, help="layers", minimum=1, maximum=64)
    hidden_dim: int = option(256, help="units", minimum=1, maximum=65536)
    dropout_rate: float = _rate(0.1, "dropout between layers and on the output state")
    weight_dropout_rate: float = _rate(
        0.0, "dropout on recurrent kernels, one mask a batch (simple, lstm, gru)"
    )
    residual: bool = option(False, help="add a layer's input to its output where widths agree")
    attention: str = option(
        "bahdanau",
        help="scores over the source",
        choices=("none", "bahdanau", "luong_dot", "luong_general"),
    )
    attention_dim: int = option(
        256, help="width of additive attention's hidden layer", minimum=1, maximum=65536
    )
    copy: bool = _copy()
    coverage: bool = option(
        False,
        help="copying: a loss on attending twice to a place (train.coverage_weight); bahdanau's "
        "attention also reads how much each place has had",
    )
    input_feeding: bool = option(
        False, help="feed the last attentional state into the next step (Luong et al. 2015)"
    )
    bridge: str = option(
        "dense",
        help="first state: zeros, the encoder's last states, or a dense layer of its summary",
        choices=("zero", "copy", "dense"),
    )
    context_every_step: bool = option(
        False, help="without attention: feed the encoder's summary in at every step"
    )
    forget_bias: float = option(
        1.0,
        help="start of the forget gate's bias (lstm, minlstm, sru, ssru)",
        minimum=-10.0,
        maximum=10.0,
    )
    recurrent_init: str = option(
        "orthogonal",
        help="recurrent kernel's start (simple, lstm, gru: the others have none)",
        choices=("orthogonal", "uniform"),
    )
    recurrence_kernel: str = _recurrence_kernel()


@dataclasses.dataclass(frozen=True)
class NoDecoderConfig:
    """No decoder: an encoder alone that tells masked tokens, such as BERT."""

    kind: str = option("none", help="no decoder", choices=("none",))
    num_token_types: int = option(
        2, help="kinds of text in one row, each with an embedding of its own", minimum=1, maximum=16
    )
    next_sentence: bool = option(
        True, help="a head that tells from the first token whether two texts belong together"
    )


@dataclasses.dataclass(frozen=True)
class TokensHeadConfig:
    """No head of its own: the model writes or tells tokens."""

    kind: str = option("tokens", help="tokens, by the output layer", choices=("tokens",))


@dataclasses.dataclass(frozen=True)
class ClassifierHeadConfig:
    """One label a text, above an encoder alone or a decoder alone."""

    kind: str = option("classifier", help="one label a text", choices=("classifier",))
    pooling: str = option(
        "mean",
        help="what of an encoder's states is read: their mean, or the first one (BERT); a "
        "decoder gives that of the last token",
        choices=("mean", "first"),
    )
    dropout_rate: float = _rate(0.1, "dropout on what the head reads")


@dataclasses.dataclass(frozen=True)
class TaggerHeadConfig:
    """One label a word, told at its first token, above an encoder alone or a decoder alone."""

    kind: str = option("tagger", help="one label a word", choices=("tagger",))
    dropout_rate: float = _rate(0.1, "dropout on what the head reads")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Any encoder with any decoder, or either of them alone."""

    embed_dim: int = option(
        512, help="embedding width; also the Transformer's width", minimum=1, maximum=65536
    )
    dropout_rate: float = _rate(0.1, "dropout on embeddings")
    tie_embeddings: str = option(
        "target_output",
        help="share nothing, target embedding = output layer, or source too (joint vocabulary)",
        choices=("none", "target_output", "all"),
    )
    scale_embeddings: bool = option(True, help="multiply embeddings by sqrt(embed_dim)")
    output_bias: bool = option(False, help="a bias for each output token")
    source_token_types: int = option(
        0,
        help="above 0: sources are read as a masked language model with so many token types reads "
        "its first text, the sum with that type's embedding normalised: for encoders of such runs",
        minimum=0,
        maximum=16,
    )
    encoder: TransformerEncoderConfig | RecurrentEncoderConfig | NoEncoderConfig = option(  # noqa: RUF009
        TransformerEncoderConfig(), help="encoder, or none"
    )
    decoder: TransformerDecoderConfig | RecurrentDecoderConfig | NoDecoderConfig = option(  # noqa: RUF009
        TransformerDecoderConfig(), help="decoder, or none"
    )
    head: TokensHeadConfig | ClassifierHeadConfig | TaggerHeadConfig = option(  # noqa: RUF009
        TokensHeadConfig(), help="what is told: tokens, or labels"
    )

    @property
    def tells_labels(self) -> bool:
        """Whether targets are labels of texts or words, and not text."""
        return not isinstance(self.head, TokensHeadConfig)

    @property
    def copies(self) -> bool:
        """Whether the decoder copies from the source."""
        return not isinstance(self.decoder, NoDecoderConfig) and self.decoder.copy

    @property
    def covers(self) -> bool:
        """Whether there is a loss on copying twice from a place."""
        return not isinstance(self.decoder, NoDecoderConfig) and self.decoder.coverage
