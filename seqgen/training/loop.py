"""The training loop: evaluations, checkpoint, batch, step, log; one flat function."""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax

from seqgen.errors import StorageError
from seqgen.nn.parameters import Definition, overlay
from seqgen.training.checkpoint import CheckpointStore
from seqgen.training.compilation import CompileReport, enable_compile_cache
from seqgen.training.config import MeshConfig, OptimizerConfig, TrainConfig
from seqgen.training.environment import code_version
from seqgen.training.faults import fault_point
from seqgen.training.host_record import HostRecord
from seqgen.training.meter import BatchFacts, Meter
from seqgen.training.progress import Progress
from seqgen.training.reports import Outcome, log_row, step_view, summarise, watch_bad_steps
from seqgen.training.run_directory import RunDirectory
from seqgen.training.setup import TrainSetup
from seqgen.training.signals import StopRequested, StopSignals
from seqgen.training.state import TrainState, flatten
from seqgen.training.writers import Writers
from seqgen.types import Batch, Params

# (params, step) -> (values such as {'eval/bleu': 31.4}, samples such as [{'source': ...}])
Evaluator = Callable[[Params, int], tuple[Mapping[str, float], Sequence[Mapping[str, str]]]]
# position (micro-batches consumed) -> endless micro-batches from there
Batches = Callable[[int], Iterator[tuple[Batch, BatchFacts]]]

EXIT_INTERRUPTED = 75


def train(
    definition: Definition,
    *,
    train_cfg: TrainConfig,
    optimizer_cfg: OptimizerConfig,
    compute_dtype: str,
    batches: Batches,
    run: RunDirectory,
    mesh_cfg: MeshConfig | None = None,
    carry_rows: int = 0,
    evaluators: Sequence[Evaluator] = (),
    begin: Callable[[Params], Params] | None = None,
    identity: Mapping[str, Any] | None = None,
    identity_defaults: Mapping[str, Any] | None = None,
    facts: Mapping[str, Any] | None = None,
    next_commands: Sequence[str] = (),
    progress: Progress | None = None,
    stop: StopSignals | None = None,
) -> Outcome:
    """Train until `train_cfg.num_steps`, from the newest checkpoint in `run` if there is one.

    Args:
      definition: the model, built for `compute_dtype`.
      train_cfg: what to do.
      optimizer_cfg: how gradients become updates.
      compute_dtype: 'float32' or 'bfloat16' (`resolve_compute_dtype` turns 'auto' into one).
      batches: endless micro-batches from a position; their rows divide over the mesh.
      run: the run directory, held by the caller (`with RunDirectory(...) as run`).
      mesh_cfg: devices; one by default.
      carry_rows: rows of every batch, where the model's state goes on from batch to batch.
      evaluators: called in turn with (params, step); the moving average is given where it exists.
      begin: gives a new run its first parameters, made of the random ones.
      identity: JSON values that must not change between resumes ({'model', 'tokenizer', 'data'}).
      identity_defaults: dotted name -> value of what an older checkpoint may not know.
      facts: further JSON values for each manifest ('config_hash').
      next_commands: end the summary: what to type next.
      progress: display; plain lines on stderr by default.
      stop: entered by the caller, whose evaluators raise StopRequested once it is requested; a new
        one by default.

    Raises:
      ConfigError: the directory belongs to another model or corpus; too few devices.
      CheckpointError: checkpoints exist and none can be used.
      DivergedError: `max_bad_steps` steps in a row were not finite.
      StorageError: the last checkpoint could not be written.
    """
    cfg, started = train_cfg, time.perf_counter()
    progress = progress or Progress(log=run.log)
    enable_compile_cache()

    # ---- state: fresh, or from the newest intact checkpoint -------------------------------------
    setup = TrainSetup.of(
        definition,
        train_cfg=cfg,
        optimizer_cfg=optimizer_cfg,
        compute_dtype=compute_dtype,
        mesh_cfg=mesh_cfg,
        carry_rows=carry_rows,
    )

    def report_storage(line: str) -> None:
        progress.line(line)
        run.event("storage", message=line)

    store = open_store(
        cfg,
        run,
        identity=identity,
        identity_defaults=identity_defaults,
        facts=facts,
        report=report_storage,
    )
    with progress.phase("restore"):
        restored = store.restore(setup.abstract)
    if restored is None:
        state, host = setup.init(begin), HostRecord()
    else:
        state, host = restored[0], HostRecord.from_json(restored[1]).resumed()
        progress.line(f"resumed at step {int(state.step):,}")
    first_step = step = int(state.step)
    saved_step = step if restored is not None else None
    run.event("started" if restored is None else "resumed", step=step, code=code_version())
    fault_point("loop.restored", step=step)

    # ---- around the step ------------------------------------------------------------------------
    compiles: list[CompileReport] = []
    run_step = setup.make_step(wrap=progress.phase, report=compiles.append)
    names, meter = list(flatten(setup.groups.select(setup.abstract.params))), Meter()
    pending: list[tuple[int, Any]] = []  # metrics of steps that stay on the device until a log step
    with contextlib.ExitStack() as stack:
        stack.enter_context(run.failure_status())
        stack.callback(progress.close)
        stack.callback(store.close)
        writers = Writers(run.path, step, tensorboard=cfg.tensorboard, report=report_storage)
        stack.callback(writers.close)
        stream = batches(host.batches)
        stack.callback(getattr(stream, "close", lambda: None))
        stop = stop or stack.enter_context(StopSignals(progress.line))
        run.set_status("running", step=step, num_steps=cfg.num_steps)
        while True:
            at_end = step >= cfg.num_steps
            # ---- evaluations --------------------------------------------------------------------
            new_best = False
            if (
                evaluators
                and host.evaluated_step != step
                and not stop.requested
                and (at_end or (step > 0 and is_due(step, cfg.eval_every_steps)))
            ):
                fault_point("loop.eval", step=step)
                found = None
                with (
                    contextlib.suppress(StopRequested),  # then the resumed run evaluates this step
                    progress.phase(f"evaluate step {step:,}"),
                ):
                    found, samples = evaluate_all(evaluators, state, step)
                if found is not None:
                    progress.evaluation(step, found, best=host.best, samples=samples)
                    new_best = host.judge(step, cfg.best_metric, found.get(cfg.best_metric))
                    if new_best:
                        best = {"metric": cfg.best_metric, "value": found[cfg.best_metric]}
                        run.event("best", step=step, **best)
                    writers.write(step, found)
                    run.write_samples(step, samples)

            # ---- checkpoint ---------------------------------------------------------------------
            stale = 0 < cfg.patience <= host.evals_without_best
            # A signal within the last evaluation leaves the run unfinished: a resume makes it.
            complete = at_end and (not evaluators or host.evaluated_step == step)
            status = "finished" if complete else "early_stopped" if stale else ""
            status = status or ("interrupted" if stop.requested else "")
            due = step > 0 and is_due(step, cfg.checkpoint_every_steps)
            if new_best or (step != saved_step and (status or due)):
                if meter.in_flight:
                    jax.block_until_ready(pending[-1][1]["loss"])
                    meter.finished()
                metric = host.score_at(step, cfg.best_metric)
                with progress.phase(f"save step {step:,}"):
                    store.save(step, state, host.to_json(), metric=metric)
                run.event("save", step=step)
                saved_step = step
            if status:
                break

            # ---- batch --------------------------------------------------------------------------
            fault_point("loop.batch", step=step)
            meter.start_step()
            micro_batches = list(itertools.islice(stream, cfg.accumulation_steps))
            facts_here = [fact for _, fact in micro_batches]
            meter.got_batch(facts_here)

            # ---- step ---------------------------------------------------------------------------
            num_compiles = len(compiles)
            state, metrics = run_step(state, [batch for batch, _ in micro_batches])
            step += 1
            host.consume(facts_here)
            compiled = len(compiles) > num_compiles
            if meter.in_flight:  # at most two steps in flight; the host waits but fetches nothing
                jax.block_until_ready(pending[-1][1]["loss"])
                meter.finished(compiled=compiled)
            pending.append((step, metrics))
            for report in compiles[num_compiles:]:
                progress.line(report.line())
            meter.dispatched(facts_here, compiled=compiled)
            progress.tick(step, cfg.num_steps)
            fault_point("loop.step_done", step=step)

            # ---- log ----------------------------------------------------------------------------
            at_log = is_due(step, cfg.log_every_steps) or is_due(step, cfg.eval_every_steps)
            if at_log or step >= cfg.num_steps:
                jax.block_until_ready(metrics["loss"])
                meter.finished()
                fetched, pending = jax.device_get(pending), []
                row = log_row(fetched[-1][1])
                row |= {**meter.read(), "tokens_seen": host.tokens, "batch_hash": host.batch_hash}
                writers.write(step, row)
                watch_bad_steps(fetched, names, limit=cfg.max_bad_steps, progress=progress, run=run)
                run.set_status("running", step=step, num_steps=cfg.num_steps)
                progress.step(step_view(step, cfg.num_steps, row, meter=meter, saved=saved_step))
                fault_point("loop.logged", step=step)
        with progress.phase("save"):
            store.wait()
        if step not in store.steps():
            raise StorageError(f"the last checkpoint (step {step}) could not be written")
    run.set_status(status, step=step, num_steps=cfg.num_steps)
    run.event(status, step=step)
    exit_code = EXIT_INTERRUPTED if status == "interrupted" else 0
    outcome = Outcome(status, step, cfg.num_steps, exit_code, state, host)
    total = time.perf_counter() - started
    work = f"{step - first_step:,} in this process, {len(compiles)} programs compiled"
    trouble = f"{store.num_failed_saves} failed saves"
    lines = summarise(outcome, run, meter, progress, total=total, work=work, trouble=trouble)
    heads = itertools.chain(["next"], itertools.repeat(""))
    lines += [f"  {head:<15}{command}" for head, command in zip(heads, next_commands)]
    for line in lines:
        progress.line(line)
    return outcome


