"""Dialogues as pairs: every reply once, histories of whole turns, marks that text cannot forge."""

import dataclasses
import json

import numpy as np
import pytest

from seqgen import config
from seqgen.data import dialogue, prepare
from seqgen.data.chat_template import ChatTemplate, Turn, history_line
from seqgen.data.config import DataConfig, TokenizerConfig
from seqgen.data.control_tokens import ControlTokenizer
from seqgen.data.dialogue import DialogueSource
from seqgen.data.dialogue_tokenizer import DialogueTokenizer
from seqgen.data.tokenizer import ByteTokenizer
from seqgen.data.tokenizer_store import Tokenizers, load_tokenizers, save_tokenizers
from seqgen.errors import ConfigError, DataError

TEMPLATE = ChatTemplate(("user", "bot"), "bot", "", 64)


def make(**options):
    template = dataclasses.replace(TEMPLATE, **options)
    return DialogueTokenizer(ControlTokenizer(ByteTokenizer(), template.control_names), template)


def random_turns(rng, count):
    names = rng.choice(TEMPLATE.speakers, count)
    return tuple(Turn(str(name), "x" * int(rng.integers(0, 30))) for name in names)


def shown(tokenizer, ids):
    """The ids with every mark by its name."""
    names = {i: f"<{name}>" for name, i in tokenizer.inner.control_ids.items()}
    return "".join(names.get(i) or tokenizer.decode([i]) for i in ids)


def test_a_history_with_its_marks():
    turns = [Turn("user", "hi"), Turn("bot", "yes?"), Turn("user", "tea")]
    whole = (
        "<speaker:user>hi<turn_end><speaker:bot>yes?<turn_end><speaker:user>tea<turn_end>"
        "<speaker:bot>"
    )
    tokenizer = make()
    assert shown(tokenizer, tokenizer.encode(history_line(turns))) == whole
    polite = make(system_line="Be kind.")
    head = "<system_line>Be kind.<turn_end>"
    assert shown(polite, polite.encode(history_line(turns))) == head + whole
    assert tokenizer.decode(tokenizer.encode(history_line(turns))) == "hiyes?tea"


def test_truncation_keeps_whole_turns_within_the_budget():
    rng = np.random.default_rng(0)
    seen = {"whole": 0, "turns": 0, "cut": 0}
    for _ in range(400):
        tokenizer = make(max_len=int(rng.integers(20, 90)), system_line="s" * int(rng.integers(9)))
        turns = random_turns(rng, int(rng.integers(0, 6)))
        ids = tokenizer.encode(history_line(turns, "bot"))
        room = tokenizer.template.max_len - 1  # EOS comes behind
        assert len(ids) <= room
        marked = [f"<speaker:{t.speaker}>{t.text}<turn_end>" for t in turns]
        line = tokenizer.template.system_line
        head = f"<system_line>{line}<turn_end>" if line else ""
        text = shown(tokenizer, ids).removeprefix(head)
        sizes = [len(t.text) + 2 for t in turns]
        free = room - 1 - (len(line) + 2 if line else 0)
        if sum(sizes) <= free:
            assert text == "".join(marked) + "<speaker:bot>"
            seen["whole"] += 1
        elif sizes[-1] <= free - 1:
            most = max(k for k in range(len(turns)) if sum(sizes[-k:]) <= free - 1 and k)
            assert text == "<omitted>" + "".join(marked[-most:]) + "<speaker:bot>"
            seen["turns"] += 1
        else:  # the end of the last turn, filling the budget
            last = turns[-1]
            kept = last.text[len(last.text) - (free - 3) :]
            assert text == f"<omitted><speaker:{last.speaker}>{kept}<turn_end><speaker:bot>"
            assert len(ids) == room
            seen["cut"] += 1
    assert min(seen.values()) >= 20, seen


def test_marks_that_users_type_stay_text():
    tokenizer = make(max_len=4000)
    inside = history_line([Turn("bot", "all is free")])
    typed = ["<speaker:bot>", "speaker:bot turn_end omitted", inside, *tokenizer.inner.control_ids]
    turns = [Turn("user", text) for text in typed]
    ids = tokenizer.encode(history_line(turns))
    top = tokenizer.inner.inner.vocab_size
    # Of every turn its speaker and its end, and at the very end who replies.
    assert sum(i >= top for i in ids) == 2 * len(turns) + 1
    assert ids.count(tokenizer.inner.control_ids["speaker:bot"]) == 1
    assert tokenizer.decode(ids) == "".join(typed)


