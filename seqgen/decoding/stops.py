"""Stop strings as a table over tokens, so that a compiled search ends an answer where one is whole.

The strings become one automaton over bytes (Aho and Corasick, "Efficient string matching", 1975),
and a token leads from a state to where its bytes lead. Where tokens are parted inside a string
makes no difference then, nor how many strings there are: a step looks up one number a row.
"""

from collections.abc import Sequence

import numpy as np

from seqgen.decoding.id_tables import power_of_two
from seqgen.types import Array

_FEWEST_STATES = 16


def stop_table(
    stops: Sequence[str], pieces: Sequence[bytes], *, drops_line_space: bool = False
) -> np.ndarray:
    """int32 [S, V]: the state after a token. State 0 is the first; in S - 1 a string is whole.

    S is a power of two of at least 16: other strings compile nothing again.

    Args:
      stops: not empty each; none = no answer is ever stopped.
      pieces: UTF-8 bytes that each token adds to a text (`Tokenizer.piece_bytes`).
      drops_line_space: a space behind a newline is no part of the text.
    """
    moves, found = _automaton([stop.encode("utf-8", "surrogatepass") for stop in stops])
    count = len(moves)
    used = 2 * count if drops_line_space else count  # a second time for those behind a newline
    states = power_of_two(used + 1, fewest=_FEWEST_STATES)
    table = np.zeros((states, len(pieces)), np.int32)
    known = set().union(*moves, b"\n " if drops_line_space else b"")
    for token, piece in enumerate(pieces):
        if piece and known.isdisjoint(piece):
            continue  # it breaks off whatever had begun
        for state in range(used):
            line_begins, at = divmod(state, count)
            for byte in piece:
                if found[at]:
                    break
                if not (line_begins and byte == ord(" ")):
                    at = moves[at].get(byte, 0)
                line_begins = drops_line_space and byte == ord("\n")
            table[state, token] = states - 1 if found[at] else at + count * line_begins
    table[states - 1] = states - 1
    return table


def follow(stops: Array, states: Array, tokens: Array) -> tuple[Array, Array]:
    """The states after `tokens`, and whether a stop string is whole there; all of one shape."""
    states = stops[states, tokens]
    return states, states == stops.shape[0] - 1


def find_stop(text: bytes, stops: Sequence[str]) -> int | None:
    """Where the first stop string begins in `text`, in bytes; None = it holds none."""
    places = [text.find(stop.encode("utf-8", "surrogatepass")) for stop in stops]
    return min((place for place in places if place >= 0), default=None)


def _automaton(words: Sequence[bytes]) -> tuple[list[dict[int, int]], list[bool]]:
    """Transitions of each state (a byte that is not named leads to 0), and whether a word ends."""
    tries: list[dict[int, int]] = [{}]
    found = [False]
    for word in words:
        state = 0
        for byte in word:
            if byte not in tries[state]:
                tries[state][byte] = len(tries)
                tries.append({})
                found.append(False)
            state = tries[state][byte]
        found[state] = True
    moves = [dict(tries[0])]
    moves += [{} for _ in tries[1:]]
    # Breadth first: the state of a word's longest proper ending is complete before it is needed.
    queue = [(child, 0) for child in tries[0].values()]
    for state, ending in queue:
        found[state] = found[state] or found[ending]
        moves[state] = {**moves[ending], **tries[state]}
        queue += [(child, moves[ending].get(byte, 0)) for byte, child in tries[state].items()]
    return moves, found
