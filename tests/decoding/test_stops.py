"""The table of stop strings against a search in the text itself."""

import itertools

import pytest

from seqgen.decoding.stops import find_stop, stop_table
from seqgen.types import NUM_CONTROL_IDS

LETTERS = [b"a", b"b", b"ab", b"ba", b"aab", b"c", b"abc", b"bca"]
PIECES = [b""] * NUM_CONTROL_IDS + LETTERS


def first_whole(tokens, stops, pieces=PIECES):
    """How many tokens there are when the first stop string is whole, by looking at the text."""
    for count in range(1, len(tokens) + 1):
        if find_stop(b"".join(pieces[i] for i in tokens[:count]), stops) is not None:
            return count
    return None


def by_table(tokens, table):
    state = 0
    for count, token in enumerate(tokens, start=1):
        state = table[state, token]
        if state == len(table) - 1:
            return count
    return None


@pytest.mark.parametrize(
    "stops", [("ab",), ("aab",), ("abab", "bb"), ("abcab", "ca", "bab"), ("caabc",), ()]
)
def test_the_table_stops_where_the_text_holds_a_string(stops):
    """Every sequence of four tokens: strings across tokens, inside them, and overlapping."""
    table = stop_table(stops, PIECES)
    places = range(NUM_CONTROL_IDS, len(PIECES))
    seen = [
        (by_table(tokens, table), first_whole(tokens, stops))
        for tokens in itertools.product(places, repeat=4)
    ]
    assert all(found == wanted for found, wanted in seen)
    if stops:
        assert {None, 2, 3} <= {wanted for _, wanted in seen}


def test_characters_spelt_in_bytes_stop_too():
    pieces = [b""] * NUM_CONTROL_IDS + [bytes([byte]) for byte in range(256)]
    table = stop_table(("é!", "漢"), pieces)
    for text in ("aéé!b", "漢", "é漢字", "éé", "\u00e8!"):
        tokens = [byte + NUM_CONTROL_IDS for byte in text.encode()]
        assert by_table(tokens, table) == first_whole(tokens, ("é!", "漢"), pieces)


def test_control_tokens_leave_a_beginning_as_it_is():
    table = stop_table(("ab",), PIECES)
    assert by_table([NUM_CONTROL_IDS, 1, NUM_CONTROL_IDS + 1], table) == 3


def test_other_strings_keep_the_shape():
    sizes = [stop_table(stops, PIECES).shape for stops in ((), ("a",), ("abcabc", "cab"))]
    assert set(sizes) == {(16, len(PIECES))}
    assert stop_table(("abc" * 10,), PIECES).shape[0] == 32


def test_the_first_place_counts():
    assert find_stop(b"x\n\ny--", ("--", "\n\n")) == 1
    assert find_stop(b"xy", ("--",)) is None
