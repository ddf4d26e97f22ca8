"""The rows of the table: programs that do the same work, and what is asked of seqgen's."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping

from work import DECODE_BATCHES, GPT_SHAPES, RECURRENT_MODELS, SIZES, TARGET_LEN

FLOATS = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Bar:
    """The best of `ours` shall be at least `factor` times as fast as the best of `theirs`.

    Both name programs of a row by the start of their keys.
    """

    factor: float
    ours: tuple[str, ...]
    theirs: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Row:
    """Programs that do the same work.

    Attributes:
      name: of the row and its file.
      programs: the words of each program's command by its key; a key starting with 'seqgen' is run
        by this Python, others by the peers' one.
      bars: what is asked of seqgen.
      unit: what is counted; tokens/s divided by `per_unit`.
      per_unit: tokens in one of them.
    """

    name: str
    programs: Mapping[str, str]
    bars: tuple[Bar, ...]
    unit: str = "target tokens/s"
    per_unit: int = 1


def training_rows() -> Iterator[Row]:
    """The bars of the training step; both dtypes on both sides."""
    floats = ("seqgen float32", "seqgen bfloat16")
    bars = {
        "transformer-small": (
            Bar(2.2, floats, ("torch float32",)),
            Bar(1.4, floats, ("marian bfloat16",)),
        ),
        "transformer-base": (
            Bar(2.5, floats, ("torch float32",)),
            Bar(1.3, floats, ("torch bfloat16", "marian bfloat16")),
        ),
        **dict.fromkeys(RECURRENT_MODELS, (Bar(1.6, floats, ("torch float32",)),)),
        "gpt-12x64": (Bar(1.1, floats, ("torch float32", "torch bfloat16")),),
        "gpt-32x256": (Bar(0.8, floats, ("torch float32", "torch bfloat16")),),
    }
    for model, asked in bars.items():
        programs = {
            f"{side} {dtype}": f"train_{side}.py --model {model} --nb 1 --dtype {dtype}"
            for side, dtype in itertools.product(("torch", "seqgen"), FLOATS)
        }
        if model.startswith("transformer"):
            marian = model.replace("transformer", "marian")
            programs["marian bfloat16"] = f"train_torch.py --model {marian} --nb 1 --dtype bfloat16"
        unit = "tokens/s" if model in GPT_SHAPES else "target tokens/s"
        if model != "transformer-base":
            yield Row(f"train-{model}", programs, asked, unit)
            continue
        # Its five programs need 28 GiB together: a row for each dtype of the peers.
        for dtype, bar in zip(FLOATS, asked, strict=True):
            alive = {
                key: words
                for key, words in programs.items()
                if key.endswith(dtype) or key == "seqgen bfloat16"
            }
            bar = dataclasses.replace(bar, ours=tuple(key for key in bar.ours if key in alive))
            yield Row(f"train-{model}-{dtype}", alive, (bar,), unit)


def decoding_rows() -> Iterator[Row]:
    """The bars of decoding: both sizes, beam 5 and greedy, three batch sizes."""
    for size, beam, batch in itertools.product(SIZES, (5, 1), DECODE_BATCHES):
        work = f"--size {size} --beam {beam} --batch {batch}"
        programs = {
            "hf float32": f"decode_hf.py {work}",
            "ct2 float32": f"decode_ct2.py {work}",
            "ct2 int8": f"decode_ct2.py {work} --int8",
            **{f"seqgen {dtype}": f"decode_seqgen.py {work} --dtype {dtype}" for dtype in FLOATS},
            "seqgen int8": f"decode_seqgen.py {work} --int8",
        }
        floats = ("seqgen float32", "seqgen bfloat16")
        bars = (
            Bar(2.0, floats, ("hf float32",)),
            Bar(1.2, floats, ("ct2 float32",)),
            Bar(0.65, ("seqgen int8",), ("ct2 int8",)),
        )
        yield Row(f"decode-{size}-beam{beam}-b{batch}", programs, bars, "sentences/s", TARGET_LEN)


def translation_rows() -> Iterator[Row]:
    """The bars of a whole file, text in and text out, with the same weights on both sides."""
    for beam in (5, 1):
        programs = {
            "ct2 float32": f"translate_ct2.py --beam {beam}",
            "ct2 int8": f"translate_ct2.py --beam {beam} --int8",
            **{f"seqgen {d}": f"translate_seqgen.py --beam {beam} --dtype {d}" for d in FLOATS},
            "seqgen int8": f"translate_seqgen.py --beam {beam} --int8",
        }
        bars = (
            Bar(1.2, ("seqgen float32", "seqgen bfloat16"), ("ct2 float32",)),
            Bar(0.65, ("seqgen int8",), ("ct2 int8",)),
        )
        yield Row(f"translate-beam{beam}", programs, bars, "sentences/s")


ROWS = (*training_rows(), *decoding_rows(), *translation_rows())
