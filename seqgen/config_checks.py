"""What one field may be depends on another: checks over a whole experiment.

Types and ranges of single fields are checked where values are converted; here stand the rules
between fields. An error is what cannot work or would be ignored in silence; a note is what works
and is probably not meant.
"""

from typing import Any

from seqgen.corpus_checks import LABEL_METRICS, LOSS_METRICS, check_corpus, text_metrics
from seqgen.errors import refuse
from seqgen.evaluation.config import score_name
from seqgen.init_rules import named_runs, parse_rule
from seqgen.models.checks import check_model
from seqgen.types import nearest


def check(cfg: Any) -> None:
    """Refuse settings that contradict each other.

    Args:
      cfg: a `seqgen.config.Config`.

    Raises:
      ConfigError: the first contradiction, with the fields concerned and what to change.
    """
    check_model(
        cfg.model,
        max_source_len=cfg.data.max_source_len,
        max_target_len=cfg.data.max_target_len,
        block_len=cfg.data.block_len if cfg.data.contiguous else 0,
        labelled_len=cfg.data.max_source_len + 1 if cfg.model.tells_labels else 0,
    )
    check_corpus(cfg)
    _check_optimizer(cfg.optimizer)
    _check_init(cfg.init)
    _check_lora(cfg)
    _check_loop(cfg)


def notes(cfg: Any) -> list[str]:
    """Lines about settings that work and are probably not meant."""
    lines = []
    steps, warmup = cfg.train.num_steps, cfg.optimizer.warmup_steps
    if warmup > steps:
        lines.append(
            f"optimizer.warmup_steps={warmup} is longer than train.num_steps={steps}: the learning "
            "rate never reaches its top"
        )
    if cfg.optimizer.schedule in ("inverse_sqrt", "noam") and not warmup:
        lines.append(
            f"optimizer.schedule={cfg.optimizer.schedule} falls from the first update on: "
            "optimizer.warmup_steps=0"
        )
    tensor, fsdp = cfg.mesh.tensor, cfg.mesh.fsdp
    for name in ("encoder", "decoder"):
        part = getattr(cfg.model, name)
        for field in ("num_heads", "ff_dim", "hidden_dim"):
            size = getattr(part, field, None)
            if size is not None and size % tensor:
                lines.append(
                    f"model.{name}.{field}={size} is no multiple of mesh.tensor={tensor}: those "
                    "arrays stay whole on each device"
                )
    if cfg.model.embed_dim % fsdp:
        lines.append(
            f"model.embed_dim={cfg.model.embed_dim} is no multiple of mesh.fsdp={fsdp}: parameters "
            "stay whole on each device"
        )
    return lines


def _check_optimizer(optimizer: Any) -> None:
    adam = ("adam", "adamw")
    falling = ("cosine", "linear")
    readers = {
        "weight_decay": ("name", ("adamw", "adafactor")),
        "momentum": ("name", ("sgd",)),
        **dict.fromkeys(("b1", "b2", "eps"), ("name", adam)),
        **dict.fromkeys(("decay_steps", "final_learning_rate_fraction"), ("schedule", falling)),
    }
    for field, (chooser, names) in readers.items():
        value, chosen = getattr(optimizer, field), getattr(optimizer, chooser)
        if value != getattr(type(optimizer), field) and chosen not in names and ":" not in chosen:
            refuse(
                f"optimizer.{field}={value:g} would be ignored by optimizer.{chooser}={chosen}",
                ("it is read by", ", ".join(names)),
            )
    if 0 < optimizer.decay_steps <= optimizer.warmup_steps:
        refuse(
            f"optimizer.decay_steps={optimizer.decay_steps} ends the schedule before its "
            f"warm-up does (optimizer.warmup_steps={optimizer.warmup_steps})"
        )


def _check_init(init: Any) -> None:
    for field in ("checkpoint", "weights", "map", "fresh", "use_all"):
        value = getattr(init, field)
        if not init.runs and value != getattr(type(init), field):
            refuse(
                f"init.{field}={value!r} is of runs to begin from, and init.runs names none",
                ("name one", "--config.init.runs=runs/pretrained"),
            )
    named_runs(init.runs)
    for rule in init.map:
        parse_rule(rule)


def _check_lora(cfg: Any) -> None:
    lora = cfg.lora
    for field in ("alpha", "targets", "train"):
        if not lora.rank and getattr(lora, field) != getattr(type(lora), field):
            refuse(f"lora.{field} would be ignored: lora.rank=0", ("choose", "lora.rank=8"))
    if lora.rank and not cfg.init.runs:
        refuse(
            f"lora.rank={lora.rank} adapts a run that is there, and init.runs names none",
            ("name one", "--config.init.runs=runs/pretrained"),
        )
    if lora.rank and not lora.targets:
        refuse("lora.targets=() leaves no matrix to adapt")


def _check_loop(cfg: Any) -> None:
    train = cfg.train
    if train.teacher_forcing_rate < 1.0 and cfg.model.decoder.kind == "transformer":
        refuse(
            f"train.teacher_forcing_rate={train.teacher_forcing_rate:g} is for recurrent decoders",
            ("now", "model.decoder.kind=transformer"),
        )
    if train.teacher_forcing_rate < 1.0 and getattr(cfg.model.encoder, "source_prefix", False):
        refuse(
            f"train.teacher_forcing_rate={train.teacher_forcing_rate:g} would exchange tokens of "
            "the source, too",
            ("now", "model.encoder.source_prefix=true"),
        )
    if train.teacher_forcing_rate < 1.0 and cfg.model.copies:
        refuse(
            f"train.teacher_forcing_rate={train.teacher_forcing_rate:g} is not built for decoders "
            "that copy",
            ("choose", "train.teacher_forcing_rate=1, or model.decoder.copy=false"),
        )
    if train.coverage_weight != type(train).coverage_weight and not cfg.model.covers:
        refuse(
            f"train.coverage_weight={train.coverage_weight:g} would be ignored by "
            "model.decoder.coverage=false",
            ("choose", "model.decoder.coverage=true, of decoders that copy"),
        )
    if train.patience and not train.eval_every_steps:
        refuse("train.patience counts evaluations, and train.eval_every_steps=0 makes none")
    scores = map(score_name, cfg.evaluation.metrics)
    answers = not (cfg.data.contiguous or cfg.data.labelled)
    if answers:
        names = (*LOSS_METRICS, *scores)
    else:
        names = LABEL_METRICS if cfg.data.labelled else text_metrics(cfg)
    known = [f"eval/{name}" for name in names]
    if train.best_metric not in known:
        guess = nearest(train.best_metric, known)
        details = [("did you mean", guess)] if guess else []
        refuse(
            f"train.best_metric={train.best_metric} is measured by no evaluation",
            *details,
            ("measured are", ", ".join(known)),
            *([("scores: set", "evaluation.metrics")] if answers else []),
        )
