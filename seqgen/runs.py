"""A run directory opened for reading: its config, tokenizers, model, checkpoints, scores."""

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax

from seqgen import companions, data
from seqgen import config as config_module
from seqgen.config import Config
from seqgen.decoding.shortlist import Shortlist
from seqgen.errors import ConfigError, DataError
from seqgen.evaluation import evaluators
from seqgen.evaluation.config import METRICS
from seqgen.evaluation.labels import label_names, label_report
from seqgen.evaluation.line_statistics import require_tokenizer
from seqgen.filling import Filler
from seqgen.inference import Generator
from seqgen.labelling import TextLabeller
from seqgen.models import build_model
from seqgen.models.config import NoDecoderConfig, NoEncoderConfig
from seqgen.nn.low_rank import LowRankDefinition
from seqgen.nn.parameters import Definition
from seqgen.nn.quantization import inference_params
from seqgen.shortlists import open_shortlist
from seqgen.texts import one_line
from seqgen.training.checkpoint_reader import CheckpointReader, FoundParams
from seqgen.training.compilation import enable_compile_cache
from seqgen.training.loss import make_eval_step
from seqgen.training.sharding import Layout
from seqgen.types import Params

VAL_ALIASES = ("dev", "validation")
# Evaluation and decoding compute in float32 unless told otherwise, however a run was trained: only
# then is an answer independent of its batch, and the search's scores equal to rescored ones.
SCORING_DTYPE = "float32"
QUANTIZATIONS = ("none", "int8")


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished or running experiment, opened for reading.

    Attributes:
      path: the run directory.
      config: as it was resolved when training started.
      tokenizers: source and target.
      definition: the model, with nothing beside its own parameters.
      trained: the model as it is trained, whose parameters checkpoints hold: `definition`, or that
        with low-rank matrices beside it.
      compute_dtype: operands of the model's matrix products.
    """

    path: pathlib.Path
    config: Config
    tokenizers: data.Tokenizers
    definition: Definition
    trained: Definition
    compute_dtype: str

    @classmethod
    def open(cls, workdir: str | pathlib.Path, *, compute_dtype: str = SCORING_DTYPE) -> "Run":
        """Read `workdir`.

        Args:
          workdir: the run directory.
          compute_dtype: operands of the model's matrix products, 'float32' or 'bfloat16'.

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
        trained = build_definition(cfg, tokenizers, compute_dtype=compute_dtype)
        definition = trained.base if isinstance(trained, LowRankDefinition) else trained
        return cls(path, cfg, tokenizers, definition, trained, compute_dtype)

    def params(self, which: str | int = "best") -> Params:
        """Parameters of a checkpoint: 'best', 'last', 'avg:N' or a step."""
        return self.find_params(which).params

    def find_params(
        self,
        which: str | int = "best",
        *,
        ema: bool = True,
        report: Callable[[str], None] = lambda line: None,
    ) -> FoundParams:
        """See `CheckpointReader.find_params`; low-rank matrices are merged into the others."""
        reader = CheckpointReader(self.path, report=report)
        found = reader.find_params(self.trained.abstract, which, ema=ema)
        if not isinstance(self.trained, LowRankDefinition):
            return found
        merged = jax.device_get(jax.jit(self.trained.merge)(found.params))
        return dataclasses.replace(found, params=merged)

    def generator(
        self, params: Params, *, quantize: str = "none", shortlist: Shortlist | None = None
    ) -> Generator:
        """Text in, text out, with `params`; see `load` for `quantize`.

        Raises:
          ConfigError: an unknown `quantize`, or a run that tells labels.
        """
        if self.config.data.labelled:
            raise ConfigError(
                f"the run in {self.path} tells labels and writes no text",
                details=["in Python      seqgen.load_labeller(workdir).classify(texts), or tag"],
            )
        return make_generator(
            self.config,
            self.definition,
            self._inference_params(params, quantize),
            self.tokenizers,
            shortlist=shortlist,
        )

    def filler(self, params: Params, *, quantize: str = "none") -> Filler:
        """A masked language model with `params`; see `load` for `quantize`.

        Raises:
          ConfigError: an unknown `quantize`.
        """
        return Filler(
            self.definition,
            self._inference_params(params, quantize),
            self.tokenizers.target,
            self.config.decode,
            max_len=_position_limit(self.config.model.encoder),
        )

    def _inference_params(self, params: Params, quantize: str) -> Params:
        if quantize not in QUANTIZATIONS:
            raise ConfigError(
                f"quantize {quantize!r} is not known",
                details=[f"it takes       {' or '.join(QUANTIZATIONS)}"],
            )
        return inference_params(
            params,
            self.definition.summed_axes,
            compute_dtype=self.compute_dtype,
            int8=quantize == "int8",
        )

    def labeller(self, params: Params) -> TextLabeller:
        """Text in, labels out, with `params`.

        Raises:
          ConfigError: a run that writes text.
        """
        if not self.config.data.labelled:
            raise ConfigError(
                f"the run in {self.path} writes text and tells no labels",
                details=["in Python      seqgen.load(workdir).generate(texts)"],
            )
        return make_labeller(self.config, self.definition, params, self.tokenizers)

    def prepare(self, data_dir: str | None = None) -> data.TextData:
        """The corpus that the run was trained on; `data_dir`: where it is now, if it was moved.

        Raises:
          DataError: it is not there.
        """
        cfg = self.config
        data_cfg = dataclasses.replace(cfg.data, dir=data_dir) if data_dir else cfg.data
        return data.prepare(data_cfg, cfg.tokenizer, workdir=self.path, tokenizers=self.tokenizers)

    def shortlist(self, size: int, *, data_dir: str | None = None) -> Shortlist | None:
        """See `shortlists.open_shortlist`; `data_dir`: of the corpus, if it was moved.

        Raises:
          ConfigError: also if the run knows no sources.
        """
        if size and (self.config.data.contiguous or reads_prompts(self.config)):
            raise ConfigError(
                f"shortlist={size}: this run was trained on text without sources",
                details=["a shortlist holds translations of what a source says"],
            )
        return open_shortlist(
            size, self.path, self.tokenizers, prepare=lambda: self.prepare(data_dir)
        )