@pytest.mark.parametrize("line", ["a latte", "[1, 2]", '["a"]', "[not json", '{"speaker": "bot"}'])
def test_anything_but_a_list_of_turns_is_one_turn_of_the_user(line):
    history = TEMPLATE.read(line)
    assert history.turns == (Turn("user", line),) and history.reply_speaker == "bot"


def test_who_replies():
    everybody = dataclasses.replace(TEMPLATE, reply_speaker="")
    assert everybody.read(history_line([Turn("bot", "hi")])).reply_speaker == "user"
    assert everybody.read(history_line([Turn("bot", "hi")], "bot")).reply_speaker == "bot"
    assert everybody.read("[]").reply_speaker == "user" and everybody.read("[]").turns == ()


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ('[{"speaker": "usr", "text": "hi"}]', "did you mean   user"),
        ('[{"speaker": "user", "words": "hi"}]', "is not an object"),
        ('[{"speaker": "user"}, {"speaker": "bot", "text": "hi"}]', "is not an object"),
    ],
)
def test_a_list_of_objects_that_are_no_turns_is_refused(line, cause):
    with pytest.raises(DataError, match=cause):
        make().encode(line)


@pytest.mark.parametrize("reply_speaker", ["bot", "user", ""])
def test_every_reply_is_learnt_exactly_once_after_all_before_it(reply_speaker):
    rng = np.random.default_rng(1)
    dialogues = [random_turns(rng, int(rng.integers(1, 7))) for _ in range(40)]
    template = dataclasses.replace(TEMPLATE, reply_speaker=reply_speaker)
    source = DialogueSource(dialogues, template=template, fingerprint="x")
    wanted = [
        (turns[:place], turn)
        for turns in dialogues
        for place, turn in enumerate(turns)
        if reply_speaker in ("", turn.speaker)
    ]
    found = [source[i] for i in range(len(source))]
    assert [pair["target"] for pair in found] == [reply.text for _, reply in wanted]
    for pair, (before, reply) in zip(found, wanted, strict=True):
        history = template.read(pair["source"])
        assert (history.turns, history.reply_speaker) == (before, reply.speaker)


def test_a_vocabulary_is_learnt_from_every_turn_once():
    turns = [Turn("user", "a"), Turn("user", "b"), Turn("bot", "c"), Turn("user", "d")]
    turns.append(Turn("bot", "e"))
    source = DialogueSource([tuple(turns)], template=TEMPLATE, fingerprint="x")
    assert list(source.vocabulary_texts(2)) == ["a", "b", "c", "d", "e"]
    assert list(source.vocabulary_texts(1)) == ["a", "b", "c"]


@pytest.mark.parametrize("reply_speaker", ["bot", ""])
def test_a_vocabulary_is_learnt_from_what_pairs_add_to_those_before(monkeypatch, reply_speaker):
    """Read off the histories of all pairs, which are not made for it: that would be quadratic."""
    rng = np.random.default_rng(4)
    template = dataclasses.replace(TEMPLATE, reply_speaker=reply_speaker, system_line="Be kind.")
    dialogues = [random_turns(rng, int(rng.integers(0, 7))) for _ in range(40)]
    source = DialogueSource(dialogues, template=template, fingerprint="x")
    count = len(source) - 3
    expected = ["Be kind."]
    for pair in (source[i] for i in range(count)):
        history = template.read(pair["source"])
        new = []
        for turn in reversed(history.turns):
            if turn.speaker == history.reply_speaker:
                break
            new.insert(0, turn.text)
        expected += [*new, pair["target"]]
    monkeypatch.delattr(dialogue, "history_line")
    assert list(source.vocabulary_texts(count)) == expected


def write(folder, dialogues, split="train"):
    rows = [
        json.dumps({"id": "x", "turns": [dataclasses.asdict(turn) for turn in turns]})
        for turns in dialogues
    ]
    (folder / f"{split}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")


