"""Hidden tokens are filled as a plain pass of the model says, and shown in their places."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cli.calls import call, stdin

import seqgen
from seqgen import config, experiment, filling
from seqgen.cli.main import main
from seqgen.data.config import TokenizerConfig
from seqgen.data.control_tokens import ControlTokenizer
from seqgen.data.multiline import MultilineTokenizer
from seqgen.data.sentencepiece_tokenizer import train_sentencepiece
from seqgen.data.tokenizer import ByteTokenizer, TableTokenizer
from seqgen.decoding.config import DecodeConfig
from seqgen.errors import ConfigError, DataError
from seqgen.filling import Filler
from seqgen.models import ModelConfig, build_model
from seqgen.models.config import NoDecoderConfig, TransformerEncoderConfig
from seqgen.types import BOS_ID, EOS_ID, Sequences

TEXT = ["the cat sleeps on the mat", "an undoable thing, he said.", "sleep well (the cat)"] * 4
POSITIONS = 40


@functools.cache
def tokenizer(kind):
    if kind in ("bpe", "unigram"):
        cfg = TokenizerConfig(kind=kind, vocab_size=340 if kind == "bpe" else 300)
        inner = train_sentencepiece(iter(TEXT), cfg, own=("\n",))
    elif kind == "byte":
        inner = ByteTokenizer()
    else:
        pieces = [f" {word}" for word in " ".join(TEXT[:3]).split()]
        pieces = pieces if kind == "word" else sorted(set("".join(TEXT)))
        end = " \n" if kind == "word" else "\n"
        inner = TableTokenizer([*dict.fromkeys(pieces), end], kind=kind, byte_fallback=False)
    return ControlTokenizer(MultilineTokenizer(inner), ["mask"])


@functools.cache
def filler(kind):
    marked = tokenizer(kind)
    model = ModelConfig(
        embed_dim=16,
        dropout_rate=0.0,
        tie_embeddings="none",
        encoder=TransformerEncoderConfig(
            num_layers=1, num_heads=2, ff_dim=16, positions="learned", max_positions=POSITIONS
        ),
        decoder=NoDecoderConfig(),
    )
    size = marked.vocab_size
    definition = build_model(model, source_vocab_size=size, target_vocab_size=size)
    params = jax.jit(definition.init)(jax.random.key(1))
    params["output"]["table"] = params["output"]["table"] * 4
    return Filler(definition, params, marked, DecodeConfig(batch_size=4), max_len=POSITIONS)


@pytest.mark.parametrize("kind", ["bpe", "unigram", "byte", "char"])
def test_rows_are_those_of_the_whole_text_with_one_token_hidden(kind):
    """Whichever token is cut out of a text, the row is the text's own with the mask there."""
    model, marked = filler(kind), tokenizer(kind)
    text = "an undoable thing, he\nsaid."
    ids = marked.encode(text)
    spelt = [marked.piece_bytes(i).decode() for i in ids]
    spaces = marked.drops_line_space
    # Two things the text around a mark does not say: that a piece stands behind a space which is a
    # piece by itself, and that the mark is a line's end.
    told = [i for i in range(len(ids)) if not (spaces and i and spelt[i - 1] == " ")]
    told = [i for i in told if spelt[i] != "\n" or not spaces]
    assert len(told) > 6
    for place in told:
        before, after = "".join(spelt[:place]), "".join(spelt[place + 1 :])
        if spaces:
            before, after = (part.replace("\n ", "\n") for part in (before, after))
            before = before.removeprefix(" ")
        carried = spaces and spelt[place].startswith(" ") and before and before[-1] != "\n"
        gap = " " if carried else ""
        row = model._row(f"{before}{gap}[MASK]{after}", 0, "[MASK]")
        assert row == [BOS_ID, *ids[:place], marked.mark_ids[0], *ids[place + 1 :], EOS_ID]
        (candidates,) = model._candidates(
            [before + gap, after], "[MASK]", np.array([[1.0]]), np.array([[ids[place]]])
        )
        assert candidates[0].text == text and candidates[0].token == spelt[place]