def load(
    workdir: str | pathlib.Path | Sequence[str | pathlib.Path],
    *,
    checkpoint: str | int = "best",
    compute_dtype: str = SCORING_DTYPE,
    quantize: str = "none",
    shortlist: int = 0,
    ensemble_mean: str = "probs",
    draft: str | pathlib.Path | None = None,
) -> Generator | Filler:
    """A trained model, or several as one, ready to answer text, or to fill hidden tokens.

    The latter is what a masked language model does.

    Args:
      workdir: the run directory; of an ensemble several, whose first one gives the options.
      checkpoint: 'best', 'last', 'avg:N' (mean of the newest N) or a step.
      compute_dtype: 'float32', or 'bfloat16': operands of the matrix products are rounded, which is
        faster on most machines, and a line's answer may then depend on its batch.
      quantize: 'none', or 'int8': matrices are held in 8 bits with a scale for each channel, and
        what they are multiplied with is rounded to 8 bits row by row. Attention and recurrent
        products stay in `compute_dtype`.
      shortlist: answers are made of so many likeliest translations of each token of their source
        and the most frequent tokens (see `Run.shortlist`); 0 = of the whole vocabulary.
      ensemble_mean: of several runs, 'probs' (the mean of their probabilities) or 'log_probs' (of
        their log-probabilities, normalised again).
      draft: directory of a smaller run of the same vocabulary, which proposes tokens that the model
        checks several at once: the same greedy text in fewer passes.

    Raises:
      ConfigError: there is no run or no such checkpoint, an option is not known, or the runs do
        not share a vocabulary.
      CheckpointError: no checkpoint can be used.
      DataError: a shortlist is wanted, and cannot be learnt or belongs to other tokenizers.
    """
    enable_compile_cache()
    paths = [workdir] if isinstance(workdir, str | pathlib.Path) else list(workdir)
    opened = [Run.open(path, compute_dtype=compute_dtype) for path in paths]
    run = opened[0]
    if len(opened) == 1 and draft is None and isinstance(run.config.model.decoder, NoDecoderConfig):
        run.shortlist(shortlist)  # refused
        return run.filler(run.params(checkpoint), quantize=quantize)
    if len(opened) == 1:
        params = run.params(checkpoint)
        answering = run.generator(params, quantize=quantize, shortlist=run.shortlist(shortlist))
    else:
        answering = _join(
            opened, checkpoint, quantize=quantize, shortlist=shortlist, ensemble_mean=ensemble_mean
        )
    return answering if draft is None else _add_draft(answering, opened[0], draft, quantize)


def _add_draft(
    answering: Generator, run: Run, draft: str | pathlib.Path, quantize: str
) -> Generator:
    proposing = Run.open(draft, compute_dtype=run.compute_dtype)
    if answering.has_shortlist:
        raise ConfigError(
            "a shortlist with a draft, which proposes tokens of the whole vocabulary",
            details=["leave out      one of them"],
        )
    return companions.with_draft(
        answering,
        proposing.generator(proposing.params(), quantize=quantize),
        (str(run.path), str(proposing.path)),
    )


def _join(
    opened: Sequence[Run],
    checkpoint: str | int,
    *,
    quantize: str,
    shortlist: int,
    ensemble_mean: str,
) -> Generator:
    if shortlist:
        raise ConfigError(
            f"shortlist={shortlist} with an ensemble of {len(opened)} runs",
            details=["its members are normalised over the whole vocabulary: leave it out"],
        )
    parts = [run.generator(run.params(checkpoint), quantize=quantize) for run in opened]
    return companions.join(parts, [str(run.path) for run in opened], mean=ensemble_mean)


