"""Which drinks a text names, and how many orders of a corpus are named back."""

import importlib
import json
import sys

import pytest

ORDER = "Auto template 1 order a coffee drink no mods"


@pytest.fixture(scope="module")
def named_drinks(root):
    sys.path.insert(0, str(root / "scripts"))
    try:
        return importlib.import_module("named_drinks")
    finally:
        sys.path.pop(0)


def dialogue(*texts, scenario=ORDER):
    speakers = ("user", "assistant") * len(texts)
    turns = [{"speaker": s, "text": t} for s, t in zip(speakers, texts, strict=False)]
    return {"scenario": scenario, "turns": turns}


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("Two LATTES and a cappucino, please", {"latte", "cappuccino"}),
        ("a Latte's foam", {"latte"}),
        ("an iced matcha latte", {"matcha"}),
        ("a chai  tea latte and a latte", {"chai", "latte"}),
        ("two espresso shots in my mocha", {"mocha"}),
        ("a double espresso", {"espresso"}),
        ("cold brews", {"cold brew"}),
        ("steak, teal, mochaccino, the coffee bar", set()),
    ],
)
def test_names(named_drinks, text, kinds):
    assert named_drinks.drinks_in(text) == kinds


def test_only_orders_count_and_all_their_drinks_are_wanted(named_drinks):
    corpus = [
        dialogue("a latte", "one Latte?", "yes", "it comes"),  # back at once
        dialogue("a latte", "hot?", "yes", "your latte comes"),  # back later
        dialogue("a latte and a tea", "a latte?"),  # half
        dialogue("a latte", "a matcha latte?"),  # another drink
        dialogue("what is in a latte?", "a latte is milk", scenario="template 25 What's in"),
        dialogue("I am here", "a latte?"),  # nothing ordered
        dialogue("hello", "yes?", "a latte", "a latte!"),  # not before the first reply
    ]
    assert named_drinks.count_named_back(corpus) == named_drinks.Count(orders=4, named_back=2)
    # Another's replies are counted in the corpus' places, of which the first two dialogues have 4.
    replies = ["mocha", "ok", "latte", "x", "tea, latte", *(["latte"] * 5)]
    assert named_drinks.count_named_back(corpus, replies) == named_drinks.Count(4, 3)
    with pytest.raises(ValueError, match="9 replies, and the dialogues have 10"):
        named_drinks.count_named_back(corpus, replies[:9])


def test_the_dev_set_of_the_coffee_orders(named_drinks, corpora):
    path = corpora / "taskmaster4_coffee" / "dev.jsonl"
    if not path.is_file():
        pytest.skip("the coffee orders are not beside this checkout (../shared/data)")
    corpus = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert named_drinks.count_named_back(corpus) == named_drinks.Count(orders=82, named_back=10)