def test_words_stand_between_spaces():
    model, marked = filler("word"), tokenizer("word")
    mask = marked.mark_ids[0]
    row = model._row("the [MASK] sleeps on the [MASK]", 0, "[MASK]")
    ids = marked.encode("the cat sleeps on the mat")
    assert row == [BOS_ID, ids[0], mask, *ids[2:5], mask, EOS_ID]
    assert len(model._row("the [MASK]. cat", 0, "[MASK]")) == 6  # the full stop is not lost


def plain_pass(model, row):
    """Probabilities [T, V] of what stands at each place of `row`, by itself and not padded."""
    bound = model.definition.bind(model.params)
    ids = jnp.asarray([row])
    text = Sequences(ids, jnp.ones_like(ids), jnp.arange(len(row))[None])
    memory = bound.encode(text, jnp.zeros_like(ids)).memory
    states = bound.token_states(memory, jnp.arange(len(row))[None])
    logits = np.asarray(bound.output_logits(states)[0], np.float64)
    odds = np.exp(logits - logits.max(-1, keepdims=True))
    return odds / odds.sum(-1, keepdims=True)


def test_candidates_are_the_likeliest_of_a_plain_pass():
    """Ragged lines in several batches, one to three marks: probabilities, order, no control id."""
    model = filler("bpe")
    texts = ["the [MASK] sleeps", "[MASK]", "he [MASK] on [MASK] mat, [MASK].", "an un[MASK] thing"]
    texts += ["[MASK] cat"] * 3
    found = model.fill(texts, top_k=7)
    assert [len(marks) for marks in found] == [1, 1, 3, 1, 1, 1, 1]
    for text, marks in zip(texts, found):
        row = model._row(text, 0, "[MASK]")
        places = np.flatnonzero(np.array(row) == model.tokenizer.mark_ids[0])
        wanted = plain_pass(model, row)[places]
        wanted[:, [0, 1, 2, 3, model.tokenizer.mark_ids[0]]] = -1
        for candidates, probabilities in zip(marks, wanted):
            best = np.argsort(-probabilities, kind="stable")[:7]
            np.testing.assert_allclose(
                [c.probability for c in candidates], probabilities[best], rtol=1e-4
            )
            np.testing.assert_allclose(
                probabilities[[c.id for c in candidates]], probabilities[best], rtol=1e-4
            )
            for c in candidates:
                assert c.text.count("[MASK]") == text.count("[MASK]") - 1
                assert c.token.strip() in c.text
    assert found[4] == found[5]


def test_another_mark_and_what_is_refused():
    model = filler("bpe")
    (usual,), (other,) = model.fill(["the [MASK] sat"]), model.fill(["the <?> sat"], mark="<?>")
    assert usual == other and len(usual[0]) == 5
    assert len(model.fill(["[MASK]"], top_k=10**6)[0][0]) == model.tokenizer.mark_ids[0] - 4
    with pytest.raises(DataError, match=r"line 2 has no \[MASK\]"):
        model.fill(["[MASK]", "the mat"])
    with pytest.raises(DataError, match=r"line 1 has \d+ tokens, and the model reads 40"):
        model.fill(["[MASK]" + " cat" * 60])
    for options in ({"top_k": 0}, {"mark": ""}):
        with pytest.raises(ConfigError):
            model.fill_stream(["[MASK]"], **options)
    for verb, names in {
        "generate": ("generate", "stream", "stream_text"),
        "chat": ("chat", "chat_stream"),
        "score": ("score", "token_scores", "token_choices"),
    }.items():
        for name in names:
            with pytest.raises(ConfigError, match=f"masked language model, and cannot {verb}\n"):
                getattr(model, name)(["a"])


