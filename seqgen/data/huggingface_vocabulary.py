"""WordPiece and byte-level BPE vocabularies in the files of Hugging Face's libraries, with our ids.

WordPiece is BERT's (Devlin et al., 2019, arXiv:1810.04805, after Schuster and Nakajima, 2012):
`vocab.txt`. Byte-level BPE is GPT-2's (Radford et al., 2019): `vocab.json` and `merges.txt`. Both
may also come as a `tokenizer.json` of the library `tokenizers`, which is not needed here.
"""

import dataclasses
import itertools
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from seqgen.data import cache
from seqgen.errors import DataError, labelled
from seqgen.types import NUM_CONTROL_IDS, UNK_ID

KINDS = {"WordPiece": "wordpiece", "BPE": "byte_bpe"}
UNKNOWN = " unknown"  # no text gives this piece: what the library looks up holds no space
IN_DIRECTORIES = ("tokenizer.json", "vocab.txt", "vocab.json")
_SETTINGS, _MERGES = "tokenizer_config.json", "merges.txt"
_BERT_CONTROL = re.compile(r"\[[^\[\]]+\]")


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """What the library makes a tokenizer of, and how its ids became ours.

    Attributes:
      settings: a `tokenizer.json` without anything that would make control tokens of text, ids
        ours: `UNKNOWN` is UNK_ID, pieces stand behind our control ids in the order of theirs.
      their_ids: piece n, our id NUM_CONTROL_IDS + n, had the id `their_ids[n]`.
      their_controls: name and id of their tokens that no text gives. We have none of them: our
        control ids stand in their places.
      space_first: the first word carries a space that is not printed.
    """

    settings: dict[str, Any]
    their_ids: list[int]
    their_controls: dict[str, int]
    space_first: bool

    @property
    def kind(self) -> str:
        """'wordpiece' or 'byte_bpe'."""
        return KINDS[self.settings["model"]["type"]]


def vocabulary_files(path: Path) -> tuple[Path, ...]:
    """The files that `path`, a file or a directory, stands for; () if they are none of these kinds.

    Raises:
      DataError: a directory without a vocabulary.
    """
    if path.is_dir():
        found = [path / name for name in IN_DIRECTORIES if (path / name).is_file()]
        if not found:
            raise DataError(
                f"no vocabulary in {path}",
                details=[labelled("looked for", ", ".join(IN_DIRECTORIES))],
            )
        path = found[0]
    if path.suffix not in (".json", ".txt"):
        return ()
    beside = path.with_name(_SETTINGS), _merges_of(path)
    return (path, *(file for file in beside if file.is_file() and file != path))


def read_vocabulary(path: Path) -> Vocabulary:
    """The vocabulary in `vocabulary_files(path)`.

    Raises:
      DataError: a file is missing or damaged, or holds another kind of tokenizer.
    """
    path = vocabulary_files(path)[0]
    try:
        if path.suffix == ".txt":
            found = _bert(path)
        else:
            found = cache.read_json(path)
            if not isinstance(found.get("model"), dict):  # GPT-2 has a piece 'model'
                found = _gpt2(found, path)
        return _ours(found)
    except DataError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"cannot read the tokenizer {path}",
            details=[
                f"{type(error).__name__}: {error}"[:200],
                labelled("it may be", "vocab.txt of BERT, vocab.json of GPT-2, a tokenizer.json"),
            ],
        ) from error


def _bert(path: Path) -> dict[str, Any]:
    """A `tokenizer.json` of `vocab.txt`, a piece a line; what is not said beside it is told by it.

    Its maker lower-cased (and took accents off) if no piece has a capital letter.
    """
    lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    vocab = {line: number for number, line in enumerate(lines)}
    if "[UNK]" not in vocab:
        raise ValueError("no line [UNK], which every vocabulary of BERT has")
    cased = any(piece != piece.lower() for piece in vocab if not _BERT_CONTROL.fullmatch(piece))
    said = _said_beside(path)
    return {
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": said.get("tokenize_chinese_chars", True),
            "strip_accents": said.get("strip_accents"),
            "lowercase": said.get("do_lower_case", not cased),
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocab,
        },
    }


