"""Rows as measurements give them, without measuring."""

from typing import Any

from seqgen.benchmarking.cells import Cell

ENVIRONMENT = {"processor": "made up", "cpus": 2, "platform": "cpu", "jax": "0", "code": "abc"}


def timing(median: float, *, spread: float = 0.05) -> dict[str, Any]:
    low, high = median * (1 - spread), median * (1 + spread)
    return {
        "min": low,
        "median": median,
        "max": high,
        "samples": [low, low, median, high, high],
        "calls": 1,
    }


def answer(cell: Cell, *, median: float = 0.01) -> dict[str, Any]:
    """What a worker says of a cell."""
    if cell.what == "gemm":
        seconds = timing(0.001)
        return {"flops_per_second": 1e9, "size": 64, "flops": 10**6, "seconds": seconds}
    row = {
        "parameters": cell.parameters,
        "width": 8,
        "batch": cell.batch,
        "flops": 10**6,
        "compile_seconds": 1.5,
        "peak_bytes": 2**21,
        "temp_bytes": 2**20,
        "start_rss_bytes": 2**20,
        "peak_rss_bytes": 2**22,
        "load": 0.1,
    }
    if cell.what != "memory":
        row |= {"seconds": timing(median), "tokens_per_second": cell.tokens / median}
    if cell.what == "decode":
        row |= {"first_token_seconds": timing(median / 4), "sentences_per_second": 5.0}
    return row


def row_of(cell: Cell, **changes: Any) -> dict[str, Any]:
    """A row of results.json."""
    head = {"key": cell.key, "what": cell.what, "cell": vars(cell), "repeats": 5}
    return {**head, **answer(cell), **changes}


def training_row(model: str, seed: int, *, speed: float = 1.0) -> dict[str, Any]:
    """A row of `compare` with a curve of three points."""
    curve = [
        {
            "step": n,
            "tokens": 100 * n,
            "flops": 1e6 * n,
            "seconds": n / speed,
            "loss": 4.0 - n,
            "score": n / 4,
        }
        for n in (1, 2, 3)
    ]
    groups = [
        {"min_words": 4 * n, "max_words": 4 * n + 3, "examples": 9, "exact_match": 1.0 - 0.1 * n}
        for n in (1, 2)
    ]
    return {
        "key": f"compare/copy/{model} seed={seed}",
        "what": "compare",
        "task": "copy",
        "model": model,
        "seed": seed,
        "minutes": 1.0,
        "status": "finished",
        "parameters": 1234,
        "width": 8,
        "score": "exact_match",
        "steps": 3,
        "step_seconds": 1.0,
        "train_seconds": 3.0,
        "flops_per_token": 1e4,
        "curve": curve,
        "test": {
            "split": "test",
            "loss": 1.25,
            "exact_match": 0.75,
            "bleu": 50.0,
            "by_length": groups,
        },
        "wall_seconds": 5.0,
    }
