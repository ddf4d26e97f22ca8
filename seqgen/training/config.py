"""Options of the optimiser, the training run and the device mesh."""

import dataclasses

from seqgen.types import option

LOWER_IS_BETTER = (
    *("loss", "nll", "perplexity", "bits_per_byte", "bits_per_char", "bytes", "ms"),
    *("ter", "wer", "cer", "per", "error", "error_rate"),
)


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """How gradients become updates (built by `seqgen.training.optimizer.build_optimizer`)."""

    name: str = option(
        "adam", help="update rule", choices=("adam", "adamw", "adafactor", "sgd"), open_choices=True
    )
    learning_rate: float = option(
        1e-3, help="highest learning rate: the one at the end of the warm-up", minimum=0.0
    )
    schedule: str = option(
        "constant",
        help="course of the learning rate after the warm-up; noam = inverse_sqrt",
        choices=("noam", "inverse_sqrt", "cosine", "linear", "constant"),
    )
    warmup_steps: int = option(
        0, help="updates of linear rise from 0 to learning_rate (0 = none)", minimum=0
    )
    decay_steps: int = option(
        0,
        help="update at which cosine and linear reach their end (0 = train.num_steps)",
        minimum=0,
    )
    final_learning_rate_fraction: float = option(
        0.0, help="cosine and linear end at this part of learning_rate", minimum=0.0, maximum=1.0
    )
    b1: float = option(0.9, help="decay of Adam's first moment", minimum=0.0, maximum=1.0)
    b2: float = option(0.999, help="decay of Adam's second moment", minimum=0.0, maximum=1.0)
    eps: float = option(1e-8, help="Adam's guard against division by zero", minimum=0.0)
    weight_decay: float = option(
        0.0, help="decoupled decay of matrices (adamw and adafactor)", minimum=0.0
    )
    clip_norm: float = option(
        0.0, help="largest global norm of the gradient (0 = no clipping)", minimum=0.0
    )
    momentum: float = option(0.0, help="momentum of sgd", minimum=0.0, maximum=1.0)
    freeze: tuple[str, ...] = option(
        (),
        help="regular expressions that fit whole names of parameters ('encoder/.*'), which then "
        "stay as they are; see docs/fine_tuning.md for names",
    )
    groups: tuple[str, ...] = option(
        (),
        help="learning rates by name: rules PATTERN=MULTIPLIER, the first that fits counts; "
        "0 = frozen",
    )
    layer_decay: float = option(
        1.0,
        help="the learning rate falls by this factor from layer to layer, counted from the top; "
        "embeddings are one deeper than the first layer",
        minimum=0.01,
        maximum=1.0,
    )


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """One training run. Steps are updates of the optimiser."""

    num_steps: int = option(1000, help="updates in all; a longer run continues", minimum=0)
    log_every_steps: int = option(50, help="steps between rows of metrics.jsonl", minimum=1)
    eval_every_steps: int = option(
        500, help="steps between evaluations (0 = only at the end)", minimum=0
    )
    checkpoint_every_steps: int = option(
        500, help="steps between checkpoints (0 = only at the end)", minimum=0
    )
    seed: int = option(
        0,
        help="of parameters, dropout and the order of data",
        minimum=0,
        maximum=2**31 - 1,
    )
    accumulation_steps: int = option(
        1, help="micro-batches whose gradients make one update", minimum=1
    )
    compute_dtype: str = option(
        "auto",
        help="operands of matrix products; auto measures once and writes down its choice",
        choices=("auto", "float32", "bfloat16"),
    )
    label_smoothing: float = option(
        0.0, help="share of probability spread over all classes", minimum=0.0, maximum=0.999
    )
    z_loss: float = option(
        0.0,
        help="weight of the squared log-normaliser in the training loss (PaLM: 1e-4)",
        minimum=0.0,
    )
    coverage_weight: float = option(
        1.0,
        help="weight of the coverage loss in training (model.decoder.coverage)",
        minimum=0.0,
    )
    ema_decay: float = option(
        0.0,
        help="decay of the moving average of parameters used in evaluation (0 = off)",
        minimum=0.0,
        maximum=0.99999,
    )
    teacher_forcing_rate: float = option(
        1.0,
        help="chance that a recurrent decoder reads the true word, not its own",
        minimum=0.0,
        maximum=1.0,
    )
    keep_checkpoints: int = option(2, help="newest checkpoints kept", minimum=2)
    keep_every_steps: int = option(
        0, help="checkpoints at multiples of this stay for good (0 = none)", minimum=0
    )
    best_metric: str = option(
        "eval/loss", help="evaluation value that chooses the best checkpoint", open_choices=True
    )
    patience: int = option(
        0, help="evaluations without a new best after which training ends (0 = never)", minimum=0
    )
    async_checkpoints: bool = option(True, help="write checkpoints while training goes on")
    loss_chunk_tokens: int = option(
        512, help="tokens whose logits are held at a time (0 = all)", minimum=0
    )
    max_bad_steps: int = option(
        10, help="steps in a row with a non-finite loss or gradient that end the run", minimum=1
    )
    tensorboard: bool = option(True, help="also write TensorBoard events")


