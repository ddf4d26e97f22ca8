"""What stands around a tokenizer leaves it as it is, and a run from before keeps its digests."""

import pytest

from seqgen.data.chat_template import ChatTemplate
from seqgen.data.config import TokenizerConfig
from seqgen.data.control_tokens import ControlTokenizer
from seqgen.data.dialogue_tokenizer import DialogueTokenizer
from seqgen.data.multiline import MultilineTokenizer
from seqgen.data.sentencepiece_tokenizer import train_sentencepiece
from seqgen.data.tokenizer import ByteTokenizer, TableTokenizer
from seqgen.data.tokenizer_store import Tokenizers
from seqgen.data.word_starts import find_word_starts
from seqgen.types import UNK_ID

TEMPLATE = ChatTemplate(("user", "bot"), "bot", "", 64)
BYTES, WORDS = ByteTokenizer(), TableTokenizer([" a", " ç"], kind="word", byte_fallback=True)
LINES = MultilineTokenizer(BYTES)
MASK = ControlTokenizer(LINES, ["mask"])
REPLIES = ControlTokenizer(WORDS, TEMPLATE.control_names)
HISTORIES = DialogueTokenizer(REPLIES, TEMPLATE)


@pytest.mark.parametrize(
    ("tokenizer", "fingerprint"),
    [
        (BYTES, "0b796e40c6b23b6e5d1ebeb3b1afd2e6"),
        (WORDS, "53d871b5dd0a527149a6e0c39247b8a6"),
        (LINES, "15f3d8c94dcd9e321ea754821f004eee"),
        (MASK, "8fc6661cf94fbad20755ce74f2468a52"),
        (REPLIES, "e2d642a29cdc9aacc2c3854c8c9d4689"),
        (HISTORIES, "a5e5bd61aec1fc2efb402b2795536a39"),
    ],
)
def test_fingerprints_are_those_that_runs_and_caches_were_written_with(tokenizer, fingerprint):
    assert tokenizer.fingerprint == fingerprint


def test_histories_share_the_vocabulary_of_replies_and_nobody_elses():
    assert Tokenizers(HISTORIES, REPLIES).joint and HISTORIES.fingerprint != REPLIES.fingerprint
    assert not Tokenizers(WORDS, REPLIES).joint and not Tokenizers(BYTES, LINES).joint


def test_what_is_put_around_a_tokenizer_passes_on_all_else():
    cfg = TokenizerConfig(kind="bpe", vocab_size=300, sampling_alpha=0.3)
    texts = ["the cat sleeps on the mat"] * 4
    pieces = train_sentencepiece(iter(texts), cfg, lowercase=True, own=("\n",))
    lines = MultilineTokenizer(pieces)
    marked = ControlTokenizer(lines, ["mask"])
    assert marked.lowercase and marked.options == pieces.options != {}
    assert (marked.multiline, marked.line_end_id) == (True, lines.line_end_id)
    assert marked.drops_line_space and not MASK.drops_line_space
    assert not REPLIES.multiline and not REPLIES.drops_line_space
    apart = ControlTokenizer(pieces, ["mask"])
    drawn = {tuple(apart.sample(texts[0], seed=seed)) for seed in range(8)}
    assert drawn == {tuple(pieces.sample(texts[0], seed=seed)) for seed in range(8)}
    assert len(drawn) > 1
    # Contiguous text is cut once, whatever is inside.
    assert marked.sample(texts[0], seed=1) == pieces.encode(texts[0])
    assert marked.word_starts.tolist() == find_word_starts(marked).tolist()
    assert marked.word_starts.sum() > 3


def test_an_unknown_word_begins_one_under_every_wrapper():
    words = TableTokenizer([" a", " \n"], kind="word", byte_fallback=False)
    for tokenizer in (words, ControlTokenizer(MultilineTokenizer(words), ["mask"])):
        starts = find_word_starts(tokenizer)
        assert not starts[UNK_ID] and tokenizer.word_starts[UNK_ID]
        starts[UNK_ID] = True
        assert tokenizer.word_starts.tolist() == starts.tolist()
    assert not MASK.word_starts[UNK_ID]
