"""Making, saving and loading the tokenizers of a run, whatever their kind."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from seqgen.data import cache
from seqgen.data.base_tokenizer import BaseTokenizer, WrappedTokenizer
from seqgen.data.chat_template import ChatTemplate
from seqgen.data.config import DataConfig, TokenizerConfig
from seqgen.data.control_tokens import ControlTokenizer
from seqgen.data.dialogue_tokenizer import DialogueTokenizer
from seqgen.data.huggingface_tokenizer import HuggingFaceTokenizer
from seqgen.data.huggingface_vocabulary import KINDS, Vocabulary
from seqgen.data.labels import LabelTokenizer, build_labels
from seqgen.data.multiline import LINE_END, MultilineTokenizer
from seqgen.data.tokenizer import ByteTokenizer, TableTokenizer, build_table
from seqgen.errors import ConfigError, DataError, labelled

TOKENIZER_JSON = "tokenizer.json"


@dataclasses.dataclass(frozen=True)
class Tokenizers:
    """The tokenizers of the two sides.

    They are one object if joint, but for dialogues: there the source's reads histories in the
    vocabulary of the target's.
    """

    source: BaseTokenizer
    target: BaseTokenizer

    @property
    def joint(self) -> bool:
        """One vocabulary for both sides."""
        return self.source.vocabulary_fingerprint == self.target.vocabulary_fingerprint

    @property
    def multiline(self) -> bool:
        """They read text of several lines, without sources."""
        return self.target.multiline

    @property
    def labels(self) -> LabelTokenizer:
        """The target's, where targets are labels."""
        assert isinstance(self.target, LabelTokenizer), "the config's check sees to it"
        return self.target

    @property
    def written(self) -> BaseTokenizer:
        """The target's; where targets are labels, and no text is written, the source's."""
        return self.source if isinstance(self.target, LabelTokenizer) else self.target


def build_tokenizers(
    cfg: TokenizerConfig,
    *,
    source_texts: Callable[[], Iterable[str]],
    target_texts: Callable[[], Iterable[str]],
    lowercase: bool = False,
) -> Tokenizers:
    """Train (or take) the tokenizers that `cfg` asks for; the same texts give the same bytes.

    Args:
      source_texts, target_texts: give the training texts of a side, in a fixed order.

    Raises:
      DataError: if the vocabulary does not fit the texts, or a given file cannot be used.
    """
    from seqgen.data import given_tokenizer
    from seqgen.data import sentencepiece_tokenizer as pieces

    def both() -> Iterator[str]:
        yield from source_texts()
        yield from target_texts()

    if cfg.kind == "byte":
        one = ByteTokenizer(lowercase=lowercase)
        return Tokenizers(one, one)
    if cfg.kind == "given":
        if not cfg.path:
            raise DataError(
                "tokenizer kind 'given' needs a file",
                details=["name it:  --config.tokenizer.path=PATH"],
            )
        one = given_tokenizer.load_given(Path(cfg.path), cfg, lowercase=lowercase)
        if cfg.joint or not cfg.target_path:
            return Tokenizers(one, one)
        other = given_tokenizer.load_given(Path(cfg.target_path), cfg, lowercase=lowercase)
        return Tokenizers(one, other)
    if cfg.kind in ("bpe", "unigram"):
        build: Callable[..., Any] = pieces.train_sentencepiece
    else:
        build = build_table
    if cfg.joint:
        one = build(both(), cfg, lowercase=lowercase)
        return Tokenizers(one, one)
    return Tokenizers(
        build(source_texts(), cfg, lowercase=lowercase),
        build(target_texts(), cfg, lowercase=lowercase),
    )


def build_line_tokenizer(
    cfg: TokenizerConfig, *, texts: Callable[[], Iterable[str]], lowercase: bool = False
) -> Tokenizers:
    """The one tokenizer of text without sources, line ends too; see `build_tokenizers`.

    Args:
      texts: gives the training text line by line, each with its line end.
    """
    from seqgen.data import sentencepiece_tokenizer as pieces

    if cfg.kind in ("bpe", "unigram"):
        lines = (text.removesuffix(LINE_END) for text in texts())
        one = pieces.train_sentencepiece(lines, cfg, lowercase=lowercase, own=(LINE_END,))
        return Tokenizers(one, one)

    def parts() -> Iterator[str]:
        for text in texts():
            yield text.removesuffix(LINE_END)
            yield LINE_END

    return build_tokenizers(cfg, source_texts=parts, target_texts=lambda: (), lowercase=lowercase)


def wrap(
    vocabularies: Tokenizers,
    cfg: DataConfig,
    *,
    target_texts: Callable[[], Iterable[str]] = lambda: (),
) -> Tokenizers:
    """The tokenizers of a corpus, made of those that cut its text.

    Text without sources has one, with the marks of its objective; dialogues have histories on one
    side and replies on the other, in one vocabulary; labels are those of the training data; pairs
    take the vocabularies as they are.

    Args:
      vocabularies: what cuts text.
      cfg: of the corpus.
      target_texts: gives the training targets; read where they are labels.

    Raises:
      DataError: text without sources needs a line end, which the vocabulary cannot write; or the
        system line leaves no room for a turn; or there are fewer than two labels.
    """
    if cfg.labelled:
        labels = build_labels(target_texts(), several=cfg.targets == "tags")
        return Tokenizers(vocabularies.source, labels)
    if cfg.contiguous:
        one: BaseTokenizer = MultilineTokenizer(vocabularies.target)
        if cfg.objective.marks is not None:
            one = ControlTokenizer(one, cfg.objective.marks)
        return Tokenizers(one, one)
    if cfg.source == "dialogue":
        template = ChatTemplate.of(cfg)
        replies = ControlTokenizer(vocabularies.target, template.control_names)
        return Tokenizers(DialogueTokenizer(replies, template), replies)
    return vocabularies