def test_the_place_behind_a_mark_is_cut_once(monkeypatch):
    """A part of a text is cut as it stands inside a line, behind an anchor; that by itself once."""
    model, asked = filler("byte"), []
    monkeypatch.delitem(vars(model), "_anchor", raising=False)
    encode = model.tokenizer.encode
    monkeypatch.setattr(model.tokenizer, "encode", lambda text: asked.append(text) or encode(text))
    for line in ("the [MASK] sat on [MASK] mat", "a [MASK] b"):
        model._row(line, 0, "[MASK]")
    assert asked.count(filling._ANCHOR) == 1 and len(asked) == 1 + 5


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory):
    """Pairs of sentences of an alphabet: each letter tells the next."""
    folder = tmp_path_factory.mktemp("letters")
    documents = ("a b c d e f g h\n" * 4, "p q r s t u v w\n" * 4)
    for split in ("train", "val"):
        (folder / f"{split}.txt").write_text("\n".join(documents * 20), encoding="utf-8")
    words = [
        *(f"--config.data.dir={folder}", "--config.train.num_steps=150"),
        *("--config.train.eval_every_steps=150", "--config.train.checkpoint_every_steps=150"),
        *("--config.train.compute_dtype=float32", "--config.optimizer.learning_rate=0.01"),
        *("--config.model.dropout_rate=0", "--config.model.encoder.dropout_rate=0"),
        *("--config.model.encoder.attention_dropout_rate=0", "--config.model.embed_dim=32"),
        *("--config.train.tensorboard=false", "--config.tokenizer.kind=word"),
    ]
    cfg = config.load(str(root / "configs/masked_lm/bert_small.py:tiny"), words)
    workdir = tmp_path_factory.mktemp("bert") / "run"
    assert experiment.train(cfg, workdir).status == "finished"
    return workdir


def test_fill_as_a_command(trained, capsys):
    """A pattern that was learnt is told, on lines and in JSON, as the library tells it."""
    lines = [r"a b [MASK] d e f g h\n", r"p [MASK] r s t [MASK] v w\n"]
    with stdin("".join(line + "\n" for line in lines).encode()):
        out = call(capsys, "fill", f"--workdir={trained}", "--top_k=2")
    one, *two = (block.splitlines() for block in out.removesuffix("\n").split("\n\n"))
    assert one[0].split("\t")[1:] == [" c", r"a b c d e f g h\n"] and len(one) == 2
    assert float(one[0].split("\t")[0]) > 0.5 and len(two[0]) == 4
    assert two[0][0].endswith("\t q\t" r"p q r s t [MASK] v w\n")
    assert two[0][2].endswith("\t u\t" r"p [MASK] r s t u v w\n")
    words = [r"--text=a b ?? d e f g h\n", "--mark=??", "--json", "--top_k=1"]
    said = json.loads(call(capsys, "fill", f"--workdir={trained}", *words))
    words = [r"--text=a b [MASK] d e f g h\n", "--top_k=1", "--quantize=int8"]
    assert call(capsys, "fill", f"--workdir={trained}", *words).split("\t")[1] == " c"
    model = seqgen.load(trained)
    assert isinstance(model, Filler)
    (((best,),),) = model.fill(["a b [MASK] d e f g h\n"], top_k=1)
    assert said == {
        "text": "a b ?? d e f g h\n",
        "marks": [
            [{"token": " c", "id": best.id, "probability": best.probability, "text": best.text}]
        ],
    }


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (["fill", "--text=a b"], "line 1 has no [MASK]"),
        (["fill", "--text=[MASK]", "--top_k=0"], "top_k: 0"),
        (["fill", "--text=[MASK]", "--input=x"], "give one of the two"),
        (["fill", "--text=[MASK]", "--draft=SELF"], "unknown option  --draft"),
        (["generate"], "seqgen fill"),
        (["generate", "--shortlist=5"], "text without sources"),
        (["generate", "--ensemble=SELF"], "cannot write text"),
        (["generate", "--draft=SELF"], "cannot write text"),
        (["chat", "-p", "hi"], "seqgen fill"),
    ],
)
def test_what_cannot_be_filled_is_told(trained, words, cause, capsys):
    words = [word.replace("SELF", str(trained)) for word in words]
    assert main([words[0], f"--workdir={trained}", *words[1:]]) == 2
    captured = capsys.readouterr()
    assert cause in captured.err and captured.out == "" and "Traceback" not in captured.err