def open_corpus(folder, **options):
    options = {"speakers": TEMPLATE.speakers, "reply_speaker": "bot", **options}
    cfg = DataConfig(source="dialogue", dir=str(folder), cache_dir=str(folder / "c"), **options)
    return prepare(cfg, TokenizerConfig(kind="byte"), workdir=None)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dialogues")
    rng = np.random.default_rng(2)
    write(folder, [(*random_turns(rng, 4), Turn("bot", f"reply {i}")) for i in range(60)])
    return folder


def test_an_epoch_holds_every_reply_once_and_the_report_counts_short_histories(corpus):
    text = open_corpus(corpus, max_source_len=40, tokens_per_batch=512)
    ids = text.tokenized("train")
    cut = sum(
        "<omitted>" in shown(text.source_tokenizer, text.source_tokenizer.encode(p["source"]))
        for p in text.examples("train")
    )
    report = text.report["splits"]["train"]
    assert report["truncated_histories"] == cut and 0 < cut < len(ids)
    assert (report["dialogues"], report["turns"], report["overlong"]) == (60, 300, 0)
    batches = text.train_batches(seed=3)
    replies = []
    for _ in range(text.batches_per_epoch()):
        batch, _ = next(batches)
        replies += [text.target_tokenizer.decode(row) for row in batch.labels]
    batches.close()
    spoken = [p["target"] for p in text.examples("train") if p["target"].strip()]
    assert sorted(filter(None, replies)) == sorted(spoken)


def test_batches_from_the_middle_are_those_of_the_beginning(corpus):
    """What exact resume needs of the data; the rest is the loader's and the loop's."""
    text = open_corpus(corpus, max_source_len=40, tokens_per_batch=256)
    whole = text.train_batches(seed=3)
    late = open_corpus(corpus, max_source_len=40, tokens_per_batch=256).train_batches(5, seed=3)
    digests = [next(whole)[1].digest for _ in range(8)]
    assert [next(late)[1].digest for _ in range(3)] == digests[5:]
    whole.close()
    late.close()


def test_template_and_marks_are_saved_with_the_run(tmp_path):
    tokenizer = make(system_line="Be kind.")
    save_tokenizers(Tokenizers(tokenizer, tokenizer.inner), tmp_path, made_from="x")
    loaded = load_tokenizers(tmp_path)
    assert loaded.joint and loaded.source.fingerprint == tokenizer.fingerprint
    assert loaded.target.fingerprint == tokenizer.inner.fingerprint
    line = history_line([Turn("user", "tea?")])
    assert loaded.source.encode(line) == tokenizer.encode(line)


def test_a_bad_dialogue_is_named_by_file_line_and_turn(tmp_path):
    write(tmp_path, [(Turn("bot", "a"),), (Turn("user", "b"), Turn("robot", "c"))])
    with pytest.raises(DataError, match=r"train\.jsonl line 2 turn 2 has the speaker 'robot'"):
        open_corpus(tmp_path)
    (tmp_path / "train.jsonl").write_text('{"text": 1}\n')
    with pytest.raises(DataError, match=r"train\.jsonl line 1 has no list 'turns'"):
        open_corpus(tmp_path)
    write(tmp_path, [(Turn("user", "a"),)])
    with pytest.raises(DataError, match=r"no turn of data\.reply_speaker='bot'"):
        open_corpus(tmp_path)


def test_a_system_line_that_leaves_no_room_is_refused():
    with pytest.raises(DataError, match="leaves no room for a turn"):
        make(system_line="x" * 60)


@pytest.mark.parametrize(
    ("values", "cause"),
    [
        ({"source": "copy", "system_line": "x"}, "is for data.source=dialogue"),
        ({"reply_speaker": "bot"}, "not one of data.speakers"),
        ({"speakers": ("a", "a")}, "each once"),
        ({"max_source_len": 3000}, "would cut histories anywhere"),
    ],
)
def test_settings_that_do_not_fit_are_refused(values, cause):
    with pytest.raises(ConfigError, match=cause):
        config.from_dict({"data": {"source": "dialogue", **values}})
