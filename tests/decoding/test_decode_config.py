"""Decoding options: ranges, contradictions, and what makes a new compile."""

import dataclasses

import jax
import numpy as np
import pytest
from decoding.toy_model import ToyModel, random_lines, sources

from seqgen.decoding import DecodeConfig, generate, make_row_keys, search
from seqgen.decoding.config import SearchShape, SearchValues
from seqgen.decoding.constraints import length_limits
from seqgen.errors import ConfigError
from seqgen.types import EOS_ID


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 0}, "num_beams: 0"),
        ({"num_beams": 2.5}, "num_beams: 2.5"),
        ({"top_p": 1.5}, "0.0..1.0"),
        ({"temperature": 0.0}, "temperature"),
        ({"length_penalty": float("nan")}, "length_penalty"),
        ({"do_sample": 1}, "takes       bool"),
        ({"length_penalty_kind": "wo"}, "did you mean   wu"),
        ({"early_stopping": "saef"}, "did you mean   safe"),
        ({"repetition_penalty": 0.9}, "1.0..100.0"),
        ({"presence_penalty": -0.1}, "0.0..100.0"),
        ({"bad_words": "a word"}, "takes       several strs"),
        ({"stop_token_ids": (5, "6")}, "takes       several ints, at least 0"),
        ({"stop_token_ids": (-1,)}, "stop_token_ids"),
        ({"do_sample": True, "num_beams": 4}, "num_return_sequences"),
        ({"num_return_sequences": 3, "num_beams": 2}, "raise num_beams"),
        ({"num_return_sequences": 2}, "or set do_sample"),
        ({"stop": ("\n", "")}, "several strs, none empty"),
    ],
)
def test_bad_options_say_why(options, message):
    with pytest.raises(ConfigError, match=message):
        DecodeConfig(**options)


def test_misspelt_option_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean   num_beams"):
        DecodeConfig().replace(num_beam=3)


def test_every_option_is_read():
    """Each field is a kind or size, a value, used to form batches, or part of a prompt."""
    parts = {f.name for part in (SearchShape, SearchValues) for f in dataclasses.fields(part)}
    batching = {"seed", "max_source_length", "batch_size", "batch_tokens"}
    prompts = {"max_new_tokens", "stop"}
    assert parts | batching | prompts == {field.name for field in dataclasses.fields(DecodeConfig)}


def test_values_do_not_compile_again():
    """One program a shape: alpha, lengths, temperature and filters are traced."""
    traces = []

    def call(model, source, keys, values, *, shape, max_len):
        traces.append(shape)
        return search(model, source, keys, shape=shape, values=values, max_len=max_len)

    jitted = jax.jit(call, static_argnames=("shape", "max_len"))
    lines = random_lines(np.random.default_rng(0), 3)
    outcomes = []
    for config in [
        DecodeConfig(do_sample=True),
        DecodeConfig(do_sample=True, seed=1),
        DecodeConfig(do_sample=True, top_k=2, temperature=0.5),
        DecodeConfig(do_sample=True, top_p=0.3, min_length=5, suppress_unk=True),
        DecodeConfig(do_sample=True, max_length=3, length_penalty=-1.0),
        DecodeConfig(do_sample=True, max_length_ratio=0.5, max_length_offset=2),
    ]:
        keys = make_row_keys(config.seed, np.arange(3))
        found = jitted(
            ToyModel.random(4),
            sources(lines),
            keys,
            config.values(),
            shape=config.shape(),
            max_len=24,
        )
        outcomes.append(np.asarray(found.scores).tobytes())
    assert len(traces) == 1
    assert len(set(outcomes)) == len(outcomes)


def test_generate_takes_its_options_from_the_config():
    model = ToyModel.random(4)
    lines = random_lines(np.random.default_rng(0), 3)
    config = DecodeConfig(num_beams=2, num_return_sequences=2, max_length=6)
    found = jax.jit(lambda source: generate(model, source, config=config))(sources(lines))
    assert found.ids.shape == (3, 2, 6)
    assert config.max_len(100) == 6
    assert DecodeConfig(max_length_ratio=1.5, max_length_offset=4).max_len(7) == 15


def test_rules_that_are_off_are_no_values_and_texts_need_a_tokenizer():
    off = jax.tree.structure(DecodeConfig().values(str.split))
    assert jax.tree.structure(DecodeConfig(stop_token_ids=(EOS_ID,)).values()) == off
    assert jax.tree.structure(DecodeConfig(min_p=0.1).values()) != off
    assert DecodeConfig().replace(bad_words=["a b"]).bad_words == ("a b",)
    one = DecodeConfig().replace(bad_words="a b", stop="c", stop_token_ids=7)
    assert (one.bad_words, one.stop, one.stop_token_ids) == (("a b",), ("c",), (7,))
    with pytest.raises(ValueError, match="encode"):
        DecodeConfig(bad_words=("a b",)).values()


def test_sampling_and_search_exclude_each_other_kindly():
    searching = DecodeConfig(num_beams=5)
    assert searching.replace(do_sample=True).num_beams == 1
    sampling = DecodeConfig(do_sample=True, num_return_sequences=4)
    assert not sampling.replace(num_beams=4).do_sample
    assert sampling.replace(num_beams=1).do_sample
    with pytest.raises(ConfigError):
        searching.replace(do_sample=True, num_beams=2)


@pytest.mark.parametrize(
    "option", [{"top_k": 5}, {"temperature": 2.0}, {"seed": 1}, {"min_p": 0.1}, {"typical_p": 0.5}]
)
def test_options_of_sampling_are_refused_where_nothing_is_drawn(option):
    assert DecodeConfig().replace(do_sample=True, **option) == DecodeConfig(
        do_sample=True, **option
    )
    for config in (DecodeConfig(), DecodeConfig(num_beams=4)):
        with pytest.raises(ConfigError, match="only when sampling"):
            config.replace(**option)
    with pytest.raises(ConfigError, match="only when sampling"):
        DecodeConfig(do_sample=True).replace(num_beams=2, **option)


def test_evaluations_search_plainly():
    """Whatever a config's answers are searched by, its evaluations are greedy or have beams."""
    config = DecodeConfig(num_beams=4, num_beam_groups=2, required_words=("a",), min_length=2)
    greedy = config.plain(1)
    assert greedy == DecodeConfig(min_length=2)
    assert config.plain(3) == DecodeConfig(num_beams=3, required_words=("a",), min_length=2)
    for other in (DecodeConfig(contrastive_k=4), DecodeConfig(do_sample=True)):
        assert other.plain(2) == DecodeConfig(num_beams=2)
    with pytest.raises(ConfigError, match="num_beams"):
        config.plain(0)


def test_room_is_never_less_than_a_limit():
    """Limits are computed in float32, the room in float64."""
    lengths = np.arange(1, 200)
    for ratio in np.arange(0.5, 3.0, 0.05):
        config = DecodeConfig(max_length_ratio=float(ratio))
        limits = length_limits(config.values(), lengths, max_len=10**6)
        assert all(config.max_len(int(n)) >= limit for n, limit in zip(lengths, limits))
