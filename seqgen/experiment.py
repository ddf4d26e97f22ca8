"""One experiment put together: from a config to a trained run, from a run directory to text.

Here the packages meet. The command line calls `train`, `evaluate` and `load`; so do programs.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from seqgen import config as config_module
from seqgen import config_schema, data
from seqgen.config import Config
from seqgen.errors import ConfigError, DataError
from seqgen.evaluation import evaluators
from seqgen.inference import Generator
from seqgen.models import build_model
from seqgen.nn.parameters import Definition
from seqgen.training import checkpoint, loop, run_directory
from seqgen.training.compilation import enable_compile_cache
from seqgen.training.precision import resolve_compute_dtype
from seqgen.training.progress import Progress, make_progress
from seqgen.training.sharding import Layout, rows_multiple
from seqgen.training.step import make_eval_step
from seqgen.types import Params, Tokenizer

# Options of `data` that do not change which batch comes at which step.
UNBOUND_DATA_OPTIONS = ("dir", "cache_dir", "prefetch")


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished or running experiment, opened for reading.

    Attributes:
      path: the run directory.
      config: as it was resolved when training started.
      tokenizers: source and target.
      definition: the model.
    """

    path: pathlib.Path
    config: Config
    tokenizers: data.Tokenizers
    definition: Definition

    @classmethod
    def open(cls, workdir: str | pathlib.Path) -> "Run":
        """Read `workdir`.

        Raises:
          ConfigError: it holds no run.
        """
        path = pathlib.Path(workdir)
        if not (path / "config.json").exists():
            raise ConfigError(
                f"no run in {path}",
                details=[
                    "a run directory holds config.json, tokenizer/ and checkpoints/",
                    f"make one       seqgen train --config=FILE.py --workdir={path}",
                ],
            )
        cfg = config_module.read_json(path / "config.json")
        tokenizers = data.load_tokenizers(path / "tokenizer")
        return cls(path, cfg, tokenizers, build_definition(cfg, tokenizers))

    def params(self, which: str | int = "best") -> Params:
        """Parameters of a checkpoint: 'best', 'last', 'avg:N' or a step."""
        store = checkpoint.CheckpointStore(self.path, asynchronous=False)
        return store.restore_params(self.definition.abstract, which)

    def generator(self, which: str | int = "best") -> Generator:
        """Text in, text out, with the parameters of a checkpoint."""
        return make_generator(self.config, self.definition, self.params(which), self.tokenizers)


def load(workdir: str | pathlib.Path, *, checkpoint: str | int = "best") -> Generator:
    """A trained model ready to answer text.

    Args:
      workdir: the run directory.
      checkpoint: 'best', 'last', 'avg:N' (mean of the newest N) or a step.

    Raises:
      ConfigError: there is no run or no such checkpoint.
      CheckpointError: no checkpoint can be used.
    """
    enable_compile_cache()
    return Run.open(workdir).generator(checkpoint)


def build_definition(cfg: Config, tokenizers: data.Tokenizers) -> Definition:
    """The model of a resolved config (`train.compute_dtype` is not 'auto' any more)."""
    return build_model(
        cfg.model,
        source_vocab_size=tokenizers.source.vocab_size,
        target_vocab_size=tokenizers.target.vocab_size,
        compute_dtype=resolve_compute_dtype(cfg.train.compute_dtype),
    )


def make_generator(
    cfg: Config, definition: Definition, params: Params, tokenizers: data.Tokenizers
) -> Generator:
    """A `Generator` with the limits that the model's position tables set."""

    def limit(part: Any) -> int | None:
        return part.max_positions if getattr(part, "positions", "") == "learned" else None

    def prepared(tokenizer: Tokenizer) -> Tokenizer:
        return _Lowercased(tokenizer) if cfg.data.lowercase else tokenizer

    return Generator(
        definition,
        params,
        prepared(tokenizers.source),
        prepared(tokenizers.target),
        cfg.decode,
        max_source_len=limit(cfg.model.encoder),
        max_target_len=limit(cfg.model.decoder),
    )


