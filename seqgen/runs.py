"""A run directory opened for reading: its config, tokenizers, model, checkpoints."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence

import jax

from seqgen import companions, data
from seqgen import config as config_module
from seqgen.building import (
    SCORING_DTYPE,
    build_definition,
    make_generator,
    position_limit,
    reads_prompts,
)
from seqgen.config import Config
from seqgen.decoding.shortlist import Shortlist
from seqgen.errors import ConfigError
from seqgen.filling import Filler
from seqgen.inference import Generator
from seqgen.models.config import NoDecoderConfig
from seqgen.nn.parameters import Definition
from seqgen.nn.quantization import inference_params
from seqgen.shortlists import open_shortlist
from seqgen.training.checkpoint_reader import CheckpointReader, FoundParams
from seqgen.training.compilation import enable_compile_cache
from seqgen.types import Params

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
        return cls(path, cfg, tokenizers, trained.base, trained, compute_dtype)

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
        merged = jax.device_get(self.trained.merge(found.params))
        return dataclasses.replace(found, params=merged)

    def generator(
        self, params: Params, *, quantize: str = "none", shortlist: Shortlist | None = None
    ) -> Generator:
        """Text in, text out, with `params`; see `load` for `quantize`.

        Raises:
          ConfigError: an unknown `quantize`, or a masked language model.
        """
        if isinstance(self.config.model.decoder, NoDecoderConfig):
            raise ConfigError(
                f"{self.path} is a masked language model, which writes no text",
                details=["alone          it fills hidden tokens: seqgen fill"],
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
            max_len=position_limit(self.config.model.encoder),
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
    check_shortlist(shortlist, num_runs=len(paths), draft=draft)
    opened = [Run.open(path, compute_dtype=compute_dtype) for path in paths]
    run = opened[0]
    if len(opened) == 1 and draft is None and isinstance(run.config.model.decoder, NoDecoderConfig):
        run.shortlist(shortlist)  # refused
        return run.filler(run.params(checkpoint), quantize=quantize)
    if len(opened) == 1:
        params = run.params(checkpoint)
        answering = run.generator(params, quantize=quantize, shortlist=run.shortlist(shortlist))
    else:
        read = [run.params(checkpoint) for run in opened]
        answering = join(opened, read, quantize=quantize, ensemble_mean=ensemble_mean)
    return answering if draft is None else add_draft(answering, opened[0], draft, quantize)


def check_shortlist(shortlist: int, *, num_runs: int, draft: str | pathlib.Path | None) -> None:
    """Refuse a shortlist where the whole vocabulary is needed.

    Raises:
      ConfigError: with several runs, or with a draft.
    """
    if shortlist and num_runs > 1:
        raise ConfigError(
            f"shortlist={shortlist} with an ensemble of {num_runs} runs",
            details=["its members are normalised over the whole vocabulary: leave it out"],
        )
    if shortlist and draft is not None:
        raise ConfigError(
            f"shortlist={shortlist} with a draft, which proposes tokens of the whole vocabulary",
            details=["leave out      one of them"],
        )


def add_draft(
    answering: Generator, run: Run, draft: str | pathlib.Path, quantize: str
) -> Generator:
    """`answering`, the text of `run`, with a smaller run that proposes tokens; see `load`.

    Raises:
      ConfigError: the runs do not share a vocabulary.
    """
    proposing = Run.open(draft, compute_dtype=run.compute_dtype)
    return companions.with_draft(
        answering,
        proposing.generator(proposing.params(), quantize=quantize),
        (str(run.path), str(proposing.path)),
    )


def join(
    opened: Sequence[Run],
    params: Sequence[Params],
    *,
    quantize: str = "none",
    ensemble_mean: str = "probs",
) -> Generator:
    """Several runs as one model; see `load`.

    Args:
      opened: the runs, the first of which gives the options.
      params: parameters of each.
      quantize, ensemble_mean: see `load`.

    Raises:
      ConfigError: runs that do not share a vocabulary.
    """
    parts = [run.generator(own, quantize=quantize) for run, own in zip(opened, params, strict=True)]
    return companions.join(parts, [str(run.path) for run in opened], mean=ensemble_mean)
