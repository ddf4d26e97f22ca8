"""One experiment put together and trained: from a config to a run directory."""

import contextlib
import dataclasses
import functools
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from seqgen import config as config_module
from seqgen import config_schema, data, init_rules, warm_start
from seqgen.building import SCORING_DTYPE, build_definition, make_generator, make_labeller
from seqgen.config import Config
from seqgen.errors import ConfigError, SeqgenError
from seqgen.evaluation import evaluators
from seqgen.evaluation.labels import labelled_evaluator
from seqgen.evaluation.line_statistics import require_tokenizer
from seqgen.inference import Generator
from seqgen.labelling import TextLabeller
from seqgen.models.checks import check_reads_sources
from seqgen.nn.parameters import Definition
from seqgen.run_evaluation import pick_split
from seqgen.texts import one_line
from seqgen.training import loop, run_directory
from seqgen.training.checkpoint_reader import CheckpointReader
from seqgen.training.compilation import enable_compile_cache, measurements_directory
from seqgen.training.loss import make_eval_step
from seqgen.training.parameter_groups import frozen_patterns
from seqgen.training.precision import resolve_compute_dtype
from seqgen.training.progress import Progress, make_progress
from seqgen.training.sharding import Layout, rows_multiple
from seqgen.training.signals import StopSignals
from seqgen.types import Params

# Options of `data` that do not change which batch comes at which step.
UNBOUND_DATA_OPTIONS = ("dir", "cache_dir", "prefetch")


def train(
    cfg: Config,
    workdir: str | pathlib.Path,
    *,
    overrides: Sequence[str] = (),
    fresh: bool = False,
    progress: Progress | None = None,
    stop: StopSignals | None = None,
) -> loop.Outcome:
    """Train `cfg` in `workdir`, from its newest checkpoint if there is one.

    Args:
      cfg: a checked config.
      workdir: the run directory; made if it is not there.
      overrides: what was typed over the config file, for the record.
      fresh: throw away what a run has written there and start from step 0.
      progress: display; made for stderr by default.
      stop: entered here; a caller who sets its `requested` ends the run as a signal does.

    Raises:
      ConfigError: the directory belongs to another experiment, another process trains there, or
        the model has no place for the sources of the data.
      DataError: the corpus cannot be used.
    """
    if not cfg.data.contiguous:
        check_reads_sources(cfg.model)
    with contextlib.ExitStack() as stack:
        run = stack.enter_context(run_directory.RunDirectory(workdir))
        progress = progress or make_progress(log=run.log)
        stop = stack.enter_context(stop or StopSignals(progress.line))
        enable_compile_cache()
        with run.starting_over() if fresh else contextlib.nullcontext():
            cfg = _resolve(cfg, run, progress)
            with progress.phase("prepare data"):
                text = data.prepare(cfg.data, cfg.tokenizer, workdir=run.path, report=progress.line)
            dtype = cfg.train.compute_dtype
            definition = build_definition(cfg, text.tokenizers, compute_dtype=dtype)
            begin = _begin(cfg, run, definition, text.tokenizers, progress)
            evaluators = _evaluators(cfg, text, stop, report=progress.line)
            run.write_config(config_schema.to_dict(cfg), overrides=overrides)
        for change in run.write_environment():
            progress.line(f"environment: {change}")
            run.event("environment", change=change)
        progress.line(_model_line(definition, text))

        multiple = rows_multiple(cfg.mesh)

        def batches(position: int) -> Any:
            return text.train_batches(position, rows_multiple=multiple, seed=cfg.train.seed)

        return loop.train(
            definition,
            train_cfg=cfg.train,
            optimizer_cfg=cfg.optimizer,
            compute_dtype=dtype,
            batches=batches,
            run=run,
            mesh_cfg=cfg.mesh,
            carry_rows=text.carry_rows(multiple),
            evaluators=evaluators,
            begin=begin,
            identity=_identity(cfg) | {"corpus and tokenizers": text.fingerprint},
            identity_defaults=_option_defaults(cfg),
            facts={"config_hash": config_module.digest(cfg)},
            next_commands=[f"seqgen {verb} --workdir={run.path}" for verb in _next_verbs(cfg)],
            progress=progress,
            stop=stop,
        )


