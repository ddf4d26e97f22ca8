"""Translation with seqgen: 20 random tokens in, 32 forced tokens out.

    echo | python benchmarks/peers/decode_seqgen.py --size small --beam 5 --batch 32

Random weights in the architecture of the peers' Marian. By default a pass is the framework's search
(`seqgen.decoding.generate.search`) on exactly this batch, compiled as inference compiles it:
options are traced, kinds and sizes static. `--path=generator` measures all that `seqgen generate`
does, with its sorting, its padding of 20 tokens to 32 and its texts.
"""

import argparse
import functools
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from protocol import serve
from work import DECODE_BATCHES, EOS_ID, SIZES, TARGET_LEN, make_sources


def build_definition(size: str, *, compute_dtype: str) -> Any:
    """Marian's architecture: post-norm, relu, sinusoidal positions, one embedding."""
    from seqgen.models import build_model
    from seqgen.models.config import (
        ModelConfig,
        TransformerDecoderConfig,
        TransformerEncoderConfig,
    )

    dims = SIZES[size]
    layers = {"num_layers": dims.num_layers, "num_heads": dims.num_heads, "ff_dim": dims.ff_dim}
    config = ModelConfig(
        embed_dim=dims.model_dim,
        tie_embeddings="all",
        encoder=TransformerEncoderConfig(**layers),
        decoder=TransformerDecoderConfig(**layers),
    )
    return build_model(
        config,
        source_vocab_size=dims.vocab_size,
        target_vocab_size=dims.vocab_size,
        compute_dtype=compute_dtype,
    )


class NumberTokenizer:
    """Texts that are ids written out, so that the text path can be given random ids."""

    fingerprint = "numbers"

    def __init__(self, vocab_size: int):
        self.vocab_size = vocab_size

    def encode(self, text: str) -> list[int]:
        """'7 5' -> [7, 5]."""
        return [int(word) for word in text.split()]

    def decode(self, ids: Sequence[int]) -> str:
        """[7, 5] -> '7 5'."""
        return " ".join(map(str, ids))


def search_pass(
    definition: Any, params: Any, sources: Any, config: Any, *, workers: int
) -> Callable[[], None]:
    """A pass that searches for the answers to `sources`, ids in and ids out.

    Args:
      definition, params: the model.
      sources: int32 [B, S] without padding.
      config: decoding options.
      workers: parts of the batch at work at a time, as `Generator` has its batches.
    """
    import jax
    import numpy as np

    from seqgen.decoding.config import SearchShape, SearchValues
    from seqgen.decoding.generate import search
    from seqgen.decoding.sampling import make_row_keys
    from seqgen.types import Sequences

    @functools.partial(jax.jit, static_argnames=("shape", "max_len"))
    def answer(
        params: Any, source: Sequences, values: SearchValues, *, shape: SearchShape, max_len: int
    ) -> Any:
        row_keys = make_row_keys(0, np.arange(len(source.ids)))
        return search(
            definition.bind(params), source, row_keys, shape=shape, values=values, max_len=max_len
        )

    def search_part(ids: Any) -> None:
        positions = np.broadcast_to(np.arange(ids.shape[1], dtype=np.int32), ids.shape)
        source = Sequences(ids=ids, segments=np.ones_like(ids), positions=positions.copy())
        found = answer(
            params, source, config.values(), shape=config.shape(), max_len=config.max_length
        )
        lengths = jax.device_get(found).lengths
        assert (lengths == TARGET_LEN).all(), lengths

    parts = np.split(sources, workers)
    search_part(parts[0])  # compiles, once for all
    threads = ThreadPoolExecutor(workers)

    def run_pass() -> None:
        list(threads.map(search_part, parts))

    return run_pass


def generator_pass(
    definition: Any, params: Any, sources: Any, config: Any, *, workers: int
) -> Callable[[], None]:
    """A pass through `Generator`, text in and text out; it has its own workers."""
    del workers
    from seqgen.inference import Generator

    tokenizer = NumberTokenizer(0)
    generator = Generator(definition, params, tokenizer, tokenizer, config)
    texts = [tokenizer.decode(row[:-1]) for row in sources]  # the generator adds EOS itself

    def run_pass() -> None:
        answers = generator.generate(texts)
        assert all(len(answer[0].ids) == TARGET_LEN - 1 for answer in answers)

    return run_pass


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--beam", type=int, default=5, help="1 is greedy")
    parser.add_argument("--batch", type=int, choices=DECODE_BATCHES, default=32)
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--path", choices=("search", "generator"), default="search")
    parser.add_argument("--int8", action="store_true", help="8-bit weights and activations")
    parser.add_argument("--workers", type=int, help="parts of the batch at work at a time")
    args = parser.parse_args()
    # Two halves of 64 sentences go faster together than the whole, two of 32 do not.
    workers = args.workers or (2 if args.batch >= 64 else 1)
    if args.batch % workers:
        parser.error(f"--workers={workers} does not divide the batch of {args.batch}")
    if args.batch == 1:
        os.environ.setdefault("NPROC", "1")  # read by XLA: a second thread costs more than it does

    import jax

    from seqgen.decoding.config import DecodeConfig
    from seqgen.nn.quantization import inference_params
    from seqgen.training.compilation import enable_compile_cache
    from seqgen.training.precision import resolve_compute_dtype

    enable_compile_cache()
    dtype = resolve_compute_dtype(args.dtype, report=lambda line: print(line, file=sys.stderr))
    definition = build_definition(args.size, compute_dtype=dtype)
    params = jax.jit(definition.init)(jax.random.key(0))
    params = inference_params(params, definition.summed_axes, compute_dtype=dtype, int8=args.int8)
    # The last of the 32 tokens is EOS here and a word in the peers; the decoder's 32 steps are one.
    config = DecodeConfig(
        num_beams=args.beam,
        batch_size=args.batch,
        min_length=TARGET_LEN - 1,
        max_length=TARGET_LEN,
    )
    sources = make_sources(args.size, args.batch)
    assert (sources[:, -1] == EOS_ID).all()
    make_pass = {"search": search_pass, "generator": generator_pass}[args.path]
    suffix = "" if args.path == "search" else f"-{args.path}"
    precision = "int8" if args.int8 else dtype
    name = f"seqgen-{args.size}-beam{args.beam}-b{args.batch}-{precision}{suffix}"
    run_pass = make_pass(definition, params, sources, config, workers=workers)
    serve(name, run_pass, tokens=args.batch * TARGET_LEN)


if __name__ == "__main__":
    main()
