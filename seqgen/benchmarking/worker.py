"""Measures one cell in a process of its own.

    python -m seqgen.benchmarking.worker '{"cell": {"what": "train", "model": "gru"}, "repeats": 5}'

prints one JSON object on the last line of stdout. A process that dies takes no other measurement
with it, and its peak of resident memory is its own. Batches are full-length random ids from a fixed
seed, without padding; the programs are those that training and decoding run, compiled anew (no
cache), so that the seconds of compilation are true.
"""

import contextlib
import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from seqgen.benchmarking import flops, machine
from seqgen.benchmarking.cells import Cell
from seqgen.benchmarking.models import define, match_parameters
from seqgen.decoding.config import DecodeConfig
from seqgen.decoding.generate import search
from seqgen.decoding.hypotheses import Hypotheses
from seqgen.decoding.sampling import make_row_keys
from seqgen.errors import ConfigError
from seqgen.models import ModelConfig
from seqgen.nn.parameters import Definition
from seqgen.training.compilation import CompileReport, program_memory
from seqgen.training.config import MeshConfig, OptimizerConfig, TrainConfig
from seqgen.training.setup import TrainSetup
from seqgen.types import BOS_ID, EOS_ID, NUM_CONTROL_IDS, Array, Batch, Params, Sequences

SEED = 0
MEMORY_SHARE = 0.8  # of what is free at the start: a cell shall fail before the system runs out
Row = dict[str, Any]


def random_rows(rows: int, length: int, vocab: int, *, seed: int) -> Sequences:
    """Full rows [rows, length] of random ids that end with EOS_ID."""
    ids = np.random.default_rng(seed).integers(NUM_CONTROL_IDS, vocab, (rows, length))
    ids[:, -1] = EOS_ID
    ids = ids.astype(np.int32)
    positions = np.broadcast_to(np.arange(length, dtype=np.int32), ids.shape)
    return Sequences(ids=ids, segments=np.ones_like(ids), positions=np.array(positions))


def random_batch(cell: Cell) -> Batch:
    """A training batch without padding."""
    source = random_rows(cell.batch, cell.length, cell.vocab, seed=SEED)
    labels = random_rows(cell.batch, cell.length, cell.vocab, seed=SEED + 1)
    first = np.full((cell.batch, 1), BOS_ID, np.int32)
    target = Sequences(
        ids=np.concatenate([first, labels.ids[:, :-1]], axis=1),
        segments=labels.segments,
        positions=labels.positions,
    )
    return Batch(source, target, labels.ids, np.ones(labels.ids.shape, np.float32))


def measure_cell(cell: Cell, *, repeats: int, deadline: float = float("inf")) -> Row:
    """The row of one cell.

    Args:
      cell: what to measure.
      repeats: timed samples, at least 5 for a row that others compare with.
      deadline: on the clock of `time.monotonic`.

    Returns:
      For 'gemm' see `machine.measure_gemm`. Otherwise 'parameters', 'width', 'flops' (of one call),
      'compile_seconds', 'peak_bytes' and 'temp_bytes' of the program, 'start_rss_bytes' and
      'peak_rss_bytes' of the process (before the model, and at its highest); unless 'memory',
      'seconds' (see `machine.Timing`) and 'tokens_per_second' at the median; of a search also
      'sentences_per_second' and 'first_token_seconds'.

    Raises:
      ConfigError: the cell cannot be built here.
      machine.TooSlow: `repeats` samples would not be there by the deadline.
    """
    if cell.what == "gemm":
        return machine.measure_gemm(cell.dtype, repeats=repeats, deadline=deadline)
    start = _peak_rss()
    config = match_parameters(cell.model, cell.parameters, vocab=cell.vocab)
    definition = define(config, vocab=cell.vocab, dtype=cell.dtype)
    row: Row = {
        "parameters": definition.num_parameters,
        "width": config.embed_dim,
        "batch": cell.batch,
        "start_rss_bytes": start,
    }
    function = _decode if cell.what == "decode" else _train
    row |= function(cell, config, definition, repeats=repeats, deadline=deadline)
    row["peak_rss_bytes"] = _peak_rss()
    statistics = getattr(jax.devices()[0], "memory_stats", lambda: None)()
    if statistics and "peak_bytes_in_use" in statistics:
        row["peak_device_bytes"] = int(statistics["peak_bytes_in_use"])
    return row


def _train(
    cell: Cell, config: ModelConfig, definition: Definition, *, repeats: int, deadline: float
) -> Row:
    """The framework's own training step: forward, backward, finite check, Adam."""
    setup = TrainSetup.of(
        definition,
        train_cfg=TrainConfig(seed=SEED),
        optimizer_cfg=OptimizerConfig(),
        compute_dtype=cell.dtype,
        mesh_cfg=MeshConfig(data=cell.devices),
    )
    reports: list[CompileReport] = []
    step, holder = setup.make_step(report=reports.append), [setup.init()]
    batch = random_batch(cell)

    def call() -> None:
        holder[0], metrics = step(holder[0], [batch])
        jax.block_until_ready(metrics["loss"])

    call()
    (report,) = reports
    row: Row = {
        "flops": flops.training_flops(
            config,
            definition.abstract,
            batch=cell.batch,
            source_len=cell.length,
            target_len=cell.length,
        ),
        "compile_seconds": report.seconds,
        "peak_bytes": report.peak_bytes,
        "temp_bytes": report.temp_bytes,
        "program_flops": report.flops,
    }
    if cell.what == "train":
        row |= _timed(cell, call, repeats=repeats, deadline=deadline)
    return row


