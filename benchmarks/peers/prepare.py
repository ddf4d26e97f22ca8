"""Write the batches that every training program reads: Multi30k, one 8k BPE, 4,096-token batches.

    python prepare.py --corpus FOLDER

FOLDER holds train.en.gz and train.de.gz. `bpe8k.model` and `batches.npz` go to the cache folder
(`work.cache_dir`). The first batch is the reference batch, which `--nb 1` measures:
204 sentences, 17 source and 20 target positions. Needs sentencepiece; takes seconds.
"""

import argparse
import gzip
import itertools
import pathlib
from collections.abc import Iterator

import numpy as np
import sentencepiece
from work import BOS_ID, BPE_SIZE, EOS_ID, PAD_ID, UNK_ID, cache_dir

CORPUS = pathlib.Path(__file__).resolve().parents[3] / "shared" / "data" / "multi30k"
REFERENCE_LENGTHS = (17, 20)  # source and target positions of the reference batch
MAX_LEN = 64


def load_bpe(sentences: list[str]) -> sentencepiece.SentencePieceProcessor:
    """The joint vocabulary, trained once and kept in the cache."""
    path = cache_dir() / "bpe8k.model"
    if not path.exists():
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_prefix=str(path.with_suffix("")),
            model_type="bpe",
            vocab_size=BPE_SIZE,
            character_coverage=1.0,
            pad_id=PAD_ID,
            unk_id=UNK_ID,
            bos_id=BOS_ID,
            eos_id=EOS_ID,
            minloglevel=2,
        )
    return sentencepiece.SentencePieceProcessor(model_file=str(path))


def cut(lengths: list[tuple[int, int]], max_tokens: int) -> Iterator[list[int]]:
    """Places of (target, source) lengths in groups of rows * longest side <= `max_tokens`."""
    group: list[int] = []
    longest = 0
    for place in sorted(range(len(lengths)), key=lambda place: lengths[place]):
        widest = max(longest, *lengths[place])
        if group and widest * (len(group) + 1) > max_tokens:
            yield group
            group, widest = [], max(lengths[place])
        group.append(place)
        longest = widest
    yield group


def pad(rows: list[list[int]]) -> np.ndarray:
    """Rows as one int32 array."""
    return np.array(list(itertools.zip_longest(*rows, fillvalue=PAD_ID)), np.int32).T.copy()


def read_lines(path: pathlib.Path) -> list[str]:
    """The lines of a gzipped text file."""
    return gzip.decompress(path.read_bytes()).decode("utf-8").splitlines()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=pathlib.Path, default=CORPUS)
    parser.add_argument("--max-tokens", type=int, default=4096)
    args = parser.parse_args()

    english = [line.strip() for line in read_lines(args.corpus / "train.en.gz")]
    german = [line.strip() for line in read_lines(args.corpus / "train.de.gz")]
    bpe = load_bpe(english + german)
    pairs = [
        ([*source, EOS_ID], [BOS_ID, *target, EOS_ID])
        for source, target in zip(bpe.encode(english), bpe.encode(german), strict=True)
        if max(len(source), len(target)) < MAX_LEN
    ]
    # The decoder reads all of a target but its last token.
    groups = list(
        cut([(len(target) - 1, len(source)) for source, target in pairs], args.max_tokens)
    )
    np.random.default_rng(0).shuffle(groups)
    batches = [
        (pad([pairs[place][0] for place in group]), pad([pairs[place][1] for place in group]))
        for group in groups
    ]

    def is_reference(batch: tuple[np.ndarray, np.ndarray]) -> bool:
        return (batch[0].shape[1], batch[1].shape[1] - 1) == REFERENCE_LENGTHS

    batches.sort(key=is_reference, reverse=True)  # stable: the others stay shuffled
    arrays = {}
    for i, (source, target) in enumerate(batches):
        arrays |= {f"source_{i}": source, f"target_{i}": target}
    np.savez(cache_dir() / "batches.npz", **arrays)
    source, target = batches[0]
    print(
        f"{len(batches)} batches in {cache_dir()}; the first has {len(source)} sentences, "
        f"{source.shape[1]} source and {target.shape[1] - 1} target positions"
    )


if __name__ == "__main__":
    main()