def vocabulary_of(tokenizer: BaseTokenizer) -> BaseTokenizer:
    """What cuts text inside a tokenizer, without what `wrap` put around it."""
    while isinstance(tokenizer, WrappedTokenizer):
        tokenizer = tokenizer.inner
    return tokenizer


def take_vocabularies(cfg: TokenizerConfig, *, lowercase: bool) -> Tokenizers:
    """The bare vocabularies of the runs that `cfg` (kind 'run') names, source and target side.

    Raises:
      DataError: a run has no tokenizer, or one that treats capitals otherwise than `lowercase`.
    """
    paths = (cfg.path, cfg.target_path or cfg.path)
    runs = {path: load_tokenizers(Path(path) / "tokenizer") for path in dict.fromkeys(paths)}
    one, other = vocabulary_of(runs[paths[0]].source), vocabulary_of(runs[paths[1]].written)
    for path, vocabulary in zip(paths, (one, other), strict=True):
        if vocabulary.lowercase != lowercase:
            wanted = str(vocabulary.lowercase).lower()
            raise DataError(
                f"the tokenizer of {path} has lowercase={wanted}, the data "
                f"data.lowercase={str(lowercase).lower()}",
                details=[labelled("choose", f"data.lowercase={wanted}, as that run")],
            )
    return Tokenizers(one, one if other.fingerprint == one.fingerprint else other)


def save_tokenizers(tokenizers: Tokenizers, directory: Path, *, made_from: str) -> None:
    """Write both tokenizers and tokenizer.json into an existing directory.

    Args:
      made_from: digest of the settings and texts they were made from.
    """
    entries = {}
    sides = {"source": tokenizers.source, "target": tokenizers.target}
    for side, tokenizer in sides.items():
        stem = "joint" if tokenizers.joint else side
        suffix = ".model" if tokenizer.kind == "sentencepiece" else ".json"
        name = f"{stem}{suffix}"
        tokenizer.save(directory / name)
        entries[side] = {
            "multiline": tokenizer.multiline,
            "kind": tokenizer.kind,
            "file": name,
            "file_digest": cache.digest_file(directory / name),
            "fingerprint": tokenizer.fingerprint,
            "vocab_size": tokenizer.vocab_size,
            "options": tokenizer.options,
            **tokenizer.record,
        }
    cache.write_json(
        directory / TOKENIZER_JSON,
        {"version": 1, "joint": tokenizers.joint, "made_from": made_from, **entries},
    )


def load_tokenizers(directory: Path) -> Tokenizers:
    """The tokenizers that `save_tokenizers` wrote.

    Raises:
      DataError: if a file is missing or damaged.
      ConfigError: if what it needs is not installed.
    """
    record = read_record(directory)
    source = _load(Path(directory), record["source"])
    if record["source"] == record["target"]:
        return Tokenizers(source, source)
    return Tokenizers(source, _load(Path(directory), record["target"]))


def read_record(directory: Path) -> dict[str, Any]:
    """tokenizer.json of a directory.

    Raises:
      DataError: if it is missing or damaged.
    """
    path = Path(directory) / TOKENIZER_JSON
    try:
        record = cache.read_json(path)
        if record["version"] != 1 or not {"joint", "source", "target"} <= set(record):
            raise ValueError("not a record of this version")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"cannot read the tokenizer record {path}", details=[str(error)]) from error
    return record


def _load(directory: Path, entry: dict[str, Any]) -> BaseTokenizer:
    from seqgen.data import sentencepiece_tokenizer as pieces

    try:
        name = entry["file"]
        if Path(name).name != name:
            raise ValueError(f"{name!r} is not a plain file name")
        path = directory / name
        if cache.digest_file(path) != entry["file_digest"]:
            raise ValueError(f"{path} was changed after it was saved")
        fields = {} if entry["kind"] == "sentencepiece" else cache.read_json(path)
        if entry["kind"] == "sentencepiece":
            one: BaseTokenizer = pieces.SentencePieceTokenizer(
                path.read_bytes(), **entry["options"]
            )
        elif entry["kind"] in KINDS.values():
            one = HuggingFaceTokenizer(
                Vocabulary(**fields["vocabulary"]), lowercase=fields["lowercase"]
            )
        elif entry["kind"] == "byte":
            one = ByteTokenizer(lowercase=fields["lowercase"])
        elif entry["kind"] == "labels":
            one = LabelTokenizer(fields["labels"], several=fields["several"])
        else:
            one = TableTokenizer(fields.pop("pieces"), **fields)
        if entry.get("multiline"):
            one = MultilineTokenizer(one)
        if "controls" not in entry:
            return one
        marked = ControlTokenizer(one, entry["controls"])
        if "dialogue" not in entry:
            return marked
        options = {**entry["dialogue"], "speakers": tuple(entry["dialogue"]["speakers"])}
        return DialogueTokenizer(marked, ChatTemplate(**options))
    except ConfigError:  # not installed
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"cannot load a tokenizer of {directory}", details=[str(error)]) from error