class _Lowercased:
    """A tokenizer behind lower-casing, for models that were trained on lower-cased text."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self.vocab_size = tokenizer.vocab_size
        self.fingerprint = tokenizer.fingerprint

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text.lower())

    def decode(self, ids: Any) -> str:
        return self._tokenizer.decode(ids)


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
        cfg = _resolve(cfg, run)
        with progress.phase("prepare data"):
            text = data.prepare(cfg.data, cfg.tokenizer, workdir=run.path, report=progress.line)
        run.write_config(config_schema.to_dict(cfg), overrides=overrides)
        for change in run.write_environment():
            progress.line(f"environment: {change}")
        definition = build_definition(cfg, text.tokenizers)
        progress.line(_model_line(definition, text))

        def batches(position: int) -> Any:
            return text.train_batches(
                position, rows_multiple=rows_multiple(cfg.mesh), seed=cfg.train.seed
            )

        return loop.train(
            definition,
            train_cfg=cfg.train,
            optimizer_cfg=cfg.optimizer,
            compute_dtype=cfg.train.compute_dtype,
            batches=batches,
            run=run,
            mesh_cfg=cfg.mesh,
            evaluators=_evaluators(cfg, definition, text),
            identity=_identity(cfg) | {"corpus and tokenizers": text.fingerprint},
            facts={"config_hash": config_module.digest(cfg)},
            progress=progress,
        )


def evaluate(
    workdir: str | pathlib.Path,
    *,
    split: str = "test",
    checkpoint: str | int = "best",
    overrides: Mapping[str, Any] | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[dict[str, Any], list[dict[str, str]], list[str]]:
    """Score a run on a split.

    Args:
      workdir: the run directory.
      split: a file stem; 'test' means the only split whose name starts with it.
      checkpoint: 'best', 'last', 'avg:N' or a step.
      overrides: decoding options, such as {'num_beams': 5}.
      progress: called with the number of decoded lines.

    Returns:
      The report (see `evaluation.evaluators.split_report`), the examples, the hypotheses.

    Raises:
      ConfigError: no such run or checkpoint.
      DataError: no such split.
    """
    enable_compile_cache()
    run = Run.open(workdir)
    cfg = run.config
    text = data.prepare(cfg.data, cfg.tokenizer, workdir=run.path, tokenizers=run.tokenizers)
    split = pick_split(split, text.splits)
    generator = run.generator(checkpoint)
    eval_step = make_eval_step(
        run.definition,
        train_cfg=cfg.train,
        layout=Layout.of(type(cfg.mesh)()),
        compute_dtype=resolve_compute_dtype(cfg.train.compute_dtype),
    )
    values = evaluators.teacher_forced_values(eval_step, generator.params, text.eval_batches(split))
    examples = text.examples(split)
    sources = [example["source"] for example in examples]
    hypotheses = [
        answers[0].text
        for answers in generator.stream(sources, progress=progress, **(overrides or {}))
    ]
    report = evaluators.split_report(
        split=split,
        examples=examples,
        hypotheses=hypotheses,
        teacher_forced=values,
        cfg=cfg.evaluation,
    )
    return report, examples, hypotheses


def pick_split(wanted: str, splits: Iterable[str]) -> str:
    """The split called `wanted`; 'test' and 'val' also mean the only one that starts so.

    Raises:
      DataError: none or several fit; those that exist are listed.
    """
    names = sorted(splits)
    if wanted in names:
        return wanted
    fitting = [name for name in names if wanted == "test" and name.startswith("test")]
    if len(fitting) == 1:
        return fitting[0]
    cause = f"several splits are called {wanted}*" if fitting else f"no split {wanted!r}"
    raise DataError(cause, details=[f"there are      {', '.join(fitting or names)}"])


def _resolve(cfg: Config, run: run_directory.RunDirectory) -> Config:
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
    return _with_dtype(cfg, resolve_compute_dtype(cfg.train.compute_dtype))


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


def _evaluators(cfg: Config, definition: Definition, text: data.TextData) -> list[loop.Evaluator]:
    split = cfg.evaluation.split
    if split not in text.splits or not cfg.train.eval_every_steps:
        return []
    limit = cfg.evaluation.max_examples
    eval_step = make_eval_step(
        definition,
        train_cfg=cfg.train,
        layout=Layout.of(cfg.mesh),
        compute_dtype=cfg.train.compute_dtype,
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
    import jax

    count = sum(leaf.size for leaf in jax.tree.leaves(definition.abstract))
    pairs = text.report["splits"].get("train", {}).get("pairs_used", 0)
    return (
        f"model: {count / 1e6:.2f} M parameters; vocabulary "
        f"{text.source_tokenizer.vocab_size:,} -> {text.target_tokenizer.vocab_size:,}; "
        f"{pairs:,} training pairs"
    )
