"""How long a step of a training takes, measured apart from the training itself.

What a training of `compare` may spend is so many seconds at this pace: a number of steps. So it
ends at the same step whatever else the machine does meanwhile, and two seeds of a model cost the
same.
"""

import contextlib
import itertools
from collections import Counter
from typing import Any

import jax

from seqgen import building, data
from seqgen.benchmarking import machine
from seqgen.benchmarking.results import Row
from seqgen.benchmarking.tasks import Training
from seqgen.training.setup import TrainSetup

PROBED_BATCHES = 200  # whose shapes say how often each shape comes


def measure_pace(training: Training, *, repeats: int, deadline: float = float("inf")) -> Row:
    """Seconds of a step, the mean over the batches of the training.

    Each shape of batch is timed by itself; shapes count as often as they come.

    Args:
      training: whose model, data and recipe.
      repeats: timed samples a shape.
      deadline: on the clock of `time.monotonic`.

    Returns:
      'seconds' (see `machine.Timing`), 'shapes' (how many), 'load', 'environment'.

    Raises:
      machine.TooSlow: the samples would not be there by the deadline.
    """
    cfg = training.config()
    text = data.prepare(cfg.data, cfg.tokenizer, workdir=None)
    definition = building.build_definition(cfg, text.tokenizers, compute_dtype=training.dtype)
    setup = TrainSetup.of(
        definition,
        train_cfg=cfg.train,
        optimizer_cfg=cfg.optimizer,
        compute_dtype=training.dtype,
        carry_rows=text.carry_rows(),
    )
    step, holder = setup.make_step(), [setup.init()]
    counts: Counter[Any] = Counter()
    examples: dict[Any, Any] = {}
    stream: Any = text.train_batches(0, rows_multiple=1, seed=cfg.train.seed)
    with contextlib.closing(stream):
        for batch, _ in itertools.islice(stream, PROBED_BATCHES):
            shape = tuple(leaf.shape for leaf in jax.tree.leaves(batch))
            counts[shape] += 1
            examples.setdefault(shape, batch)
    means = [0.0] * repeats
    for shape, batch in examples.items():

        def call(batch: Any = batch) -> None:
            holder[0], metrics = step(holder[0], [batch])
            jax.block_until_ready(metrics["loss"])

        timing = machine.measure(call, repeats=repeats, deadline=deadline)
        share = counts[shape] / counts.total()
        means = [mean + share * one for mean, one in zip(means, timing.samples, strict=True)]
    return {
        "seconds": machine.Timing(tuple(means), calls=1).to_json(),
        "shapes": len(examples),
        "load": machine.load(),
        "environment": machine.facts(),
    }