def _gpt2(vocab: Mapping[str, int], path: Path) -> dict[str, Any]:
    """A `tokenizer.json` of `vocab.json` and the merges beside it."""
    lines = _merges_of(path).read_text(encoding="utf-8").split("\n")
    return {
        "pre_tokenizer": {
            "type": "ByteLevel",
            "add_prefix_space": _said_beside(path).get("add_prefix_space", False),
            "trim_offsets": True,
            "use_regex": True,
        },
        "model": {
            "type": "BPE",
            "vocab": dict(vocab),
            "merges": [
                line.split(" ")
                for line in lines
                if line.strip() and not line.startswith("#version")
            ],
        },
    }


def _ours(found: dict[str, Any]) -> Vocabulary:
    """A `tokenizer.json` with our ids and without control tokens."""
    model = found["model"]
    kind = model.get("type") or ("BPE" if "merges" in model else "WordPiece")
    cutter = found.get("pre_tokenizer") or {}
    affixes = [model.get("end_of_word_suffix"), model.get("continuing_subword_prefix")]
    parts = cutter.get("pretokenizers", [cutter])
    byte_level = [part for part in parts if part.get("type") == "ByteLevel"]
    if kind not in KINDS or (kind == "BPE" and (not byte_level or any(affixes))):
        raise DataError(
            "the tokenizer is neither WordPiece nor byte-level BPE",
            details=[
                labelled("it is", f"{kind} with the pre_tokenizer {cutter.get('type')}"),
                labelled("or", "give the SentencePiece .model file that it was made of"),
            ],
        )
    vocab: dict[str, int] = model["vocab"]
    added = {t["content"]: t["id"] for t in found.get("added_tokens") or () if t.get("special")}
    dropped = {*added, model.get("unk_token")}
    if kind == "BPE":
        merges = [tuple(m.split(" ") if isinstance(m, str) else m) for m in model["merges"]]
        if not model.get("ignore_merges"):
            dropped |= _never_made(vocab, merges)
    else:
        merges = []
        dropped |= {piece for piece in vocab if _BERT_CONTROL.fullmatch(piece)}
    kept = sorted((i, piece) for piece, i in vocab.items() if piece and piece not in dropped)
    ours = {piece: NUM_CONTROL_IDS + n for n, (_, piece) in enumerate(kept)}
    model = {**model, "type": kind, "unk_token": UNKNOWN, "vocab": {UNKNOWN: UNK_ID, **ours}}
    space_first = kind == "WordPiece"
    if kind == "BPE":
        model["dropout"] = None
        model["merges"] = [[a, b] for a, b in merges if {a, b, a + b} <= ours.keys()]
        space_first = byte_level[0].pop("add_prefix_space", False)
        if space_first and len(parts) > 1:
            raise DataError("add_prefix_space stands in a sequence of pre_tokenizers")
        byte_level[0]["add_prefix_space"] = False
    return Vocabulary(
        settings={
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [],
            "normalizer": found.get("normalizer"),
            "pre_tokenizer": found.get("pre_tokenizer"),
            "post_processor": None,
            "decoder": None,
            "model": model,
        },
        their_ids=[i for i, _ in kept],
        their_controls={
            **added,
            **{name: i for name, i in vocab.items() if name in dropped},
        },
        space_first=space_first,
    )


def _never_made(vocab: Iterable[str], merges: Iterable[tuple[str, ...]]) -> set[str]:
    """Pieces that no merge gives: in a vocabulary of BPE those are its control tokens."""
    made = set(map("".join, merges))
    return {piece for piece in vocab if len(piece) > 1 and piece not in made}


def _merges_of(path: Path) -> Path:
    """`x-merges.txt` for `x-vocab.json`, else merges.txt."""
    if path.name.endswith("vocab.json"):
        return path.with_name(path.name.removesuffix("vocab.json") + _MERGES)
    return path.with_name(_MERGES)


def _said_beside(path: Path) -> dict[str, Any]:
    settings = path.with_name(_SETTINGS)
    return cache.read_json(settings) if settings.is_file() else {}


def byte_symbols() -> dict[str, int]:
    """The character that stands for each byte in byte-level BPE (Radford et al., 2019).

    Printable characters of Latin-1 stand for themselves, the other bytes for U+0100 and what
    follows.
    """
    printable = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = itertools.count(256)
    return {chr(byte if byte in printable else next(others)): byte for byte in range(256)}
