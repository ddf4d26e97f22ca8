"""Translate a file with a seqgen run: text in, text out.

    echo | python benchmarks/peers/translate_seqgen.py --beam 5 [--dtype bfloat16 | --int8]

The run and the lines are those of `export_run.py`. A pass is what `seqgen generate` does with the
whole file: tokens, sorting, search, text. The search keeps CTranslate2's rules: it ends with as
many finished hypotheses as beams, and an answer has a token. (seqgen's own rule searches on while
a better answer may still come.)
"""

import argparse
import json
import pathlib

from protocol import serve
from work import translation_dir, translation_lines, write_answers


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--beam", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--int8", action="store_true", help="8-bit weights and activations")
    parser.add_argument("--own_rule", action="store_true", help="stop by seqgen's own rule")
    parser.add_argument("--write", type=pathlib.Path, help="write 'score TAB text' lines and end")
    args = parser.parse_args()

    lines = translation_lines()
    origin = json.loads((translation_dir() / "run.json").read_text(encoding="utf-8"))

    import seqgen

    generator = seqgen.load(
        origin["run"],
        checkpoint=origin["checkpoint"],
        compute_dtype=args.dtype,
        quantize="int8" if args.int8 else "none",
    )
    options = {"num_beams": args.beam, "batch_size": args.batch}
    if not args.own_rule:
        options |= {"early_stopping": "first", "min_length": 1}

    def translate() -> list[tuple[float, str]]:
        answers = generator.generate(lines, **options)
        return [(answer[0].score, answer[0].text) for answer in answers]

    if args.write:
        write_answers(args.write, translate())
        return

    def run_pass() -> None:
        assert len(translate()) == len(lines)

    precision = "int8" if args.int8 else args.dtype
    serve(f"seqgen-file-beam{args.beam}-{precision}", run_pass, tokens=len(lines))


if __name__ == "__main__":
    main()