@dataclasses.dataclass(frozen=True)
class InitConfig:
    """Where the first parameters come from: finished runs, or without any chance alone."""

    runs: tuple[str, ...] = option(
        (), help="run directories to begin from, each as DIR or NAME=DIR (NAMEs for init.map)"
    )
    checkpoint: str = option("best", help="of each run: best, last, avg:N or a step")
    weights: str = option(
        "ema",
        help="the moving average where a run kept one, or always the parameters themselves",
        choices=("ema", "params"),
    )
    map: tuple[str, ...] = option(
        (),
        help="rules 'PATTERN -> REPLACEMENT': PATTERN is searched at the start of each name of the "
        "new model, and with REPLACEMENT in its place it is the name in the run (NAME:REPLACEMENT "
        "says in which); the first that fits counts. Without one, names are the same in one run",
    )
    fresh: tuple[str, ...] = option(
        (), help="regular expressions that fit whole names of what starts random all the same"
    )
    use_all: bool = option(
        False, help="refuse runs of which some parameters would not be used, and not just count"
    )


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Low-rank adaptation (Hu et al. 2021): matrices stay, and learn the product of two thin ones.

    Merged on loading.
    """

    rank: int = option(0, help="columns of A and rows of B; 0 = off", minimum=0, maximum=4096)
    alpha: float = option(
        16.0, help="A B is multiplied with alpha / rank", minimum=0.001, maximum=1_000_000
    )
    targets: tuple[str, ...] = option(
        (".*/(query|value)/kernel",),
        help="regular expressions that fit whole names of matrices; of stacked layers all or none",
    )
    train: tuple[str, ...] = option(
        (), help="the same for parameters that are trained whole beside A and B, such as heads"
    )


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How devices are laid out; the product of the sizes is the number of devices used."""

    data: int = option(1, help="devices that share the batch, each with all parameters", minimum=1)
    fsdp: int = option(1, help="devices that share the batch and the parameters", minimum=1)
    tensor: int = option(1, help="devices that share each large matrix", minimum=1)
    sequence: int = option(1, help="devices that share the length of a sequence", minimum=1)
    rules: tuple[str, ...] = option(
        (), help="changes to the table of axes, such as 'embed=fsdp' or 'vocab='"
    )

    @property
    def num_devices(self) -> int:
        """Devices that this mesh needs."""
        return self.data * self.fsdp * self.tensor * self.sequence


def higher_is_better(metric: str) -> bool:
    """Whether a metric named like 'eval/bleu' improves upwards, as unknown ones are taken to."""
    name = metric.rsplit("/", 1)[-1]
    return name not in LOWER_IS_BETTER and not name.endswith("_loss")