def open_store(
    cfg: TrainConfig,
    run: RunDirectory,
    *,
    identity: Mapping[str, Any] | None,
    identity_defaults: Mapping[str, Any] | None,
    facts: Mapping[str, Any] | None,
    report: Callable[[str], None],
) -> CheckpointStore:
    """The checkpoints of a run, cleaned of what a killed process left behind."""
    store = CheckpointStore(
        run.path,
        keep_last=cfg.keep_checkpoints,
        keep_every=cfg.keep_every_steps,
        asynchronous=cfg.async_checkpoints,
        identity=identity,
        identity_defaults=identity_defaults,
        facts={"code_version": code_version(), "metric_name": cfg.best_metric, **(facts or {})},
        report=report,
    )
    store.clean()
    return store


def evaluate_all(
    evaluators: Sequence[Evaluator], state: TrainState, step: int
) -> tuple[dict[str, float], list[Mapping[str, str]]]:
    """The values and samples of all evaluators, on the moving average where there is one."""
    params = state.params if state.ema is None else overlay(state.params, state.ema)
    values: dict[str, float] = {}
    samples: list[Mapping[str, str]] = []
    for evaluator in evaluators:
        measured, texts = evaluator(params, step)
        values.update(measured)
        samples.extend(texts)
    return values, samples


def is_due(step: int, every: int) -> bool:
    """Whether something done every so many steps (0 = never) is done at `step`."""
    return every > 0 and step % every == 0
