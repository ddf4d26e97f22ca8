"""SentencePiece tokenizers: trained here or given (Kudo and Richardson, 2018, arXiv:1808.06226).

Models trained here leave the text as it is: no normalisation, no removal of spaces. A space is put
before the first word and taken off again when decoding, so that a word has one piece wherever it
stands. A given model normalises as its maker decided.
"""

import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece

from seqgen.data import cache
from seqgen.data.base_tokenizer import BaseTokenizer
from seqgen.data.config import TokenizerConfig
from seqgen.data.segmentation import Segmenter, build_segmenter
from seqgen.data.tokenizer import real_ids, utf8
from seqgen.errors import DataError
from seqgen.types import BOS_ID, EOS_ID, NUM_CONTROL_IDS, PAD_ID, UNK_ID

SPACE_MARK = "\u2581"  # what SentencePiece writes for a space
_NONCHARACTERS = [chr(code) for code in range(0xFDD0, 0xFDF0)]


class SentencePieceTokenizer(BaseTokenizer):
    """A SentencePiece model behind our ids: control ids 0..3, then its other pieces in their order.

    Args:
      model: the serialised model.
      lowercase: text is lower-cased first.
      sampling_alpha: 0 = `sample` is `encode`; see `TokenizerConfig.sampling_alpha`.
      sampling_nbest: segmentations that unigram sampling chooses from.

    Raises:
      DataError: if `model` is not a SentencePiece model.
    """

    kind = "sentencepiece"

    def __init__(
        self,
        model: bytes,
        *,
        lowercase: bool = False,
        sampling_alpha: float = 0.0,
        sampling_nbest: int = 16,
    ):
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        except (RuntimeError, TypeError) as error:
            raise DataError("not a SentencePiece model", details=[str(error)[:200]]) from error
        processor = self._processor
        if processor.get_piece_size() == 0:
            raise DataError("not a SentencePiece model", details=["it holds no pieces"])
        self._model = model
        self.lowercase = lowercase
        self._options = {
            "lowercase": lowercase,
            "sampling_alpha": sampling_alpha,
            "sampling_nbest": sampling_nbest,
        }
        total = processor.get_piece_size()
        is_control = np.array(
            [processor.is_control(i) or processor.is_unknown(i) for i in range(total)]
        )
        self._theirs = np.flatnonzero(~is_control)  # our id - 4 -> their id
        ours = np.full(total, UNK_ID, np.int32)
        ours[self._theirs] = NUM_CONTROL_IDS + np.arange(len(self._theirs))
        for theirs, control in (
            (processor.pad_id(), PAD_ID),
            (processor.bos_id(), BOS_ID),
            (processor.eos_id(), EOS_ID),
        ):
            if theirs >= 0:
                ours[theirs] = control
        self._ours = ours.tolist()
        self.vocab_size = NUM_CONTROL_IDS + len(self._theirs)
        self.fingerprint = cache.digest_bytes(model, b"lowercase" if lowercase else b"")
        self._segmenter: Segmenter | None = (
            build_segmenter(processor, alpha=sampling_alpha, nbest=sampling_nbest)
            if sampling_alpha > 0
            else None
        )
        marks = [processor.piece_to_id(f"<0x{byte:02X}>") for byte in utf8(SPACE_MARK)]
        self._mark_bytes = marks if all(processor.is_byte(i) for i in marks) else None

    @property
    def options(self) -> dict[str, Any]:
        """What the model file does not say."""
        return self._options

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, without BOS_ID and EOS_ID."""
        plain = self._clean(text)
        # Not as a list of one: for a list the library makes a pool of threads, 50 times the work.
        return self._to_ours(plain, self._processor.encode(plain))

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of each text."""
        plain = [self._clean(text) for text in texts]
        encoded = self._processor.encode(plain, num_threads=1)
        return list(map(self._to_ours, plain, encoded))

    def _to_ours(self, plain: str, ids: Sequence[int]) -> list[int]:
        """Our ids of a text that SentencePiece cut into `ids`."""
        theirs = self._encode_mark(plain) if SPACE_MARK in plain else ids
        return [self._ours[i] for i in theirs]

    def decode(self, ids: Any) -> str:
        """Plain text; bytes that are no UTF-8 become U+FFFD."""
        top = self.vocab_size
        theirs = [int(self._theirs[i - NUM_CONTROL_IDS]) for i in real_ids(ids) if i < top]
        return self._processor.decode(theirs)

    def piece_bytes(self, token_id: int) -> bytes:
        """A piece in UTF-8 with spaces for their marks, or the byte that a token is."""
        if token_id < NUM_CONTROL_IDS:
            return b""
        theirs = int(self._theirs[token_id - NUM_CONTROL_IDS])
        piece = self._processor.id_to_piece(theirs)
        if self._processor.is_byte(theirs):
            return bytes([int(piece[3:-1], 16)])
        return utf8(piece.replace(SPACE_MARK, " "))

    def sample(self, text: str, *, seed: int) -> list[int]:
        """One of several segmentations, a pure function of text and seed (see `segmentation`)."""
        plain = self._clean(text)
        if self._segmenter is None or SPACE_MARK in plain:
            return self.encode(text)
        return [self._ours[i] for i in self._segmenter(plain, seed=seed)]

    def save(self, path: Path) -> None:
        """Write the model file."""
        path.write_bytes(self._model)

    def _clean(self, text: str) -> str:
        return utf8(text.lower() if self.lowercase else text).decode("utf-8")

    def _encode_mark(self, text: str) -> list[int]:
        """Their ids of a text that holds U+2581 itself, which they would take for a space.

        A character that neither the text nor the vocabulary has stands in for it; that one is
        spelt in bytes, and its bytes are then exchanged for those of U+2581.
        """
        processor = self._processor
        unknown = processor.unk_id()
        stand_in = next(
            (c for c in _NONCHARACTERS if c not in text and processor.piece_to_id(c) == unknown),
            None,
        )
        if stand_in is None:
            return processor.encode(text)
        ids = processor.encode(text.replace(SPACE_MARK, stand_in))
        if self._mark_bytes is None:
            return ids
        spelt = [processor.piece_to_id(f"<0x{byte:02X}>") for byte in utf8(stand_in)]
        exchanged: list[int] = []
        position = 0
        while position < len(ids):
            if ids[position : position + len(spelt)] == spelt:
                exchanged.extend(self._mark_bytes)
                position += len(spelt)
            else:
                exchanged.append(ids[position])
                position += 1
        return exchanged


