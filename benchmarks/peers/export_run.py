"""Write a trained run in a form that CTranslate2's builder reads: the same weights on both sides.

    python benchmarks/peers/export_run.py --run RUN [--checkpoint avg:10] --input test.en

The cache folder gets weights.npz (arrays by their paths), geometry.json (the model's config),
pieces.json (the vocabulary by ids), tokenizer.model (SentencePiece), sources.txt (the lines of
--input) and run.json (where all this comes from). Only Transformers with sinusoidal positions,
LayerNorm, ReLU and one embedding.
"""

import argparse
import dataclasses
import json
import pathlib
import shutil

import jax
import numpy as np
from work import translation_dir


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--run", type=pathlib.Path, required=True)
    parser.add_argument("--checkpoint", default="avg:10")
    parser.add_argument("--input", type=pathlib.Path, required=True, help="lines to translate")
    args = parser.parse_args()
    output = translation_dir()

    from seqgen import runs
    from seqgen.models.layer_stack import unstack_layers
    from seqgen.nn.positions import sinusoid_table
    from seqgen.types import NUM_CONTROL_IDS

    run = runs.Run.open(args.run)
    model = dataclasses.asdict(run.config.model)
    expected = {"kind": "transformer", "norm": "layernorm", "activation": "relu"}
    expected |= {"positions": "sinusoidal", "num_kv_heads": None}
    for side in ("encoder", "decoder"):
        for name, value in expected.items():
            if model[side][name] != value:
                parser.error(f"the {side}'s {name} is {model[side][name]}, not {value}")
    params = unstack_layers(run.params(args.checkpoint))
    arrays = {
        "/".join(str(key.key) for key in path): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    arrays["positions"] = sinusoid_table(512, model["embed_dim"])
    shutil.rmtree(output, ignore_errors=True)  # models built from other weights go too
    output.mkdir(parents=True)
    np.savez(output / "weights.npz", **arrays)
    (output / "geometry.json").write_text(json.dumps(model, indent=1) + "\n", encoding="utf-8")
    tokenizer = args.run / "tokenizer" / "joint.model"
    shutil.copyfile(tokenizer, output / "tokenizer.model")
    shutil.copyfile(args.input, output / "sources.txt")
    origin = {"run": str(args.run.resolve()), "checkpoint": args.checkpoint}
    (output / "run.json").write_text(json.dumps(origin) + "\n", encoding="utf-8")

    import sentencepiece

    processor = sentencepiece.SentencePieceProcessor(model_file=str(tokenizer))
    pieces = ["<pad>", "<unk>", "<s>", "</s>"]
    pieces += [processor.id_to_piece(i) for i in range(NUM_CONTROL_IDS, processor.get_piece_size())]
    (output / "pieces.json").write_text(json.dumps(pieces), encoding="utf-8")


if __name__ == "__main__":
    main()
