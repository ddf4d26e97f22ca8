"""Runs made ready to answer: one alone, several as one, with a draft, or labelling."""

import pathlib
from collections.abc import Sequence

from seqgen import companions
from seqgen.building import SCORING_DTYPE
from seqgen.errors import ConfigError
from seqgen.filling import Filler
from seqgen.inference import Generator
from seqgen.labelling import TextLabeller
from seqgen.runs import Run, check_quantize
from seqgen.training.compilation import enable_compile_cache
from seqgen.types import Params


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
      ConfigError: there is no run or no such checkpoint, an option is not known, the runs do not
        share a vocabulary, or one tells labels (see `load_labeller`).
      CheckpointError: no checkpoint can be used.
      DataError: a shortlist is wanted, and cannot be learnt or belongs to other tokenizers.
    """
    opened, proposing = open_runs(
        workdir, compute_dtype=compute_dtype, quantize=quantize, shortlist=shortlist, draft=draft
    )
    run = opened[0]
    candidates = run.shortlist(shortlist)
    if len(opened) == 1 and proposing is None and run.fills:
        return run.filler(run.params(checkpoint), quantize=quantize)
    for each in (*opened, *([proposing] if proposing else [])):
        each.check_writes()
    read = [each.params(checkpoint) for each in opened]
    if len(opened) == 1:
        answering = run.generator(read[0], quantize=quantize, shortlist=candidates)
    else:
        answering = join(opened, read, quantize=quantize, ensemble_mean=ensemble_mean)
    return answering if proposing is None else add_draft(answering, run, proposing, quantize)


def open_runs(
    workdir: str | pathlib.Path | Sequence[str | pathlib.Path],
    *,
    compute_dtype: str,
    quantize: str,
    shortlist: int,
    draft: str | pathlib.Path | None,
) -> tuple[list[Run], Run | None]:
    """The runs that are to answer together, and the one that drafts for them; nothing is read yet.

    Args: see `load`.

    Raises:
      ConfigError: there is no run, or an option is not known or does not go with another.
    """
    enable_compile_cache()
    paths = [workdir] if isinstance(workdir, str | pathlib.Path) else list(workdir)
    check_quantize(quantize)
    _check_shortlist(shortlist, num_runs=len(paths), draft=draft)
    opened = [Run.open(path, compute_dtype=compute_dtype) for path in paths]
    proposing = None if draft is None else Run.open(draft, compute_dtype=compute_dtype)
    return opened, proposing


def load_labeller(
    workdir: str | pathlib.Path,
    *,
    checkpoint: str | int = "best",
    compute_dtype: str = SCORING_DTYPE,
) -> TextLabeller:
    """A trained classifier or tagger, ready to label text.

    Args:
      workdir: the run directory.
      checkpoint, compute_dtype: see `load`.

    Raises:
      ConfigError: there is no run or no such checkpoint, or the run tells no labels.
      CheckpointError: no checkpoint can be used.
    """
    enable_compile_cache()
    run = Run.open(workdir, compute_dtype=compute_dtype)
    run.check_labels()
    return run.labeller(run.params(checkpoint))


def _check_shortlist(shortlist: int, *, num_runs: int, draft: str | pathlib.Path | None) -> None:
    """Refuse a shortlist where the whole vocabulary is needed."""
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


def add_draft(answering: Generator, run: Run, proposing: Run, quantize: str) -> Generator:
    """`answering`, the text of `run`, with a smaller run that proposes tokens; see `load`.

    Raises:
      ConfigError: the runs do not share a vocabulary, or the smaller one writes no text.
    """
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
