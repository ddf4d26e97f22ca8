"""Translation with CTranslate2: 20 random tokens in, 32 forced tokens out.

    echo | python decode_ct2.py --size small --beam 5 --batch 32 [--int8]

The Marian of `decode_hf.py`, converted at the first use into the cache folder. Workers and threads
stand as they serve CTranslate2 best on two cores: one thread for a single sentence, otherwise one
worker a core with its share of the batch (more threads inside a worker are several times slower).
"""

import argparse
import os
import pathlib
import subprocess
import sys

import ctranslate2
from protocol import serve
from work import DECODE_BATCHES, SIZES, TARGET_LEN, cache_dir, make_sources

CONTROL_TOKENS = ("<pad>", "<unk>", "<s>", "</s>")  # by their ids


def tokens_of(size: str) -> list[str]:
    """The vocabulary; the converter drops the last row of Marian's embedding, its usual padding."""
    ids = range(len(CONTROL_TOKENS), SIZES[size].vocab_size - 1)
    return [*CONTROL_TOKENS, *(f"w{i}" for i in ids)]


def convert(size: str, compute_type: str, folder: pathlib.Path) -> None:
    """Write the model of `size` in CTranslate2's own form."""
    import torch
    from ctranslate2.converters.transformers import MarianMTLoader
    from torch_models import build_marian

    torch.manual_seed(0)
    spec = MarianMTLoader().get_model_spec(build_marian(SIZES[size]).eval())
    spec.register_source_vocabulary(tokens_of(size))
    spec.register_target_vocabulary(tokens_of(size))
    _, spec.config.unk_token, spec.config.bos_token, spec.config.eos_token = CONTROL_TOKENS
    spec.config.decoder_start_token = spec.config.bos_token
    spec.config.add_source_eos = False  # the sources have it already
    spec.validate()
    spec.optimize(quantization=None if compute_type == "float32" else compute_type)
    folder.mkdir(parents=True, exist_ok=True)
    spec.save(str(folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--beam", type=int, default=5, help="1 is greedy")
    parser.add_argument("--batch", type=int, choices=DECODE_BATCHES, default=32)
    parser.add_argument("--int8", action="store_true", help="8-bit weights and activations")
    parser.add_argument("--convert", action="store_true", help="only convert the model")
    args = parser.parse_args()

    compute_type = "int8" if args.int8 else "float32"
    folder = cache_dir() / f"ctranslate2-{args.size}-{compute_type}"
    if args.convert:
        convert(args.size, compute_type, folder)
        return
    if not (folder / "model.bin").exists():
        # In another process, so that torch and its threads are not in the one that is measured.
        subprocess.run([sys.executable, *sys.argv, "--convert"], check=True)

    workers = min(os.cpu_count() or 1, args.batch)
    translator = ctranslate2.Translator(
        str(folder),
        device="cpu",
        compute_type=compute_type,
        inter_threads=workers,
        intra_threads=1,
    )
    words = tokens_of(args.size)
    sources = [[words[i] for i in row] for row in make_sources(args.size, args.batch)]

    def run_pass() -> None:
        answers = translator.translate_batch(
            sources,
            beam_size=args.beam,
            max_batch_size=-(-args.batch // workers),
            min_decoding_length=TARGET_LEN,
            max_decoding_length=TARGET_LEN,
        )
        assert all(len(answer.hypotheses[0]) == TARGET_LEN for answer in answers)

    name = f"ct2-{args.size}-beam{args.beam}-b{args.batch}-{compute_type}"
    serve(name, run_pass, tokens=args.batch * TARGET_LEN)


if __name__ == "__main__":
    main()
