"""The rules of decoding in plain Python, one hypothesis at a time."""

import collections

import numpy as np
from decoding.toy_model import encode

from seqgen.types import EOS_ID


def repetition(logits, ids, penalty):
    """CTRL, with Hugging Face's care for signs."""
    logits = np.array(logits)
    for token in set(ids):
        logits[token] = logits[token] * penalty if logits[token] < 0 else logits[token] / penalty
    return logits


def frequency_and_presence(logits, ids, frequency, presence):
    logits = np.array(logits)
    for token, count in collections.Counter(ids).items():
        logits[token] -= frequency * count + presence
    return logits


def repeats_ngram(ids, token, size):
    """Whether `ids` and `token` end in an n-gram that `ids` hold."""
    grams = {tuple(ids[i : i + size]) for i in range(len(ids) - size + 1)}
    return tuple([*ids, token][-size:]) in grams


def ends_bad_word(ids, token, words):
    text = [*ids, token]
    return any(text[-len(word) :] == word for word in words)


def ruled_logits(logits, ids, config, limit):
    """Logits after the rules of a `DecodeConfig`, without those on control ids and lengths."""
    logits = repetition(logits, ids, config.repetition_penalty)
    logits = frequency_and_presence(logits, ids, config.frequency_penalty, config.presence_penalty)
    prefix = encode(config.forced_prefix)
    words = [encode(word) for word in config.bad_words]
    position = len(ids)
    for token in range(len(logits)):
        banned = ends_bad_word(ids, token, words)
        size = config.no_repeat_ngram_size
        banned |= bool(size) and repeats_ngram(ids, token, size)
        banned |= token in config.stop_token_ids and position < config.min_length
        if position < len(prefix) and position + 1 < limit:
            banned = token != prefix[position]
        if banned:
            logits[token] = -np.inf
    return logits


def ruled_log_probs(model, line, target, config, limit):
    """Penalised logit less the model's own normaliser, of each id; -inf where it is banned."""
    found = []
    for position, token in enumerate(target):
        raw = model.reference_logits(line, target[:position])
        ruled = ruled_logits(raw, list(target[:position]), config, limit)
        if token != EOS_ID and position + 1 >= limit:
            found.append(-np.inf)
        else:
            found.append(ruled[token] - np.log(np.exp(raw).sum()))
    return np.asarray(found)
