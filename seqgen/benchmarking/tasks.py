"""The tasks of `seqgen bench compare` and the whole experiment of each training.

The recipe is one for all models: what differs between two trainings of a task is the model alone.
"""

import dataclasses
from typing import Any

from seqgen import config as config_module
from seqgen import config_schema
from seqgen.benchmarking.models import match_parameters
from seqgen.config import Config
from seqgen.models.config import RecurrentDecoderConfig


@dataclasses.dataclass(frozen=True)
class Task:
    """One task at one scale.

    Attributes:
      parameters: that every model is matched to.
      score: the metric beside the loss.
      share: of `--minutes` that one training takes.
      data, tokenizer: sections of the config.
      eval_every, num_steps: steps between points of the curve; steps at most.
      edges: source words at which the test split is cut to show distance; () = not cut.
      corpus: its folder below `--data_dir`; '' = generated.
      num_seeds: trainings of a model at most.
      language_model: of text without sources: decoders alone. Recurrent ones carry their state over
        streams of text, the others see blocks of the same length.
    """

    parameters: int
    score: str
    share: float
    data: dict[str, Any]
    tokenizer: dict[str, Any]
    eval_every: int
    num_steps: int = 1_000_000
    edges: tuple[int, ...] = ()
    corpus: str = ""
    num_seeds: int = 2
    language_model: bool = False

    @property
    def log_every(self) -> int:
        """Steps between rows of metrics."""
        return min(10, self.eval_every)


NUMBER_WORDS = Task(
    parameters=1_000_000,
    score="exact_match",
    share=1 / 40,
    data={
        "source": "number_words",
        "source_lang": "en",
        "target_lang": "de",
        "num_examples": 60_000,
        "val_examples": 200,
        "test_examples": 500,
        "tokens_per_batch": 2048,
        "num_buckets": 2,
    },
    tokenizer={"kind": "bpe", "vocab_size": 300, "byte_fallback": False},
    eval_every=100,
)
# A symbol of a sequence of n must come back n places later: the length is the distance.
COPY = Task(
    parameters=500_000,
    score="exact_match",
    share=1 / 40,
    data={
        "source": "copy",
        "min_length": 4,
        "max_length": 64,
        "num_symbols": 20,
        "num_examples": 100_000,
        "val_examples": 200,
        "test_examples": 600,
        "tokens_per_batch": 2048,
        "num_buckets": 2,
    },
    tokenizer={"kind": "word", "vocab_size": 24},
    eval_every=100,
    edges=(9, 17, 33, 49),
)
MULTI30K = Task(
    parameters=5_000_000,
    score="bleu",
    share=1.0,
    data={
        "source": "text",
        "source_lang": "en",
        "target_lang": "de",
        "max_source_len": 128,
        "max_target_len": 128,
        "tokens_per_batch": 4096,
        "num_buckets": 6,
    },
    tokenizer={"kind": "bpe", "vocab_size": 10_000},
    eval_every=500,
    corpus="multi30k",
    num_seeds=1,
)
DIALOGUE = Task(
    parameters=2_000_000,
    score="bleu",
    share=1 / 10,
    data={
        "source": "dialogue",
        "speakers": ("user", "assistant"),
        "reply_speaker": "assistant",
        "max_source_len": 160,
        "max_target_len": 96,
        "overlong": "truncate",
        "tokens_per_batch": 4096,
        "num_buckets": 4,
    },
    tokenizer={"kind": "bpe", "vocab_size": 2_000, "joint": True},
    eval_every=100,
    corpus="taskmaster4_coffee",
)
LANGUAGE_MODEL = Task(
    parameters=1_000_000,
    score="bits_per_byte",
    share=1 / 10,
    data={"source": "plain_text", "block_len": 128, "num_rows": 16},
    tokenizer={"kind": "char", "vocab_size": 70, "byte_fallback": False},
    eval_every=100,
    corpus="tinyshakespeare",
    language_model=True,
)
QUICK = dataclasses.replace(
    NUMBER_WORDS,
    parameters=200_000,
    data=NUMBER_WORDS.data | {"num_examples": 5000, "test_examples": 200, "num_buckets": 1},
    eval_every=30,
    num_steps=120,
)
SMOKE = dataclasses.replace(
    QUICK,
    parameters=25_000,
    data=QUICK.data
    | {"num_examples": 400, "val_examples": 10, "test_examples": 10}
    | {"tokens_per_batch": 256},
    tokenizer=QUICK.tokenizer | {"vocab_size": 120},
    eval_every=2,
    num_steps=4,
)
TASKS: dict[str, dict[str, Task]] = {
    "full": {
        "number_words": NUMBER_WORDS,
        "copy": COPY,
        "multi30k": MULTI30K,
        "dialogue": DIALOGUE,
        "language_model": LANGUAGE_MODEL,
    },
    "quick": {"number_words": QUICK},
    "smoke": {"number_words": SMOKE},
}


