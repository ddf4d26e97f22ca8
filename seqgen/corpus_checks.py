"""What a corpus needs of model and tokenizer, and what of their options would be left unread."""

from typing import Any

from seqgen.data.config import CONTIGUOUS, OBJECTIVES, OF_DECODERS_ALONE, SOURCE_NAMES
from seqgen.errors import refuse
from seqgen.models.checks import refuse_stateless
from seqgen.objective_checks import check_objective

LOSS_METRICS = ("loss", "perplexity", "token_accuracy")
TEXT_METRICS = (*LOSS_METRICS, "bits_per_byte", "bits_per_char")  # of text without sources
LABEL_METRICS = ("loss", "accuracy", "macro_f1")
PAIR_METRICS = ("next_sentence_loss", "next_sentence_accuracy")


def check_corpus(cfg: Any) -> None:
    """Refuse what the data of an experiment cannot be learnt by.

    Args:
      cfg: a `seqgen.config.Config`.

    Raises:
      ConfigError: the first contradiction, with the fields concerned and what to change.
    """
    _check_sides(cfg)
    _check_contiguous(cfg)
    check_objective(cfg)
    _check_dialogue(cfg)
    _check_labels(cfg)


def _check_sides(cfg: Any) -> None:
    data, tokenizer = cfg.data, cfg.tokenizer
    has_prefix = getattr(cfg.model.encoder, "source_prefix", False)
    if data.batching == "packing" and has_prefix:
        refuse(
            "model.encoder.source_prefix=true makes one row of each pair: packing has no place",
            ("choose", "data.batching=buckets"),
        )
    if has_prefix and not tokenizer.joint:
        refuse(
            "model.encoder.source_prefix=true needs one vocabulary for both sides",
            ("choose", "tokenizer.joint=true"),
        )
    if data.batching == "packing":
        _refuse_recurrent(cfg, what="pair", choose="buckets")
    if cfg.model.tie_embeddings == "all" and not tokenizer.joint:
        refuse(
            "model.tie_embeddings=all needs one vocabulary for both sides",
            ("either", "tokenizer.joint=true, or model.tie_embeddings=target_output"),
        )
    if cfg.model.copies and not tokenizer.joint:
        refuse(
            "model.decoder.copy=true needs one vocabulary for both sides",
            ("choose", "tokenizer.joint=true"),
        )
    if tokenizer.kind == "given" and not tokenizer.path:
        refuse(
            "tokenizer.kind=given needs tokenizer.path, a vocabulary of yours",
            ("or", "tokenizer.kind=bpe trains one on the corpus"),
        )
    if tokenizer.kind == "run" and not (tokenizer.path or cfg.init.runs):
        refuse(
            "tokenizer.kind=run needs tokenizer.path, the run directory whose vocabulary is taken",
            ("or", "init.runs, the runs to begin from: then the first of them"),
        )
    if tokenizer.sampling_alpha and tokenizer.kind not in ("bpe", "unigram", "given"):
        refuse(
            f"tokenizer.sampling_alpha has no meaning for tokenizer.kind={tokenizer.kind}",
            ("choose", "tokenizer.sampling_alpha=0, or kind bpe or unigram"),
        )
    if data.min_length > data.max_length:
        refuse(f"data.min_length={data.min_length} is above data.max_length={data.max_length}")


def _refuse_recurrent(cfg: Any, *, what: str, choose: str) -> None:
    """Refuse recurrent states where rows are packed."""
    kinds = {"encoder": cfg.model.encoder.kind, "decoder": cfg.model.decoder.kind}
    others = ("transformer", "none")
    recurrent = [f"model.{name}.kind={kind}" for name, kind in kinds.items() if kind not in others]
    if recurrent:
        refuse(
            f"packing is for Transformers: a recurrent state would run from one {what} into the "
            "next",
            ("now", ", ".join(recurrent)),
            ("choose", f"data.batching={choose}"),
        )


def _check_contiguous(cfg: Any) -> None:
    """Text without sources: what it needs, and what it would leave unread."""
    data, mesh = cfg.data, cfg.mesh
    if data.source == "plain_text" and not data.contiguous:
        refuse(
            f"data.batching={data.batching} is for pairs, and data.source=plain_text has none",
            ("choose", f"data.batching={' or '.join(CONTIGUOUS)}"),
        )
    if not data.contiguous:
        return
    now = ("now", f"data.batching={data.batching}")
    if data.source in SOURCE_NAMES and data.source != "plain_text":
        refuse(
            f"data.source={data.source} gives pairs, and {now[1]} is for text without sources",
            ("choose", "data.batching=buckets or packing"),
        )
    if cfg.model.encoder.kind != "none" and data.objective.name in OF_DECODERS_ALONE:
        others = [name for name in OBJECTIVES if name not in OF_DECODERS_ALONE]
        refuse(
            f"model.encoder.kind={cfg.model.encoder.kind} has nothing to read: the data is text "
            "without sources",
            now,
            ("choose", "model.encoder.kind=none"),
            ("or", f"data.objective.name={' or '.join(others)}"),
        )
    if data.streams:
        _check_streams(cfg)
    if data.batching == "documents":
        _check_documents(cfg)
    if not cfg.tokenizer.joint:
        refuse("text without sources has one vocabulary", ("choose", "tokenizer.joint=true"))
    if cfg.tokenizer.sampling_alpha:
        refuse("tokenizer.sampling_alpha is for pairs: text without sources is cut once", now)
    if data.num_rows % (mesh.data * mesh.fsdp):
        refuse(
            f"data.num_rows={data.num_rows} does not divide over mesh.data * mesh.fsdp = "
            f"{mesh.data * mesh.fsdp} devices"
        )
    if cfg.evaluation.metrics not in ((), type(cfg.evaluation).metrics):
        refuse(
            "evaluation.metrics compares answers with references: text without sources has none",
            ("measured are", ", ".join(text_metrics(cfg))),
            ("choose", "evaluation.metrics=()"),
        )


