"""The work that all programs here do: sizes, rates, training batches, sources to translate."""

import dataclasses
import os
import pathlib
import sys

import numpy as np

PAD_ID, UNK_ID, BOS_ID, EOS_ID = 0, 1, 2, 3  # those of seqgen.types, which peers cannot import
BPE_SIZE = 8192
DROPOUT_RATE = 0.1
LABEL_SMOOTHING = 0.1
LEARNING_RATE = 1e-4
ADAM_BETAS = (0.9, 0.98)
CLIP_NORM = 1.0
HIDDEN_DIM = 256  # recurrent models: embedding, states and attention are all this wide
SOURCE_LEN, TARGET_LEN = 20, 32  # decoding: tokens in, tokens out
DECODE_BATCHES = (1, 32, 64)


@dataclasses.dataclass(frozen=True)
class TransformerSize:
    """Widths of an encoder-decoder Transformer, the same number of layers on both sides."""

    num_layers: int
    model_dim: int
    num_heads: int
    ff_dim: int
    vocab_size: int


SIZES = {
    "small": TransformerSize(3, 256, 4, 1024, BPE_SIZE),
    "base": TransformerSize(6, 512, 8, 2048, 32_000),
}
RECURRENT_MODELS = {  # cell and attention
    "lstm-bahdanau": ("lstm", "bahdanau"),
    "lstm-luong": ("lstm", "luong"),
    "gru-bahdanau": ("gru", "bahdanau"),
}
GPT_SHAPES = {"gpt-12x64": (12, 64), "gpt-32x256": (32, 256)}  # batch, context
GPT_STEPS = {"gpt-12x64": 20, "gpt-32x256": 6}  # in a pass; a single step would be too short
GPT_VOCAB, GPT_LAYERS, GPT_DIM, GPT_HEADS = 65, 4, 128, 4


@dataclasses.dataclass(frozen=True)
class PeerBatch:
    """One batch of translation, int32, padded with PAD_ID to its own longest row.

    Attributes:
      source: [B, S], rows end with EOS_ID.
      target: [B, T], what the decoder reads: BOS_ID and the words.
      labels: [B, T], what it should say: the words and EOS_ID.
    """

    source: np.ndarray
    target: np.ndarray
    labels: np.ndarray


def cache_dir() -> pathlib.Path:
    """Folder of batches and converted models: $SEQGEN_PEERS_CACHE or ./.peers_cache."""
    folder = pathlib.Path(os.environ.get("SEQGEN_PEERS_CACHE", ".peers_cache"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def translation_dir() -> pathlib.Path:
    """Folder of a trained run's weights and test lines, which `export_run.py` writes."""
    return cache_dir() / "translation"


def translation_lines() -> list[str]:
    """The sentences to translate.

    Raises:
      SystemExit: `export_run.py` was not run.
    """
    path = translation_dir() / "sources.txt"
    if not path.exists():
        print(f"{path} is not there; run export_run.py first", file=sys.stderr)
        raise SystemExit(2)
    return path.read_text(encoding="utf-8").splitlines()


def write_answers(path: pathlib.Path, answers: list[tuple[float, str]]) -> None:
    """A line 'score TAB text' for each."""
    rows = [f"{score:.6f}\t{text}\n" for score, text in answers]
    path.write_text("".join(rows), encoding="utf-8")


def load_batches(count: int) -> list[PeerBatch]:
    """The first `count` batches that `prepare.py` wrote; the first is the reference batch."""
    path = cache_dir() / "batches.npz"
    if not path.exists():
        raise SystemExit(f"{path} is not there; run prepare.py first")
    with np.load(path) as arrays:
        pairs = [
            (arrays[f"source_{i}"], arrays[f"target_{i}"])
            for i in range(min(count, len(arrays.files) // 2))
        ]
    return [PeerBatch(source, target[:, :-1], target[:, 1:]) for source, target in pairs]


def count_tokens(batches: list[PeerBatch]) -> int:
    """Target tokens that bear loss."""
    return sum(int((batch.labels != PAD_ID).sum()) for batch in batches)


def make_characters(name: str) -> np.ndarray:
    """Random characters, which cost what real ones do: int32 [steps of a pass, B, context + 1]."""
    rows, context = GPT_SHAPES[name]
    shape = (GPT_STEPS[name], rows, context + 1)
    return np.random.default_rng(0).integers(0, GPT_VOCAB, shape).astype(np.int32)


def make_sources(size: str, batch_size: int) -> np.ndarray:
    """Random source ids for decoding, int32 [B, SOURCE_LEN]; every row ends with EOS_ID."""
    # The last id is left out: CTranslate2's Marian converter drops that row of the embedding.
    highest = SIZES[size].vocab_size - 1
    rows = np.random.default_rng(0).integers(10, highest, (max(DECODE_BATCHES), SOURCE_LEN))
    rows[:, -1] = EOS_ID
    return rows[:batch_size].astype(np.int32)