def load_labeller(
    workdir: str | pathlib.Path,
    *,
    checkpoint: str | int = "best",
    compute_dtype: str = SCORING_DTYPE,
) -> TextLabeller:
    """A trained classifier or tagger ready for text; see `load`.

    Raises:
      ConfigError: there is no run or no such checkpoint, or the run writes text.
      CheckpointError: no checkpoint can be used.
    """
    enable_compile_cache()
    run = Run.open(workdir, compute_dtype=compute_dtype)
    return run.labeller(run.params(checkpoint))


def build_definition(cfg: Config, tokenizers: data.Tokenizers, *, compute_dtype: str) -> Definition:
    """The model of a config as it is trained, computing in 'float32' or 'bfloat16'.

    Raises:
      ConfigError: targets of low-rank adaptation that fit no matrix; see `build_model`.
    """
    base = build_model(
        cfg.model,
        source_vocab_size=tokenizers.source.vocab_size,
        target_vocab_size=tokenizers.target.vocab_size,
        compute_dtype=compute_dtype,
    )
    if not cfg.lora.rank:
        return base
    return LowRankDefinition(
        base,
        rank=cfg.lora.rank,
        alpha=cfg.lora.alpha,
        targets=cfg.lora.targets,
        also_trained=cfg.lora.train,
    )


def reads_prompts(cfg: Config) -> bool:
    """Whether the model knows no sources: a decoder alone, of text or of targets."""
    encoder = cfg.model.encoder
    alone = isinstance(encoder, NoEncoderConfig)
    return alone and (cfg.data.contiguous or not encoder.source_prefix)


def make_generator(
    cfg: Config,
    definition: Definition,
    params: Params,
    tokenizers: data.Tokenizers,
    *,
    shortlist: Shortlist | None = None,
) -> Generator:
    """A `Generator` with the limits that the model's position tables set."""
    encoder = cfg.model.encoder
    source_limit, target_limit = _position_limit(encoder), _position_limit(cfg.model.decoder)
    prefixed = isinstance(encoder, NoEncoderConfig) and not reads_prompts(cfg)
    if target_limit is not None and prefixed:
        source_limit = cfg.data.max_source_len  # both stand in the decoder's table
        target_limit -= source_limit
    return Generator(
        definition,
        params,
        tokenizers.source,
        tokenizers.target,
        cfg.decode,
        max_source_len=source_limit,
        max_target_len=target_limit,
        reads_prompts=reads_prompts(cfg),
        shortlist=shortlist,
    )


def _position_limit(part: Any) -> int | None:
    """Length of a table of learned positions; None = there is none."""
    return part.max_positions if getattr(part, "positions", "") == "learned" else None


def make_labeller(
    cfg: Config, definition: Definition, params: Params, tokenizers: data.Tokenizers
) -> TextLabeller:
    """A `TextLabeller` that cuts texts as training does."""
    assert isinstance(tokenizers.target, data.LabelTokenizer), "the config's check sees to it"
    return TextLabeller(
        definition,
        params,
        tokenizers.source,
        tokenizers.target,
        max_source_len=cfg.data.max_source_len,
        decode_config=cfg.decode,
    )


def read_labels(tokenizers: data.Tokenizers, examples: Sequence[data.Pair]) -> list[list[str]]:
    """The labels of each example.

    Raises:
      DataError: one that the training data does not have.
    """
    assert isinstance(tokenizers.target, data.LabelTokenizer)
    return [tokenizers.target.read(example["target"]) for example in examples]


def _evaluate_labels(
    run: Run,
    *,
    split: str,
    checkpoint: str | int,
    text: data.TextData,
    progress: Callable[[int], None] | None,
) -> tuple[dict[str, Any], list[data.Pair], list[str]]:
    """`evaluate` of a run that tells labels: 'split', the names of `label_report`, 'examples'."""
    labeller = run.labeller(run.params(checkpoint))
    examples = text.examples(split)
    targets = read_labels(run.tokenizers, examples)
    found = labeller.log_probs(
        [example["source"] for example in examples], progress=progress or (lambda count: None)
    )
    report = {"split": split, **label_report(found, targets, labeller.labels)}
    hypotheses = [label_names(row, labeller.labels) for row in found]
    return {**report, "examples": len(examples)}, examples, hypotheses


