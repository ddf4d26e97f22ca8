"""Text in, labels out: a model that tells labels, with its tokenizer, as one object."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from seqgen.data.base_tokenizer import BaseTokenizer
from seqgen.data.batching import Shape
from seqgen.data.labels import LabelledRows, LabelTokenizer
from seqgen.decoding.batching import padded_shape, plan_batches
from seqgen.decoding.config import DecodeConfig
from seqgen.errors import ConfigError
from seqgen.nn.dense import dot
from seqgen.refusals import refused
from seqgen.types import NUM_CONTROL_IDS, Array, MaskedBatch, Params


@dataclasses.dataclass(frozen=True)
class LabelledText:
    """What a classifier tells of a text.

    Attributes:
      label: the likeliest.
      probability: of that label, 0..1.
      probabilities: of every label.
    """

    label: str
    probability: float
    probabilities: dict[str, float]


@dataclasses.dataclass(frozen=True)
class TaggedWord:
    """What a tagger tells of a word.

    Attributes:
      word: as it stands in the text.
      label: the likeliest.
      probability: of that label, 0..1.
    """

    word: str
    label: str
    probability: float


class TextLabeller:
    """A trained classifier or tagger, ready for text.

    Attributes:
      params: may be replaced by others of the same shapes; nothing is compiled again.
      labels: all there are, in the order of their ids.
    """

    def __init__(
        self,
        definition: Any,
        params: Params,
        tokenizer: BaseTokenizer,
        labels: LabelTokenizer,
        *,
        max_source_len: int,
        decode_config: DecodeConfig | None = None,
    ):
        """Binds the parts; nothing is compiled yet.

        Args:
          definition: of a model with a head of labels.
          params: nested dict of arrays.
          tokenizer: of texts.
          labels: of the run.
          max_source_len: longest text in tokens, EOS counted; longer ones are cut, as in training.
          decode_config: `batch_size` and `batch_tokens`.
        """
        self.params = jax.device_put(params)
        self.labels = list(labels.labels)
        self.tells_words = labels.several
        self._tokenizer = tokenizer
        self._max_len = max_source_len
        self._config = (decode_config or DecodeConfig()).plain(1)
        self._rows = LabelledRows(tokenizer, several=labels.several)
        self._log_probs = jax.jit(functools.partial(_log_probs, definition))

    def classify(self, texts: Sequence[str]) -> list[LabelledText]:
        """The label of each text, in the order of the texts.

        Raises:
          ConfigError: the run tags words.
        """
        if self.tells_words:
            raise ConfigError("this run tags words: use tag(texts)")
        found = []
        for (row,) in self.log_probs(texts):
            values = dict(zip(self.labels, np.exp(row).tolist()))
            label = max(values, key=values.__getitem__)
            found.append(LabelledText(label, values[label], values))
        return found

    def tag(self, texts: Sequence[str]) -> list[list[TaggedWord]]:
        """The words of each text (parted by white space) with their labels.

        Words beyond what the model reads are not in the answer.

        Raises:
          ConfigError: the run classifies texts.
        """
        if not self.tells_words:
            raise ConfigError("this run classifies texts: use classify(texts)")
        found = []
        for text, rows in zip(texts, self.log_probs([" ".join(t.split()) for t in texts])):
            best = rows.argmax(axis=-1)
            found.append(
                [
                    TaggedWord(word, self.labels[index], float(np.exp(row[index])))
                    for word, row, index in zip(text.split(), rows, best)
                ]
            )
        return found

    def log_probs(
        self, texts: Sequence[str], *, progress: Callable[[int], None] = lambda count: None
    ) -> list[np.ndarray]:
        """Natural log-probabilities of the labels, float32 [places, labels] a text, in order.

        Args:
          texts: one a row; where words are tagged, single spaces stand between them.
          progress: called after each batch with the number of texts done so far.
        """
        encoded = [self._tokenizer.encode(text)[: self._max_len - 1] for text in texts]
        places = [len(self._rows.places(ids)) for ids in encoded]
        results: list[np.ndarray] = [np.zeros((0, len(self.labels)), np.float32)] * len(texts)
        done = 0
        for members in plan_batches([len(ids) + 1 for ids in encoded], self._config):
            batch = self._batch([encoded[i] for i in members], [places[i] for i in members])
            told = np.asarray(self._log_probs(self.params, batch))
            for row, i in enumerate(members):
                results[i] = told[row, : places[i]]
            done += len(members)
            progress(done)
        return results

    def _batch(self, lines: list[list[int]], places: list[int]) -> MaskedBatch:
        """Rows of a common shape, so that few are ever compiled."""
        lengths = [len(line) + 1 for line in lines]
        rows, width = padded_shape(lengths, self._config, limit=self._max_len)
        num_places = -(-max(places) // 8) * 8 if self.tells_words else 1
        pairs = [(line, [NUM_CONTROL_IDS] * count) for line, count in zip(lines, places)]
        shape = Shape(rows, width, num_places + 1)
        return self._rows.assemble(shape, pairs, rows=range(len(lines)))

    generate = stream = stream_text = refused("labeller", "generate")
    chat = chat_stream = refused("labeller", "chat")
    score = token_scores = token_choices = refused("labeller", "score")
    fill = fill_stream = refused("labeller", "fill hidden tokens")


def _log_probs(definition: Any, params: Params, batch: MaskedBatch) -> Array:
    """Float32 [B, P, V]."""
    told = definition.bind(params).predictions(batch)["labels"]
    logits = dot(told.hidden, told.kernel, ((2,), (1,)), compute_dtype="float32")
    return jax.nn.log_softmax(logits + told.bias)
