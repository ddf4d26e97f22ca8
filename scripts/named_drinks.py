"""How often a run that takes coffee orders names the ordered drink back.

    seqgen evaluate --workdir=RUN --split=val --output=replies.txt
    python scripts/named_drinks.py --dialogues=DIR/dev.jsonl --replies=replies.txt

The dialogues are Taskmaster-4's (fields `scenario`, `turns`). An order is a dialogue whose scenario
is one of placing an order, and whose user names a drink of `DRINKS` before the first reply; its
drinks are all that are named there. It is named back if each of its drinks stands in one of the
dialogue's replies, whatever else stands there: names are compared by kind, without case, plural or
spelling ("Lattes" names a latte, "matcha latte" a matcha and no latte). Without --replies, the
corpus' own replies are counted.
"""

import argparse
import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from seqgen.data.text_files import read_lines

# Kind of drink -> how it is written. Earlier ones go first: what they take, later ones do not see.
DRINKS = {
    "chai": r"chai(?:\s+teas?)?(?:\s+lattes?)?",
    "matcha": r"match(?:a|as)(?:\s+green)?(?:\s+teas?)?(?:\s+lattes?)?",
    "cold brew": r"cold\s+brews?",
    "flat white": r"flat\s+whites?",
    "hot chocolate": r"hot\s+chocolates?",
    "tea": r"teas?",
    "latte": r"latt?e(?:'?s)?",
    "mocha": r"mocha(?:'?s)?",
    "cappuccino": r"capp?ucc?ino(?:'?s)?",
    "macchiato": r"mac?chiato(?:'?s)?",
    "cortado": r"cortado(?:'?s)?",
    "americano": r"americano(?:'?s)?",
    "steamer": r"steamer(?:'?s)?",
    # Not of "two espresso shots in my latte".
    "espresso": r"e[sx]presso(?:'?s)?(?!\s+(?:shot|drink|bean)s?)",
}
_DRINK = re.compile(
    "|".join(f"(?P<d{i}>\\b(?:{form})\\b)" for i, form in enumerate(DRINKS.values())), re.IGNORECASE
)
# Scenarios that place no order: off topic, what is there to have, what is in it.
NO_ORDERS = ("13", "14a", "14b", "15", "16", "17", "25")
_SCENARIO = re.compile(r"template (\w+)")


@dataclasses.dataclass(frozen=True)
class Count:
    """Orders, and how many of them are named back."""

    orders: int
    named_back: int


def drinks_in(text: str) -> set[str]:
    """The kinds of drink that `text` names."""
    names = list(DRINKS)
    return {names[int(str(found.lastgroup)[1:])] for found in _DRINK.finditer(text)}


def ordered_drinks(dialogue: Mapping[str, Any], *, reply_speaker: str = "assistant") -> set[str]:
    """What the user orders before the first reply; nothing if the dialogue places no order."""
    scenario = _SCENARIO.search(dialogue["scenario"])
    if scenario is None or scenario[1] in NO_ORDERS:
        return set()
    ordered: set[str] = set()
    for turn in dialogue["turns"]:
        if turn["speaker"] == reply_speaker:
            break
        ordered |= drinks_in(turn["text"])
    return ordered


def count_named_back(
    dialogues: Sequence[Mapping[str, Any]],
    replies: Sequence[str] | None = None,
    *,
    reply_speaker: str = "assistant",
) -> Count:
    """Count the orders of all dialogues that the replies name back.

    Args:
      dialogues: objects with 'scenario' and 'turns'.
      replies: one for every turn of `reply_speaker`, in order; None = what the turns say.
      reply_speaker: who takes orders.

    Raises:
      ValueError: there are more or fewer replies than such turns.
    """
    said = [
        [turn["text"] for turn in dialogue["turns"] if turn["speaker"] == reply_speaker]
        for dialogue in dialogues
    ]
    places = sum(map(len, said))
    if replies is not None and len(replies) != places:
        raise ValueError(f"{len(replies)} replies, and the dialogues have {places} turns for them")
    answers: Iterator[str] = iter(replies or [])
    orders = named_back = 0
    for dialogue, own in zip(dialogues, said, strict=True):
        here = own if replies is None else [next(answers) for _ in own]
        ordered = ordered_drinks(dialogue, reply_speaker=reply_speaker)
        if ordered and here:
            orders += 1
            named_back += ordered <= set().union(*map(drinks_in, here))
    return Count(orders, named_back)


def main() -> None:
    """Print the count as one line of JSON."""
    parser = argparse.ArgumentParser(description="Count the orders that replies name back.")
    parser.add_argument("--dialogues", required=True, type=Path, help=".jsonl or .jsonl.gz")
    parser.add_argument("--replies", type=Path, help="one a line, in the dialogues' order")
    args = parser.parse_args()
    dialogues = [json.loads(line) for line in read_lines(args.dialogues) if line.strip()]
    replies = list(read_lines(args.replies)) if args.replies else None
    count = count_named_back(dialogues, replies)
    share = count.named_back / count.orders if count.orders else 0.0
    print(json.dumps({**dataclasses.asdict(count), "share": round(share, 4)}))


if __name__ == "__main__":
    main()
