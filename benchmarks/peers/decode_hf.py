"""Translation with Hugging Face `generate`: 20 random tokens in, 32 forced tokens out.

    echo | python decode_hf.py --size small --beam 5 --batch 32 [--dtype bfloat16]

Random weights (Marian's architecture); sentences/s are tokens/s divided by 32.
"""

import argparse
import os

import torch
from protocol import serve
from torch_models import build_marian
from work import DECODE_BATCHES, SIZES, TARGET_LEN, make_sources


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--beam", type=int, default=5, help="1 is greedy")
    parser.add_argument("--batch", type=int, choices=DECODE_BATCHES, default=32)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    model = build_marian(SIZES[args.size]).eval().to(getattr(torch, args.dtype))
    sources = torch.from_numpy(make_sources(args.size, args.batch)).long()

    @torch.inference_mode()
    def run_pass() -> None:
        answers = model.generate(
            input_ids=sources,
            attention_mask=torch.ones_like(sources),
            num_beams=args.beam,
            do_sample=False,
            min_new_tokens=TARGET_LEN,
            max_new_tokens=TARGET_LEN,
        )
        assert answers.shape == (args.batch, TARGET_LEN + 1), answers.shape

    name = f"hf-{args.size}-beam{args.beam}-b{args.batch}-{args.dtype}"
    serve(name, run_pass, tokens=args.batch * TARGET_LEN, num_warmups=1)


if __name__ == "__main__":
    main()
