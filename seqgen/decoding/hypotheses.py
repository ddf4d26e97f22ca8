"""What a search returns."""

import dataclasses

import jax

from seqgen.types import Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Hypotheses:
    """N answers for each of B sentences: best first from a beam, in drawing order from sampling.

    Attributes:
      ids: int32 [B, N, T]; generated ids, then EOS_ID (or a stop token), then PAD_ID. What a
        language model wrote up to its limit or to a stop string has no EOS_ID.
      lengths: int32 [B, N]; tokens with their EOS; 0 where no answer exists (fewer than N possible
        answers, or logits that are not numbers), and there both scores are -inf.
      log_probs: float32 [B, N]; sum of the model's own log-probabilities, EOS included. Masks,
        penalties, temperature and filters choose tokens, they do not change this figure.
      scores: float32 [B, N]; log_probs divided by the length penalty; under penalties, of penalised
        logits less the model's own log-normalisers.
      num_steps: int32 scalar; passes through the loop.
    """

    ids: Array
    lengths: Array
    log_probs: Array
    scores: Array
    num_steps: Array
