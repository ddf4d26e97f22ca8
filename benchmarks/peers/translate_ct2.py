"""Translate a file with CTranslate2 and the weights of a seqgen run: text in, text out.

    echo | python translate_ct2.py --beam 5 [--int8] [--write FILE]

Weights and lines are what `export_run.py` wrote; the model is built beside them at the first use.
One worker a core with one thread each; CTranslate2 sorts the sentences by length itself. A pass
translates the whole file: tokens, search, text.
"""

import argparse
import json
import os
import pathlib

import ctranslate2
import numpy as np
import sentencepiece
from ctranslate2.specs import common_spec, transformer_spec
from protocol import serve
from work import translation_dir, translation_lines, write_answers


def build(export: pathlib.Path, folder: pathlib.Path, compute_type: str) -> None:
    """Write the exported weights in CTranslate2's own form."""
    model = json.loads((export / "geometry.json").read_text(encoding="utf-8"))
    weights = np.load(export / "weights.npz")
    pieces = json.loads((export / "pieces.json").read_text(encoding="utf-8"))
    num_layers = (model["encoder"]["num_layers"], model["decoder"]["num_layers"])
    pre_norm = model["encoder"]["norm_position"] == "pre"
    spec = transformer_spec.TransformerSpec.from_config(
        num_layers, model["encoder"]["num_heads"], pre_norm=pre_norm
    )

    def linear(target: common_spec.LinearSpec, *names: str) -> None:
        target.weight = np.concatenate([weights[f"{name}/kernel"].T for name in names])
        target.bias = np.concatenate([weights[f"{name}/bias"] for name in names])

    def norm(target: common_spec.LayerNormSpec, name: str) -> None:
        target.gamma, target.beta = weights[f"{name}/scale"], weights[f"{name}/bias"]

    for side, stack in (("encoder", spec.encoder), ("decoder", spec.decoder)):
        embeddings = stack.embeddings[0] if side == "encoder" else stack.embeddings
        embeddings.weight = weights["target_embedding/table"]
        stack.scale_embeddings = model["embed_dim"] ** 0.5 if model["scale_embeddings"] else 1.0
        stack.position_encodings.encodings = weights["positions"]
        if pre_norm:
            norm(stack.layer_norm, f"{side}/final_norm")
        for i, layer in enumerate(stack.layer):
            path = f"{side}/layers/{i}"
            own = f"{path}/self_attention"
            linear(layer.self_attention.linear[0], f"{own}/query", f"{own}/key", f"{own}/value")
            linear(layer.self_attention.linear[1], f"{own}/out")
            norm(layer.self_attention.layer_norm, f"{path}/self_norm")
            if side == "decoder":
                cross = f"{path}/cross_attention"
                linear(layer.attention.linear[0], f"{cross}/query")
                linear(layer.attention.linear[1], f"{cross}/key", f"{cross}/value")
                linear(layer.attention.linear[2], f"{cross}/out")
                norm(layer.attention.layer_norm, f"{path}/cross_norm")
            linear(layer.ffn.linear_0, f"{path}/feed_forward/up")
            linear(layer.ffn.linear_1, f"{path}/feed_forward/down")
            norm(layer.ffn.layer_norm, f"{path}/feed_forward_norm")
    spec.decoder.projection.weight = weights["target_embedding/table"]
    spec.register_source_vocabulary(pieces)
    spec.register_target_vocabulary(pieces)
    _, spec.config.unk_token, spec.config.bos_token, spec.config.eos_token = pieces[:4]
    spec.config.decoder_start_token = spec.config.bos_token
    spec.config.add_source_eos = True
    spec.config.layer_norm_epsilon = 1e-5
    spec.validate()
    spec.optimize(quantization=None if compute_type == "float32" else compute_type)
    folder.mkdir(parents=True, exist_ok=True)
    spec.save(str(folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--beam", type=int, default=5)
    parser.add_argument("--batch", type=int, default=32, help="sentences in a worker's batch")
    parser.add_argument("--int8", action="store_true", help="8-bit weights and activations")
    parser.add_argument("--write", type=pathlib.Path, help="write 'score TAB text' lines and end")
    args = parser.parse_args()
    lines, export = translation_lines(), translation_dir()
    compute_type = "int8" if args.int8 else "float32"
    folder = export / f"ctranslate2-{compute_type}"
    if not (folder / "model.bin").exists():
        build(export, folder, compute_type)
    processor = sentencepiece.SentencePieceProcessor(str(export / "tokenizer.model"))
    translator = ctranslate2.Translator(
        str(folder),
        device="cpu",
        compute_type=compute_type,
        inter_threads=os.cpu_count() or 1,
        intra_threads=1,
    )

    def translate() -> list[tuple[float, str]]:
        answers = translator.translate_batch(
            processor.encode(lines, out_type=str),
            beam_size=args.beam,
            max_batch_size=args.batch,
            return_scores=True,
            disable_unk=False,
        )
        texts = processor.decode([answer.hypotheses[0] for answer in answers])
        return [(answer.scores[0], text) for answer, text in zip(answers, texts, strict=True)]

    if args.write:
        write_answers(args.write, translate())
        return

    def run_pass() -> None:
        assert len(translate()) == len(lines)

    serve(f"ct2-file-beam{args.beam}-{compute_type}", run_pass, tokens=len(lines))


if __name__ == "__main__":
    main()