def evaluate(
    workdir: str | pathlib.Path | Sequence[str | pathlib.Path],
    *,
    split: str | None = None,
    checkpoint: str | int = "best",
    overrides: Mapping[str, Any] | None = None,
    metrics: Sequence[str] = (),
    base_metrics: Sequence[str] | None = None,
    data_dir: str | None = None,
    compute_dtype: str = SCORING_DTYPE,
    quantize: str = "none",
    shortlist: int = 0,
    ensemble_mean: str = "probs",
    draft: str | pathlib.Path | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[dict[str, Any], list[data.Pair], list[str]]:
    """Score a run, or an ensemble of several, on a split.

    Args:
      workdir: the run directory; of an ensemble several, whose first one gives corpus and rules.
      split: a file stem; 'test' means the only split whose name starts with it. None = 'test', or
        'val' where the corpus has no split that starts so.
      checkpoint: 'best', 'last', 'avg:N' or a step.
      overrides: decoding options, such as {'num_beams': 5}.
      metrics: reported beside `base_metrics`; names of `evaluation.metrics`.
      base_metrics: None = `METRICS` and those of the run's config.
      data_dir: of the corpus, if it is no longer where it was.
      compute_dtype: of loss and answers alike; see `load`.
      quantize, shortlist: of the answers alone; see `load`.
      ensemble_mean, draft: see `load`.
      progress: called with the number of decoded lines.

    Returns:
      The report (see `evaluation.evaluators.split_report`), the examples, the hypotheses (each on
      one line, as they are scored and as they are written). Of a run on text without sources:
      `text_report`, and two empty lists. Of one that tells labels: 'split', the names of
      `evaluation.labels.label_report` and 'examples', the examples, their labels as text.

    Raises:
      ConfigError: no such run or checkpoint.
      DataError: no such split.
    """
    enable_compile_cache()
    paths = [workdir] if isinstance(workdir, str | pathlib.Path) else list(workdir)
    opened = [Run.open(path, compute_dtype=compute_dtype) for path in paths]
    run = opened[0]
    cfg = run.config
    rules = cfg.evaluation
    require_tokenizer(rules)
    if base_metrics is None:
        base_metrics = (*METRICS, *rules.metrics)
    text = run.prepare(data_dir)
    if split is None:
        split = "test" if any(name.startswith("test") for name in text.splits) else "val"
    split = pick_split(split, text.splits)
    if cfg.data.labelled:
        return _evaluate_labels(
            run, split=split, checkpoint=checkpoint, text=text, progress=progress
        )
    together = None
    if len(opened) > 1:
        together = _join(
            opened, checkpoint, quantize="none", shortlist=shortlist, ensemble_mean=ensemble_mean
        )
        if cfg.data.streams or cfg.data.objective.name != "causal":
            raise ConfigError(
                "an ensemble is measured on pairs, and on plain text in blocks",
                details=["else           evaluate its members apart"],
            )
        params, eval_step = together.params, companions.make_eval_step(together.definition)
    else:
        params = jax.device_put(run.params(checkpoint))
        eval_step = make_eval_step(
            run.definition,
            train_cfg=cfg.train,
            layout=Layout.of(type(cfg.mesh)()),
            compute_dtype=compute_dtype,
            streams=cfg.data.streams,
        )
    values = evaluators.teacher_forced_values(eval_step, params, text.eval_batches(split))
    if cfg.data.contiguous:
        objective = cfg.data.objective.name
        size = text.text_size(split) if objective == "causal" else None
        report = evaluators.text_report(split=split, values=values, size=size, objective=objective)
        return report, [], []
    if together is None:
        generator = run.generator(
            params, quantize=quantize, shortlist=run.shortlist(shortlist, data_dir=data_dir)
        )
    elif quantize == "none":
        generator = together
    else:
        generator = _join(
            opened, checkpoint, quantize=quantize, shortlist=0, ensemble_mean=ensemble_mean
        )
    if draft is not None:
        generator = _add_draft(generator, run, draft, quantize)
    examples = text.examples(split)
    sources = [example["source"] for example in examples]
    hypotheses = [
        one_line(answers[0].text)
        for answers in generator.stream(sources, progress=progress, **(overrides or {}))
    ]
    report = evaluators.split_report(
        split=split,
        examples=examples,
        hypotheses=hypotheses,
        teacher_forced=values,
        cfg=rules,
        metrics=tuple(dict.fromkeys((*base_metrics, *metrics))),
    )
    return report, examples, hypotheses


def pick_split(wanted: str, splits: Iterable[str]) -> str:
    """The split called `wanted`; 'dev' is 'val', and 'test' also the only one that starts so.

    Raises:
      DataError: none or several fit; those that exist are listed.
    """
    names = sorted(splits)
    if wanted in names:
        return wanted
    if wanted in VAL_ALIASES and "val" in names:
        return "val"
    fitting = [name for name in names if wanted == "test" and name.startswith("test")]
    if len(fitting) == 1:
        return fitting[0]
    cause = f"several splits are called {wanted}*" if fitting else f"no split {wanted!r}"
    raise DataError(cause, details=[f"there are      {', '.join(fitting or names)}"])
