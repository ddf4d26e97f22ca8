"""An answer as a stream of text, each piece as soon as it is certain."""

from collections.abc import Iterator, Sequence

from seqgen.texts import Hypothesis

_UNFINISHED = "\ufffd"  # what the first bytes of a character are decoded as


class TextStream(Iterator[str]):
    """The pieces of one answer, which join to its text; a piece may be empty.

    Held back are bytes that no character is whole of, and what may be the beginning of a stop
    string. There is one piece for every slice of the search, so that whoever reads has control
    between them: to stop early, read no further.

    Attributes:
      answer: what there is so far; None before the first piece, and as long as beams are at work.
      done: the answer is whole.
      text: the pieces so far.
    """

    def __init__(
        self, slices: Iterator[tuple[Hypothesis | None, bool]], *, stop: Sequence[str] = ()
    ):
        """Args: slices: the answer so far, and whether it is whole, after each slice."""
        self.answer: Hypothesis | None = None
        self.done = False
        self.text = ""
        self._slices = slices
        self._stop = stop

    def __next__(self) -> str:
        if self.done:
            raise StopIteration
        self.answer, self.done = next(self._slices)
        if self.answer is None:
            return ""
        text = self.answer.text if self.done else certain(self.answer.text, self._stop)
        piece = text[len(self.text) :]
        self.text += piece
        return piece


def certain(text: str, stop: Sequence[str]) -> str:
    """The part of an unfinished answer that stands, however it goes on.

    Args:
      text: the answer so far; unfinished characters are U+FFFD.
      stop: strings before which an answer is cut; `text` holds none.
    """
    text = text.rstrip(_UNFINISHED)
    begun = 0
    for string in stop:
        longest = min(len(string) - 1, len(text))
        begun = max(begun, next((n for n in range(longest, 0, -1) if text.endswith(string[:n])), 0))
    return text[: len(text) - begun]
