"""What a user may say about the corpus, the vocabulary and the batches."""

import dataclasses

from seqgen.types import option

TOKENIZER_KINDS = ("bpe", "unigram", "word", "char", "byte", "given", "run")
SOURCE_NAMES = (
    *("text", "plain_text", "jsonl", "dialogue", "tfds", "number_words"),
    *("copy", "reverse", "sort"),
)
CONTIGUOUS = ("blocks", "streams")
OBJECTIVES = ("causal", "masked", "span_corruption", "denoising", "prefix")
NUM_SENTINELS = 100
TARGETS = ("text", "labels", "tags")


@dataclasses.dataclass(frozen=True)
class TokenizerConfig:
    """How text becomes ids. PAD 0, UNK 1, BOS 2, EOS 3 hold for every kind."""

    kind: str = option(
        "bpe",
        choices=TOKENIZER_KINDS,
        help="SentencePiece BPE or unigram trained on the corpus, words between spaces, "
        "characters, bytes, a vocabulary of yours (SentencePiece, WordPiece, byte-level BPE), or "
        "that of another run",
    )
    vocab_size: int = option(
        10_000,
        minimum=8,
        maximum=1_000_000,
        help="ids wanted, control ids included; small corpora may give fewer",
    )
    joint: bool = option(True, help="one vocabulary for source and target")
    byte_fallback: bool = option(
        True, help="spell characters outside the vocabulary in bytes (256 ids), so none is lost"
    )
    character_coverage: float = option(
        0.9999,
        minimum=0.9,
        maximum=1.0,
        help="share of the corpus' characters that SentencePiece keeps as pieces of their own",
    )
    path: str = option(
        "",
        help="kind 'given': a SentencePiece .model file, BERT's vocab.txt, GPT-2's vocab.json with "
        "merges.txt beside it, a tokenizer.json, or a directory with one of the last three; kind "
        "'run': the run directory, empty = the first of init.runs",
    )
    target_path: str = option("", help="the same for the target, not joint; empty = as path")
    sampling_alpha: float = option(
        0.0,
        minimum=0.0,
        maximum=1.0,
        help="0 = off. Training pairs are segmented anew each epoch: BPE drops a merge with this "
        "probability, unigram samples among the best segmentations with probability ~ p ** alpha",
    )
    sampling_nbest: int = option(
        16, minimum=2, maximum=512, help="unigram sampling chooses among this many segmentations"
    )