@dataclasses.dataclass(frozen=True)
class Training:
    """One training of `compare`.

    Attributes:
      task, scale: the name of the task, and at which scale.
      model, seed: what is trained.
      dtype: of matrix products.
      folder: its run directory.
      data_dir: of the corpus; '' for generated tasks.
      minutes: what `--minutes` says; the task takes its share.
      step_seconds: its pace (see `pace`), by which the minutes are a number of steps; 0 = as many
        as the task has.
    """

    task: str
    scale: str
    model: str
    seed: int
    dtype: str
    folder: str
    data_dir: str
    minutes: float
    step_seconds: float = 0.0

    @property
    def pace_key(self) -> str:
        """The name of the row with its pace, which all seeds share."""
        return f"pace/{self.task}/{self.model} scale={self.scale} dtype={self.dtype}"

    @property
    def num_steps(self) -> int:
        """Steps that the minutes are worth, to the last one logged; no more than the task has."""
        task = self.recipe()
        if not self.step_seconds:
            return task.num_steps
        worth = int(60 * self.minutes * task.share / self.step_seconds)
        return min(task.num_steps, max(1, worth // task.log_every) * task.log_every)

    @property
    def key(self) -> str:
        """The name of its row; the minutes may grow, then the same training goes on."""
        return (
            f"compare/{self.task}/{self.model} scale={self.scale} seed={self.seed} "
            f"dtype={self.dtype}"
        )

    def recipe(self) -> Task:
        """The task."""
        return TASKS[self.scale][self.task]

    def config(self) -> Config:
        """The whole experiment, as a config file would say it."""
        task = self.recipe()
        vocab = task.tokenizer["vocab_size"]
        model = match_parameters(
            self.model, task.parameters, vocab=vocab, alone=task.language_model
        )
        data = task.data | {"dir": self.data_dir}
        if task.language_model:
            recurrent = isinstance(model.decoder, RecurrentDecoderConfig)
            data |= {"batching": "streams" if recurrent else "blocks"}
        return config_module.from_dict(
            {
                "name": f"bench_{self.task}_{self.model}",
                "data": data,
                "tokenizer": task.tokenizer,
                "model": config_schema.to_dict(model),
                "optimizer": {
                    "learning_rate": 2e-3,
                    "schedule": "inverse_sqrt",
                    "warmup_steps": 200,
                    "clip_norm": 1.0,
                },
                "train": {
                    "num_steps": self.num_steps,
                    "seed": self.seed,
                    "compute_dtype": self.dtype,
                    "log_every_steps": task.log_every,
                    "eval_every_steps": task.eval_every,
                    "checkpoint_every_steps": task.eval_every,
                    "tensorboard": False,
                },
                "evaluation": {
                    "metrics": () if task.language_model else (task.score,),
                    "num_samples": 0,
                    "max_examples": 0 if task.language_model else 300,
                },
            }
        )
