"""One experiment put together and trained: from a config to a run directory."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import jax

from seqgen import config as config_module
from seqgen import config_schema, data
from seqgen.config import Config
from seqgen.errors import ConfigError
from seqgen.evaluation import evaluators
from seqgen.inference import Generator
from seqgen.nn.parameters import Definition
from seqgen.runs import SCORING_DTYPE, build_definition, make_generator
from seqgen.training import loop, run_directory
from seqgen.training.compilation import enable_compile_cache
from seqgen.training.precision import resolve_compute_dtype
from seqgen.training.progress import Progress, make_progress
from seqgen.training.sharding import Layout, rows_multiple
from seqgen.training.step import make_eval_step
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
) -> loop.Outcome:
    """Train `cfg` in `workdir`, from its newest checkpoint if there is one.

    Args:
      cfg: a checked config.
      workdir: the run directory; made if it is not there.
      overrides: what was typed over the config file, for the record.
      fresh: throw away what a run has written there and start from step 0.
      progress: display; made for stderr by default.

    Raises:
      ConfigError: the directory belongs to another experiment, or another process trains there.
      DataError: the corpus cannot be used.
    """
    with run_directory.RunDirectory(workdir) as run:
        if fresh:
            run.start_over()
        progress = progress or make_progress(log=run.log)
        enable_compile_cache()
        cfg = _resolve(cfg, run, progress)
        with progress.phase("prepare data"):
            text = data.prepare(cfg.data, cfg.tokenizer, workdir=run.path, report=progress.line)
        run.write_config(config_schema.to_dict(cfg), overrides=overrides)
        for change in run.write_environment():
            progress.line(f"environment: {change}")
            run.event("environment", change=change)
        dtype = cfg.train.compute_dtype
        definition = build_definition(cfg, text.tokenizers, compute_dtype=dtype)
        progress.line(_model_line(definition, text))

        def batches(position: int) -> Any:
            return text.train_batches(
                position, rows_multiple=rows_multiple(cfg.mesh), seed=cfg.train.seed
            )

        return loop.train(
            definition,
            train_cfg=cfg.train,
            optimizer_cfg=cfg.optimizer,
            compute_dtype=dtype,
            batches=batches,
            run=run,
            mesh_cfg=cfg.mesh,
            evaluators=_evaluators(cfg, text),
            identity=_identity(cfg) | {"corpus and tokenizers": text.fingerprint},
            facts={"config_hash": config_module.digest(cfg)},
            progress=progress,
        )


def _resolve(cfg: Config, run: run_directory.RunDirectory, progress: Progress) -> Config:
    """`cfg` with its 'auto' choices made, as an earlier start of this run made them.

    Raises:
      ConfigError: the run was started with another model, tokenizer or order of data.
    """
    if (run.path / "config.json").exists() and any((run.path / "checkpoints").glob("[0-9]*")):
        stored = config_module.read_json(run.path / "config.json")
        changed = _differences(_identity(stored), _identity(cfg))
        if changed:
            raise ConfigError(
                f"{run.path} holds a run of another experiment",
                details=[*changed, "take another --workdir, or start over with --fresh"],
            )
        if cfg.train.compute_dtype == "auto":
            return _with_dtype(cfg, stored.train.compute_dtype)
    wanted = cfg.train.compute_dtype
    return _with_dtype(cfg, resolve_compute_dtype(wanted, report=progress.line))


def _with_dtype(cfg: Config, compute_dtype: str) -> Config:
    return dataclasses.replace(
        cfg, train=dataclasses.replace(cfg.train, compute_dtype=compute_dtype)
    )


def _identity(cfg: Config) -> dict[str, Any]:
    """What a run is bound to: the model, the tokenizer, and what decides the order of batches."""
    options = config_schema.to_dict(cfg.data)
    return {
        "model": config_schema.to_dict(cfg.model),
        "tokenizer": config_schema.to_dict(cfg.tokenizer),
        "data": {name: options[name] for name in options if name not in UNBOUND_DATA_OPTIONS},
        "train": {"seed": cfg.train.seed, "accumulation_steps": cfg.train.accumulation_steps},
        "optimizer": {"name": cfg.optimizer.name},
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


def _evaluators(cfg: Config, text: data.TextData) -> list[loop.Evaluator]:
    split = cfg.evaluation.split
    if split not in text.splits:
        return []
    limit = cfg.evaluation.max_examples
    definition = build_definition(cfg, text.tokenizers, compute_dtype=SCORING_DTYPE)
    eval_step = make_eval_step(
        definition,
        train_cfg=cfg.train,
        layout=Layout.of(cfg.mesh),
        compute_dtype=SCORING_DTYPE,
    )
    generators: list[Generator] = []  # made at the first evaluation, then given new parameters

    def translate(params: Params, sources: Sequence[str]) -> list[str]:
        if not generators:
            generators.append(make_generator(cfg, definition, params, text.tokenizers))
        generators[0].params = params
        options = {"num_beams": cfg.evaluation.num_beams, "num_return_sequences": 1}
        answers = generators[0].generate(sources, do_sample=False, **options)
        return [hypotheses[0].text for hypotheses in answers]

    combined = evaluators.combine(
        [
            evaluators.teacher_forced_evaluator(
                eval_step, lambda: text.eval_batches(split, max_examples=limit)
            ),
            evaluators.decoded_evaluator(
                translate, text.examples(split, max_examples=limit), cfg.evaluation
            ),
        ]
    )

    def evaluate_run(params: Params, step: int) -> tuple[dict[str, float], list[dict[str, str]]]:
        values, samples = combined(params, step)
        return values, [dataclasses.asdict(sample) for sample in samples]

    return [evaluate_run]


def _model_line(definition: Definition, text: data.TextData) -> str:
    count = sum(leaf.size for leaf in jax.tree.leaves(definition.abstract))
    pairs = text.report["splits"].get("train", {}).get("pairs_used", 0)
    return (
        f"model: {count / 1e6:.2f} M parameters; vocabulary "
        f"{text.source_tokenizer.vocab_size:,} -> {text.target_tokenizer.vocab_size:,}; "
        f"{pairs:,} training pairs"
    )