def train_sentencepiece(
    texts: Iterable[str],
    cfg: TokenizerConfig,
    *,
    lowercase: bool = False,
    own: Sequence[str] = (),
) -> SentencePieceTokenizer:
    """Train a BPE or unigram model; the same texts in the same order give the same bytes.

    One thread and no shuffling: the sums of several threads would depend on their number.

    Args:
      own: pieces that are in the vocabulary and in no other piece.

    Raises:
      DataError: if there is no text, or the vocabulary is too small for its characters.
    """
    model = io.BytesIO()
    lines = (utf8(text.lower() if lowercase else text) for text in texts if text.strip())
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=lines,
            model_writer=model,
            model_type=cfg.kind,
            vocab_size=cfg.vocab_size,
            character_coverage=cfg.character_coverage,
            byte_fallback=cfg.byte_fallback,
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            hard_vocab_limit=False,  # a small corpus gives fewer pieces instead of an error
            max_sentence_length=1 << 20,
            shuffle_input_sentence=False,
            num_threads=1,
            pad_id=PAD_ID,
            unk_id=UNK_ID,
            bos_id=BOS_ID,
            eos_id=EOS_ID,
            user_defined_symbols=list(own),
            minloglevel=2,
        )
    except RuntimeError as error:
        message = str(error).splitlines()[-1][:300]
        details = [message, "choose another size:  --config.tokenizer.vocab_size=N"]
        needed = re.search(r"required_chars\D*\d+ vs (\d+)", message)
        if needed:
            details = [
                f"it needs       at least {needed[1]}: control tokens, single characters"
                + (" and 256 bytes" if cfg.byte_fallback else ""),
                f"set            --config.tokenizer.vocab_size={needed[1]} or more",
            ]
            if cfg.byte_fallback:
                details.append("or             --config.tokenizer.byte_fallback=false")
        raise DataError(
            f"SentencePiece cannot make {cfg.vocab_size} {cfg.kind} pieces of this corpus",
            details=details,
        ) from error
    return SentencePieceTokenizer(
        model.getvalue(),
        lowercase=lowercase,
        sampling_alpha=cfg.sampling_alpha,
        sampling_nbest=cfg.sampling_nbest,
    )


def load_model(
    path: Path, *, sampling: TokenizerConfig, lowercase: bool = False
) -> SentencePieceTokenizer:
    """A SentencePiece model of the user's own.

    Raises:
      DataError: if the file is missing or is no model.
    """
    try:
        model = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"cannot read the tokenizer {path}", details=[error.strerror or str(error)]
        ) from error
    return SentencePieceTokenizer(
        model,
        lowercase=lowercase,
        sampling_alpha=sampling.sampling_alpha,
        sampling_nbest=sampling.sampling_nbest,
    )
