"""What the rows say in words: when a recurrent model is the better choice, when a Transformer, and
what attention and parallel recurrences change.

Every sentence is made of medians that stand in the tables; one whose rows are not there is left
out.
"""

import statistics
from collections.abc import Sequence
from typing import Any

from seqgen.benchmarking import plots
from seqgen.benchmarking.curves import AXES, common_budget, lowest_loss
from seqgen.benchmarking.models import ATTENTION
from seqgen.benchmarking.page import Block
from seqgen.benchmarking.results import Row

REFERENCE = "transformer"
SERIAL, PARALLEL = "gru", "mingru"
BATCH_WORK = {"train": "trains", "decode": "decodes"}
NEARLY = 1.05  # ratios below are called equal

ByLength = dict[str, dict[int, float]]  # model -> length -> value


def answer_blocks(rows: Sequence[Row]) -> list[Block]:
    """The section of the report; nothing if there is nothing to compare."""
    speeds = {part: by_length(rows, part, "tokens_per_second") for part in BATCH_WORK}
    blocks = []
    for part, verb in BATCH_WORK.items():
        blocks += _speed_blocks(speeds[part], part, verb)
    sentences = [
        *_latency_sentences(rows),
        *_memory_sentences(by_length(rows, "memory", "temp_bytes")),
        *_attention_sentences(speeds),
        *_parallel_sentences(speeds),
        *_quality_sentences(rows),
    ]
    blocks += [Block("text", sentence) for sentence in sentences]
    return [Block("heading", "Answers"), *blocks] if blocks else []


def by_length(rows: Sequence[Row], part: str, name: str) -> ByLength:
    """A value of the cells of a part that differ from the base point in nothing but the length."""
    found = plots.cell_rows(rows, part)
    bases = plots.base_cells(found)
    values: ByLength = {}
    for row, cell in found:
        if name in row and set(plots.varied(cell, bases[cell.model])) <= {"length"}:
            values.setdefault(cell.model, {})[cell.length] = row[name]
    return {model: dict(sorted(lengths.items())) for model, lengths in values.items()}


def _speed_blocks(speeds: ByLength, part: str, verb: str) -> list[Block]:
    """How fast each model is beside the Transformer, by length, and where it is overtaken."""
    reference = speeds.get(REFERENCE, {})
    others = [model for model in speeds if model != REFERENCE]
    if not reference or not others:
        return []
    lines = [(f"{part}: speed / {REFERENCE}'s, by length", *map(str, reference))]
    sentences = []
    for model in others:
        ratios = {n: speeds[model][n] / reference[n] for n in reference if n in speeds[model]}
        lines.append((model, *(f"{ratios[n]:.2f}" if n in ratios else "-" for n in reference)))
        faster = [n for n, ratio in ratios.items() if ratio > NEARLY]
        if faster and len(faster) < len(ratios):
            sentences.append(f"{model} at {_listed(faster)}")
        elif faster:
            sentences.append(f"{model} at every length")
    text = (
        f"Faster than the {REFERENCE} ({verb} more target tokens a second): {'; '.join(sentences)}."
        if sentences
        else f"No model {verb} faster than the {REFERENCE} at any length."
    )
    return [Block("table", rows=tuple(lines)), Block("text", text)]


def _latency_sentences(rows: Sequence[Row]) -> list[str]:
    """Milliseconds of one sentence alone."""
    found = plots.cell_rows(rows, "decode")
    bases = plots.base_cells(found)
    alone = {
        cell.model: (cell.length, row["seconds"]["median"])
        for row, cell in found
        if cell.batch == 1
        and "seconds" in row
        and plots.varied(cell, bases[cell.model]) == ["tokens"]
    }
    if REFERENCE not in alone or len(alone) < 2:
        return []
    order = sorted(alone, key=lambda model: alone[model][1])
    told = ", ".join(f"{model} {1e3 * alone[model][1]:.1f}" for model in order)
    length = alone[REFERENCE][0]
    return [f"One sentence alone, {length} tokens, greedy, in milliseconds: {told}."]