def _next_verbs(cfg: Config) -> list[str]:
    """What there is to do with a trained run."""
    if cfg.data.labelled:
        return ["evaluate"]
    if cfg.model.decoder.kind == "none":
        return ["evaluate", "fill"] if cfg.data.objective.rate else ["evaluate"]
    return ["evaluate", "chat" if cfg.data.source == "dialogue" else "generate"]


def _begin(
    cfg: Config,
    run: run_directory.RunDirectory,
    definition: Definition,
    tokenizers: data.Tokenizers,
    progress: Progress,
) -> Callable[[Params], Params] | None:
    """What gives a new run its first parameters; None where they are random, or saved already.

    Raises:
      ConfigError: see `warm_start.Start`; then a new run's tokenizer is gone again, so that another
        config may be tried.
    """
    if not cfg.init.runs or CheckpointReader(run.path).steps():
        return None
    try:
        with progress.phase("read the runs to begin from"):
            start = warm_start.Start(cfg, definition, tokenizers, report=progress.line)
    except SeqgenError:
        if not (run.path / "config.json").exists():
            shutil.rmtree(run.path / "tokenizer", ignore_errors=True)
        raise

    def begin(fresh: Params) -> Params:
        run.event("initialised", **start.facts)
        return start(fresh)

    return begin


def _resolve(cfg: Config, run: run_directory.RunDirectory, progress: Progress) -> Config:
    """`cfg` with its paths made whole, and its 'auto' choices made as at the run's first start.

    Raises:
      ConfigError: the run was started with another model, tokenizer or order of data.
    """
    folder = os.path.abspath(cfg.data.dir) if cfg.data.dir else ""
    cfg = dataclasses.replace(cfg, data=dataclasses.replace(cfg.data, dir=folder))
    cfg = init_rules.with_whole_paths(cfg)
    if (run.path / "config.json").exists():
        stored = config_module.read_json(run.path / "config.json")
        changed = _differences(_identity(stored), _identity(cfg))
        if changed and CheckpointReader(run.path).steps():
            raise ConfigError(
                f"{run.path} holds a run of another experiment",
                details=[*changed, "take another --workdir, or start over with --fresh"],
            )
        if not changed and cfg.train.compute_dtype == "auto":
            return _with_dtype(cfg, stored.train.compute_dtype)
    dtype = resolve_compute_dtype(
        cfg.train.compute_dtype, report=progress.line, folder=measurements_directory()
    )
    return _with_dtype(cfg, dtype)


def _with_dtype(cfg: Config, compute_dtype: str) -> Config:
    return dataclasses.replace(
        cfg, train=dataclasses.replace(cfg.train, compute_dtype=compute_dtype)
    )


def _identity(cfg: Config) -> dict[str, Any]:
    """What a run is bound to: the model, the tokenizer, and what decides the order of batches."""
    options = config_schema.to_dict(cfg.data)
    tokenizer = config_schema.to_dict(cfg.tokenizer)
    init = config_schema.to_dict(cfg.init)
    # Runs that something was taken from may have moved since, or be gone.
    init["runs"] = len(cfg.init.runs)
    if cfg.tokenizer.kind == "run":
        tokenizer |= {"path": "", "target_path": ""}
    # What the state holds beside the parameters: named where it is there, so that adding and
    # dropping it are both refused.
    extras = {"ema": cfg.train.ema_decay > 0, "momentum": cfg.optimizer.momentum > 0}
    return {
        "model": config_schema.to_dict(cfg.model),
        "tokenizer": tokenizer,
        "init": init,
        "lora": config_schema.to_dict(cfg.lora),
        "data": {name: options[name] for name in options if name not in UNBOUND_DATA_OPTIONS},
        "train": {"seed": cfg.train.seed, "accumulation_steps": cfg.train.accumulation_steps},
        "optimizer": {"name": cfg.optimizer.name, "freeze": frozen_patterns(cfg.optimizer)},
        "state": {name: True for name, there in extras.items() if there},
    }


def _option_defaults(cfg: Config) -> dict[str, Any]:
    """Dotted name -> default of every option, for checkpoints that are older than an option."""
    return {
        f"{path}.{name}": value
        for path, _, node in config_schema.nodes(cfg)
        for name, value in config_schema.defaults(type(node)).items()
    }


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        names = [*old, *(name for name in new if name not in old)]
        return [
            line
            for name in names
            for line in _differences(old.get(name), new.get(name), f"{path}.{name}".lstrip("."))
        ]
    return [] if old == new else [f"{path}: the run has {old!r}, the config says {new!r}"]


