"""Training steps in PyTorch: a pass trains on the batches of `prepare.py` (GPT: random ids).

    echo | python train_torch.py --model lstm-luong --nb 1 [--dtype bfloat16] [--compile]

bfloat16 is autocast over float32 weights. `drive.py` and `measure.py` run it beside others.
"""

import argparse
import os

import torch
import torch.nn.functional as F
from protocol import serve
from torch import Tensor, nn
from torch_models import MODELS, build_torch_model
from work import (
    ADAM_BETAS,
    CLIP_NORM,
    GPT_SHAPES,
    LABEL_SMOOTHING,
    LEARNING_RATE,
    PAD_ID,
    count_tokens,
    load_batches,
    make_characters,
)

Example = tuple[tuple[Tensor, ...], Tensor]  # what the model reads, and what it should say


def translation_examples(count: int) -> tuple[list[Example], int]:
    """Batches of translation and their number of real target tokens."""
    batches = load_batches(count)
    tensors = [
        tuple(torch.from_numpy(part).long() for part in (b.source, b.target, b.labels))
        for b in batches
    ]
    return [((source, target), labels) for source, target, labels in tensors], count_tokens(batches)


def character_examples(name: str) -> tuple[list[Example], int]:
    """Steps of a character model, and the tokens of all of them."""
    ids = torch.from_numpy(make_characters(name)).long()
    return [((step[:, :-1],), step[:, 1:]) for step in ids], ids[..., 1:].numel()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="transformer-small")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--compile", action="store_true", help="torch.compile and fused Adam")
    parser.add_argument("--nb", type=int, default=1, help="batches in a pass")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    args = parser.parse_args()

    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    is_gpt = args.model in GPT_SHAPES
    model = build_torch_model(args.model).train()
    optimizer = torch.optim.Adam(
        model.parameters(), lr=LEARNING_RATE, betas=ADAM_BETAS, fused=args.compile or None
    )
    examples, tokens = character_examples(args.model) if is_gpt else translation_examples(args.nb)

    def loss_of(inputs: tuple[Tensor, ...], labels: Tensor) -> Tensor:
        return F.cross_entropy(
            model(*inputs).flatten(0, 1).float(),
            labels.flatten(),
            ignore_index=-100 if is_gpt else PAD_ID,
            label_smoothing=0.0 if is_gpt else LABEL_SMOOTHING,
        )

    compute_loss = torch.compile(loss_of, dynamic=True) if args.compile else loss_of

    def run_pass() -> float:
        loss = torch.zeros(())
        for inputs, labels in examples:
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=args.dtype == "bfloat16"):
                loss = compute_loss(inputs, labels)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
            optimizer.step()
        return loss.item()

    compiled = "-compiled" if args.compile else ""
    serve(f"torch-{args.model}{compiled}-{args.dtype}", run_pass, tokens=tokens)


if __name__ == "__main__":
    main()