def _decode(
    cell: Cell, config: ModelConfig, definition: Definition, *, repeats: int, deadline: float
) -> Row:
    """The framework's own search, whose answers are all `length` tokens long."""
    if cell.devices != 1:
        raise ConfigError("a search runs on one device", details=["cell           devices=1"])
    options = DecodeConfig(num_beams=cell.beams, min_length=cell.length - 1, max_length=cell.length)
    # The same program ends after its first token if that is all the room there is.
    first_token = options.replace(min_length=0, max_length=1)
    params = jax.jit(definition.init)(jax.random.key(SEED))
    source = jax.device_put(random_rows(cell.batch, cell.length, cell.vocab, seed=SEED))

    def answer(params: Params, source: Sequences, keys: Array, values: Any) -> Hypotheses:
        return search(
            definition.bind(params),
            source,
            keys,
            shape=options.shape(),
            values=values,
            max_len=cell.length,
        )

    keys = make_row_keys(SEED, np.arange(cell.batch))
    start = time.perf_counter()
    program = jax.jit(answer).lower(params, source, keys, options.values()).compile()
    seconds = time.perf_counter() - start
    peak_bytes, temp_bytes = program_memory(program)

    def caller(options: DecodeConfig) -> Callable[[], None]:
        values = options.values()
        return lambda: jax.block_until_ready(program(params, source, keys, values).lengths)

    found = program(params, source, keys, options.values())
    if int(found.num_steps) != cell.length:
        raise AssertionError(f"{int(found.num_steps)} steps were made, not {cell.length}")
    row: Row = {
        "flops": flops.forward_flops(
            config,
            definition.abstract,
            batch=cell.batch,
            source_len=cell.length,
            target_len=cell.length,
            beams=cell.beams,
        ),
        "compile_seconds": seconds,
        "peak_bytes": peak_bytes,
        "temp_bytes": temp_bytes,
    }
    row |= _timed(cell, caller(options), repeats=repeats, deadline=deadline)
    row["sentences_per_second"] = cell.batch / row["seconds"]["median"]
    first = machine.measure(caller(first_token), repeats=repeats, deadline=deadline)
    row["first_token_seconds"] = first.to_json()
    return row


def _timed(cell: Cell, call: Callable[[], None], *, repeats: int, deadline: float) -> Row:
    seconds = machine.measure(call, repeats=repeats, deadline=deadline).to_json()
    rate = cell.batch * cell.length / seconds["median"]
    return {"seconds": seconds, "tokens_per_second": rate, "load": machine.load()}


def _peak_rss() -> int:
    """Most bytes of memory that this process has held so far."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _limit_memory() -> None:
    """Refuse a CPU program more than its share of the free memory: it fails alone, with a word."""
    with contextlib.suppress(OSError, ValueError), open("/proc/meminfo", encoding="ascii") as file:
        sizes = dict(line.split(":", 1) for line in file)
        free = int(sizes["MemAvailable"].split()[0]) * 1024
        limit = int(free * MEMORY_SHARE)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))


def main(argv: list[str] | None = None) -> int:
    """Measure what the first word says and print the row; 1 and {'error'} if it cannot be done."""
    (request,) = sys.argv[1:] if argv is None else argv
    order = json.loads(request)
    limit = order.get("seconds", float("inf"))
    deadline = time.monotonic() + limit
    output, sys.stdout = sys.stdout, sys.stderr  # whatever libraries print, stdout is the row
    try:
        if "train" in order:
            from seqgen.benchmarking import quality
            from seqgen.benchmarking.tasks import Training

            row = quality.train_one(Training(**order["train"]))
        elif "pace" in order:
            from seqgen.benchmarking import pace
            from seqgen.benchmarking.tasks import Training

            row = pace.measure_pace(
                Training(**order["pace"]), repeats=order["repeats"], deadline=deadline
            )
        else:
            cell = Cell.from_dict(order["cell"])
            if cell.devices > 1:
                jax.config.update("jax_num_cpu_devices", cell.devices)
            jax.config.update("jax_enable_compilation_cache", False)
            if jax.default_backend() == "cpu":
                _limit_memory()
            row = measure_cell(cell, repeats=order["repeats"], deadline=deadline)
            row["environment"] = machine.facts()
        said, code = json.dumps(row, allow_nan=False), 0
    except Exception as error:  # told in the row, whatever it is: the suite goes on
        text = getattr(error, "cause", None) or str(error) or type(error).__name__
        kind = "out of memory: " if "RESOURCE_EXHAUSTED" in text else ""
        line = f"{kind}{type(error).__name__}: {text.splitlines()[0][:300]}"
        said, code = json.dumps({"error": line}), 1
    finally:
        sys.stdout = output
    print(said, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