def _check_streams(cfg: Any) -> None:
    """State that goes on from batch to batch: who has one, and what would tear it."""
    if cfg.data.objective.name != "causal":
        refuse(
            "data.batching=streams reads a text from left to right: data.objective.name="
            f"{cfg.data.objective.name} has no state that goes on",
            ("either", "data.batching=blocks"),
            ("or", "data.objective.name=causal"),
        )
    if cfg.model.decoder.kind == "transformer":
        refuse_stateless("model.decoder.kind=transformer")
    if cfg.train.accumulation_steps > 1:
        refuse(
            "data.batching=streams makes an update of every batch",
            ("now", f"train.accumulation_steps={cfg.train.accumulation_steps}"),
            ("choose", "train.accumulation_steps=1, and a larger data.num_rows"),
        )


def _check_documents(cfg: Any) -> None:
    """Several texts in a row: who can tell them apart, and what makes rows of its own."""
    if cfg.data.objective.name != "causal":
        refuse(
            f"data.objective.name={cfg.data.objective.name} makes rows of its own, and "
            "data.batching=documents packs texts to be told token by token",
            ("either", "data.batching=blocks"),
            ("or", "data.objective.name=causal"),
        )
    _refuse_recurrent(cfg, what="document", choose="blocks or streams")


def _check_labels(cfg: Any) -> None:
    """Labels: what they need of the model, and what they would leave unread."""
    data, head = cfg.data, cfg.model.head.kind
    wanted = {"text": "tokens", "labels": "classifier", "tags": "tagger"}[data.targets]
    if head != wanted:
        fitting = {"tokens": "text", "classifier": "labels", "tagger": "tags"}[head]
        refuse(
            f"data.targets={data.targets} and model.head.kind={head} do not fit each other",
            ("either", f"model.head.kind={wanted}"),
            ("or", f"data.targets={fitting}"),
        )
    if not data.labelled:
        return
    now = f"data.targets={data.targets}"
    if data.batching != "buckets":
        refuse(f"{now} are put into rows of their own", ("choose", "data.batching=buckets"))
    if data.source == "dialogue":
        refuse(f"{now}: data.source=dialogue has replies", ("choose", "data.source=jsonl"))
    if data.references_field:
        refuse(f"{now} have no further references: data.references_field")
    if not cfg.tokenizer.joint:
        refuse(f"{now} leave one vocabulary, that of texts", ("choose", "tokenizer.joint=true"))
    if cfg.evaluation.metrics not in ((), type(cfg.evaluation).metrics):
        refuse(
            "evaluation.metrics compares answers with references, and labels are counted",
            ("measured are", ", ".join(LABEL_METRICS)),
            ("choose", "evaluation.metrics=()"),
        )
    if cfg.train.teacher_forcing_rate < 1.0:
        refuse(f"{now}: train.teacher_forcing_rate is for decoders that write text")


def text_metrics(cfg: Any) -> tuple[str, ...]:
    """What evaluations measure of text without sources."""
    objective = cfg.data.objective
    if objective.name == "causal":
        return TEXT_METRICS
    if not objective.rate:
        return ("loss", *PAIR_METRICS)
    return LOSS_METRICS + (PAIR_METRICS if objective.pairs != "none" else ())


def _check_dialogue(cfg: Any) -> None:
    data = cfg.data
    if data.source != "dialogue":
        for field in ("speakers", "reply_speaker", "system_line"):
            value = getattr(data, field)
            if value != getattr(type(data), field) and data.source in SOURCE_NAMES:
                refuse(f"data.{field}={value!r} is for data.source=dialogue, not {data.source}")
        return
    if not data.speakers or len(set(data.speakers)) < len(data.speakers):
        refuse(f"data.speakers={','.join(data.speakers)!r}: name every speaker, each once")
    if data.reply_speaker and data.reply_speaker not in data.speakers:
        refuse(
            f"data.reply_speaker={data.reply_speaker} is not one of data.speakers",
            ("they are", ", ".join(data.speakers)),
        )
    if not cfg.tokenizer.joint:
        refuse("dialogues have one vocabulary", ("choose", "tokenizer.joint=true"))
    if cfg.decode.max_source_length < data.max_source_len:
        refuse(
            f"decode.max_source_length={cfg.decode.max_source_length} would cut histories anywhere",
            ("shorten by turns", f"data.max_source_len={data.max_source_len} and less"),
        )