@dataclasses.dataclass(frozen=True)
class ObjectiveConfig:
    """What a model learns of text without sources."""

    name: str = option(
        "causal",
        choices=OBJECTIVES,
        help="the next token (a decoder alone); hidden tokens (an encoder alone); spans cut out, "
        "damaged text, or the rest of a text (encoder and decoder)",
    )
    unit: str = option(
        "token",
        choices=("token", "word", "span"),
        help="masked: hide single tokens, whole words, or spans of words",
    )
    rate: float = option(
        0.15,
        minimum=0.001,
        maximum=0.9,
        help="masked, span_corruption, denoising: share of the tokens that is hidden",
    )
    mean_span_length: float = option(
        3.0, minimum=1.0, maximum=100.0, help="span_corruption, denoising: tokens a span, about"
    )
    pairs: str = option(
        "none",
        choices=("none", "next_sentence", "sentence_order"),
        help="masked: rows are two texts, and the model also tells whether they belong together",
    )

    @property
    def marks(self) -> tuple[str, ...] | None:
        """Control tokens that it needs: a mask, or T5's sentinels; None = as text has them."""
        if self.name == "causal":
            return None
        if self.name == "span_corruption":
            return tuple(f"sentinel:{number}" for number in range(NUM_SENTINELS))
        return () if self.name == "prefix" else ("mask",)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Where the pairs come from and how they are put into batches of static shapes."""

    source: str = option(
        "text",
        choices=SOURCE_NAMES,
        open_choices=True,
        help="kind of corpus; `module:name` is a function from DataConfig to {split: Source}",
    )
    dir: str = option(
        "",
        help="text, plain_text, jsonl, dialogue: the corpus directory; tfds: a prepared data set",
    )
    source_lang: str = option("en", help="language (file ending) of the input side")
    target_lang: str = option("de", help="language (file ending) of the output side")
    name: str = option("", help="tfds: name[/config[:version]] of a registered data set")
    source_field: str = option(
        "",
        help="jsonl, tfds: the field of the input text; empty = 'source', or source_lang if the "
        "data set has a field of that name",
    )
    target_field: str = option(
        "",
        help="the same for the output text; in jsonl also a list of texts, of which training reads "
        "the first and scoring all",
    )
    targets: str = option(
        "text",
        choices=TARGETS,
        help="what the output side is: text, one label (text or number), or a label for every word "
        "of the input, both parted by spaces (jsonl: or lists)",
    )
    references_field: str = option(
        "", help="jsonl: field of further texts to score against, a list, in lines that have it"
    )
    speakers: tuple[str, ...] = option(
        ("user", "assistant"),
        help="dialogue: the names of the speakers in the corpus; each gets a control token",
    )
    reply_speaker: str = option(
        "", help="dialogue: whose turns are learnt and generated; empty = every turn"
    )
    system_line: str = option(
        "", help="dialogue: text that stands before every history and is never left out"
    )
    lowercase: bool = option(False, help="lower-case the corpus, and text given later")

    max_source_len: int = option(
        256,
        minimum=2,
        maximum=65_536,
        help="longest source in tokens, EOS included; a longer "
        "history of a dialogue loses its oldest turns",
    )
    max_target_len: int = option(
        256, minimum=2, maximum=65_536, help="longest target in tokens, EOS included"
    )
    overlong: str = option(
        "drop",
        choices=("drop", "truncate"),
        help="what happens to longer training pairs (counted); evaluation always truncates",
    )
    batching: str = option(
        "buckets",
        choices=("buckets", "packing", *CONTIGUOUS),
        help="pairs of like length side by side, or several pairs in one row (Transformer only); "
        "of text without sources: blocks at random places, or streams whose state is carried on "
        "(recurrent decoders only)",
    )
    tokens_per_batch: int = option(
        4096,
        minimum=8,
        maximum=16_777_216,
        help="budget of a batch: rows x the longer of its two lengths, padding included",
    )
    block_len: int = option(
        256,
        minimum=2,
        maximum=65_536,
        help="blocks, streams: tokens in a row, as far as gradients reach; in blocks, a model sees "
        "no more",
    )
    num_rows: int = option(
        0,
        minimum=0,
        maximum=1_000_000,
        help="blocks, streams: rows of a batch; 0 = tokens_per_batch / block_len",
    )
    objective: ObjectiveConfig = option(  # noqa: RUF009
        ObjectiveConfig(), help="blocks: what is learnt of the text"
    )
    num_buckets: int = option(
        8, minimum=1, maximum=64, help="most batch shapes, and so most compilations of the step"
    )
    length_multiple: int = option(
        2, minimum=1, maximum=1024, help="batch lengths are multiples of this"
    )
    packed_len: int = option(
        0,
        minimum=0,
        maximum=65_536,
        help="packing: tokens in a row of the longer side; 0 = chosen from the corpus",
    )

    num_examples: int = option(
        0,
        minimum=0,
        maximum=1_000_000_000,
        help="training pairs (plain_text: lines) to use, from the start; 0 = all there are",
    )
    val_examples: int = option(
        1000, minimum=1, maximum=1_000_000, help="generated tasks: pairs in the val split"
    )
    test_examples: int = option(
        2000, minimum=1, maximum=1_000_000, help="generated tasks: pairs in the test split"
    )
    min_length: int = option(
        4, minimum=1, maximum=10_000, help="copy, reverse, sort: symbols in the shortest sequence"
    )
    max_length: int = option(
        12, minimum=1, maximum=10_000, help="copy, reverse, sort: symbols in the longest sequence"
    )
    num_symbols: int = option(
        10, minimum=2, maximum=10_000, help="copy, reverse, sort: different symbols"
    )
    max_number: int = option(
        999_999, minimum=9, maximum=1_000_000_000, help="number_words: the largest number"
    )

    cache_dir: str = option(
        "",
        help="prepared corpora and token caches; empty = $SEQGEN_CACHE, or the user's own cache "
        "directory",
    )
    prefetch: int = option(
        4, minimum=1, maximum=256, help="batches made ahead of the step by a background thread"
    )

    @property
    def contiguous(self) -> bool:
        """Whether batches hold one running text without sources, and not pairs."""
        return self.batching in CONTIGUOUS

    @property
    def labelled(self) -> bool:
        """Whether targets are labels."""
        return self.targets != "text"

    @property
    def streams(self) -> bool:
        """Whether each batch goes on where the one before ended, with the model's state."""
        return self.batching == "streams"