def _evaluators(
    cfg: Config, text: data.TextData, stop: StopSignals, *, report: Callable[[str], None]
) -> list[loop.Evaluator]:
    """What the loop evaluates with; nothing, and a line that says so, if there is no split `val`.

    Raises:
      ConfigError: patience waits for evaluations that cannot be made.
      DataError: the config names a split that does not exist.
    """
    split = cfg.evaluation.split
    if split == type(cfg.evaluation).split and split not in text.splits:
        if cfg.train.patience:
            raise ConfigError(
                f"train.patience={cfg.train.patience} needs evaluations, and there is no split "
                f"{split!r}",
                details=[f"there are      {', '.join(sorted(text.splits))}"],
            )
        report(f"note: no split {split!r}, so nothing is evaluated while training")
        return []
    split = pick_split(split, text.splits)
    require_tokenizer(cfg.evaluation)
    limit = cfg.evaluation.max_examples

    def batches() -> Iterator[Any]:
        for batch in text.eval_batches(split, max_examples=limit):
            stop.check()
            yield batch

    # Made at the first evaluation: the first step does not wait for them.
    @functools.cache
    def trained() -> Definition:
        return build_definition(cfg, text.tokenizers, compute_dtype=SCORING_DTYPE)

    @functools.cache
    def combined() -> evaluators.Evaluator:
        definition = trained().base
        if cfg.data.labelled:
            return _label_evaluator(cfg, text, definition, text.examples(split, limit), stop)
        eval_step = make_eval_step(
            definition,
            train_cfg=cfg.train,
            layout=Layout.of(cfg.mesh),
            compute_dtype=SCORING_DTYPE,
            streams=cfg.data.streams,
        )
        if cfg.data.contiguous:
            causal = cfg.data.objective.name == "causal"
            size = text.text_size(split, max_examples=limit) if causal else None
            return evaluators.teacher_forced_evaluator(eval_step, batches, size=size)
        plain = dataclasses.replace(cfg, decode=cfg.decode.plain(cfg.evaluation.num_beams))
        generator = make_generator(plain, definition, {}, text.tokenizers)

        def translate(params: Params, sources: Sequence[str]) -> list[str]:
            with _lent(generator, params):
                answers = generator.stream(sources, progress=lambda count: stop.check())
                return [one_line(hypotheses[0].text) for hypotheses in answers]

        examples = text.examples(split, max_examples=limit)
        return evaluators.combine(
            [
                evaluators.teacher_forced_evaluator(eval_step, batches),
                evaluators.decoded_evaluator(translate, examples, cfg.evaluation),
            ]
        )

    def evaluate_run(params: Params, step: int) -> tuple[dict[str, float], list[dict[str, str]]]:
        values, samples = combined()(trained().merge(params), step)
        return values, [dataclasses.asdict(sample) for sample in samples]

    return [evaluate_run]


def _label_evaluator(
    cfg: Config,
    text: data.TextData,
    definition: Definition,
    examples: list[data.Pair],
    stop: StopSignals,
) -> evaluators.Evaluator:
    labeller = make_labeller(cfg, definition, {}, text.tokenizers)

    def tell(params: Params, texts: Sequence[str]) -> Sequence[Any]:
        with _lent(labeller, params):
            return labeller.log_probs(texts, progress=lambda count: stop.check())

    labels = text.tokenizers.labels
    targets = labels.of_examples(examples)
    return labelled_evaluator(tell, examples, targets, labels.labels, cfg.evaluation)


@contextlib.contextmanager
def _lent(model: Generator | TextLabeller, params: Params) -> Iterator[None]:
    """`model` with these parameters, let go at the end: merged ones are a copy, and large."""
    model.params = params
    try:
        yield
    finally:
        model.params = {}


def _model_line(definition: Definition, text: data.TextData) -> str:
    used = text.report["splits"].get("train", {})
    model = f"model: {definition.num_parameters / 1e6:.2f} M parameters; vocabulary"
    source, target = text.source_tokenizer.vocab_size, text.target_tokenizer.vocab_size
    if text.cfg.contiguous:
        return f"{model} {target:,}; {used.get('tokens', 0):,} training tokens"
    return f"{model} {source:,} -> {target:,}; {used.get('pairs_used', 0):,} training pairs"
