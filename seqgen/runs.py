"""A run directory opened for reading: its config, tokenizers, model, checkpoints."""

import dataclasses
import pathlib
from collections.abc import Callable

import jax

from seqgen import config as config_module
from seqgen import data
from seqgen.building import (
    SCORING_DTYPE,
    build_definition,
    make_generator,
    make_labeller,
    position_limit,
    reads_prompts,
)
from seqgen.config import Config
from seqgen.decoding.shortlist import Shortlist
from seqgen.errors import ConfigError, refuse
from seqgen.filling import Filler
from seqgen.inference import Generator
from seqgen.labelling import TextLabeller
from seqgen.models.config import NoDecoderConfig
from seqgen.nn.parameters import Definition
from seqgen.nn.quantization import inference_params
from seqgen.refusals import refuse_call
from seqgen.shortlists import open_shortlist
from seqgen.training.checkpoint_reader import CheckpointReader, FoundParams
from seqgen.types import Params

QUANTIZATIONS = ("none", "int8")


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished or running experiment, opened for reading.

    Attributes:
      path: the run directory.
      config: as it was resolved when training started.
      tokenizers: source and target.
      trained: the model as it is trained, whose parameters checkpoints hold: `definition`, or that
        with low-rank matrices beside it.
      compute_dtype: operands of the model's matrix products.
    """

    path: pathlib.Path
    config: Config
    tokenizers: data.Tokenizers
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
        return cls(path, cfg, tokenizers, trained, compute_dtype)

    @property
    def definition(self) -> Definition:
        """The model, with nothing beside its own parameters."""
        return self.trained.base

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
        """Text in, text out, with `params`; see `loading.load` for `quantize`.

        Raises:
          ConfigError: an unknown `quantize`, or a run that writes no text.
        """
        self.check_writes()
        return make_generator(
            self.config,
            self.definition,
            self._inference_params(params, quantize),
            self.tokenizers,
            shortlist=shortlist,
        )

    @property
    def fills(self) -> bool:
        """Whether it is a masked language model, which a `filler` asks."""
        alone = isinstance(self.config.model.decoder, NoDecoderConfig)
        return alone and not self.config.data.labelled

    def check_writes(self) -> None:
        """Refuse a run that writes no text.

        Raises:
          ConfigError: it says what to ask of the run instead.
        """
        if self.config.data.labelled:
            refuse_call("labeller", "write or fill text", run=str(self.path))
        if self.fills:
            refuse_call("filler", "write text", run=str(self.path))

    def filler(self, params: Params, *, quantize: str = "none") -> Filler:
        """A masked language model with `params`; see `loading.load` for `quantize`.

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
        check_quantize(quantize)
        return inference_params(
            params,
            self.definition.summed_axes,
            compute_dtype=self.compute_dtype,
            int8=quantize == "int8",
        )

    def labeller(self, params: Params) -> TextLabeller:
        """Text in, labels out, with `params`.

        Raises:
          ConfigError: a run that tells no labels.
        """
        self.check_labels()
        params = self._inference_params(params, "none")
        return make_labeller(self.config, self.definition, params, self.tokenizers)

    def check_labels(self) -> None:
        """Refuse a run that tells no labels.

        Raises:
          ConfigError: it says what it is.
        """
        if not self.config.data.labelled:
            refuse(
                f"{self.path} tells no labels: data.targets={self.config.data.targets}",
                ("in Python", "seqgen.load(run)"),
                ("a labeller", "train configs/classification/*.py"),
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


def check_quantize(quantize: str) -> None:
    """Refuse an unknown way to hold the matrices.

    Raises:
      ConfigError: it names those there are.
    """
    if quantize not in QUANTIZATIONS:
        raise ConfigError(
            f"quantize {quantize!r} is not known",
            details=[f"it takes       {' or '.join(QUANTIZATIONS)}"],
        )