def _memory_sentences(memory: ByLength) -> list[str]:
    reference = memory.get(REFERENCE, {})
    sentences = []
    for length in sorted(reference)[-1:]:
        held = {model: lengths[length] for model, lengths in memory.items() if length in lengths}
        least = min(held, key=held.__getitem__)
        sentences.append(
            f"A training step at length {length} needs {held[REFERENCE] / 2**20:,.0f} MiB for the "
            f"{REFERENCE}; the least has {least} with {held[least] / 2**20:,.0f} MiB."
        )
    return sentences


def _attention_sentences(speeds: dict[str, ByLength]) -> list[str]:
    """What attention costs each cell at the ends of the length sweep."""
    sentences = []
    for part, verb in BATCH_WORK.items():
        costs = []
        for model, with_it in speeds[part].items():
            plain = speeds[part].get(model.removesuffix(ATTENTION), {})
            both = [length for length in with_it if length in plain]
            if model.endswith(ATTENTION) and both:
                ends = dict.fromkeys((both[0], both[-1]))
                shares = (f"{with_it[n] / plain[n]:.2f} at {n}" for n in ends)
                costs.append(f"{model.removesuffix(ATTENTION)} {', '.join(shares)}")
        if costs:
            sentences.append(
                f"With attention a recurrent model {verb} at this share of its speed without, by "
                f"length: {'; '.join(costs)}."
            )
    return sentences


def _parallel_sentences(speeds: dict[str, ByLength]) -> list[str]:
    """What a recurrence that runs over all steps at once changes."""
    sentences = []
    for part, verb in BATCH_WORK.items():
        serial, parallel = (speeds[part].get(model, {}) for model in (SERIAL, PARALLEL))
        both = [length for length in serial if length in parallel]
        if both:
            ratios = ", ".join(f"{parallel[n] / serial[n]:.2f} at length {n}" for n in both)
            sentences.append(f"{PARALLEL} {verb} at this multiple of {SERIAL}'s speed: {ratios}.")
    return sentences


def _quality_sentences(rows: Sequence[Row]) -> list[str]:
    """Who is best on each task at each equal budget."""
    found = [row for row in rows if row["what"] == "compare" and "curve" in row]
    sentences = []
    for task in dict.fromkeys(row["task"] for row in found):
        curves: dict[str, list[Any]] = {}
        for row in found:
            if row["task"] == task:
                curves.setdefault(row["model"], []).append(row["curve"])
        for axis, label in AXES.items():
            ranking = _ranking(curves, axis)
            if len(ranking) > 1:
                told = ", ".join(f"{model} {loss:.3f}" for model, loss in ranking)
                sentences.append(f"{task}, lowest validation loss by equal {label}: {told}.")
        sentences += _distance_sentences([row for row in found if row["task"] == task], task)
    return sentences


def _ranking(curves: dict[str, list[Any]], axis: str) -> list[tuple[str, float]]:
    budget = common_budget([curve for seeds in curves.values() for curve in seeds], axis)
    known = []
    for model, seeds in curves.items():
        losses = [lowest_loss(curve, axis, budget) for curve in seeds]
        reached = [loss for loss in losses if loss is not None]
        if budget and len(reached) == len(losses):
            known.append((model, statistics.median(reached)))
    return sorted(known, key=lambda entry: entry[1])


def _distance_sentences(members: Sequence[Row], task: str) -> list[str]:
    """Exact match on the shortest and on the longest sources."""
    ends: dict[str, list[tuple[float, float]]] = {}
    spans = ("", "")
    for row in members:
        groups = row.get("test", {}).get("by_length") or []
        if len(groups) > 1:
            first, last = groups[0], groups[-1]
            spans = (
                f"{first['min_words']} to {first['max_words']}",
                f"{last['min_words']} and more",
            )
            pair = first["exact_match"], last["exact_match"]
            ends.setdefault(row["model"], []).append(pair)
    if not ends:
        return []
    means = {
        model: tuple(statistics.fmean(column) for column in zip(*pairs, strict=True))
        for model, pairs in ends.items()
    }
    order = sorted(means, key=lambda model: -means[model][1])
    told = ", ".join(f"{model} {means[model][0]:.2f} / {means[model][1]:.2f}" for model in order)
    return [f"{task}, exact match on sources of {spans[0]} / {spans[1]} words: {told}."]


def _listed(numbers: Sequence[int]) -> str:
    return ("lengths " if len(numbers) > 1 else "length ") + ", ".join(map(str, numbers))
