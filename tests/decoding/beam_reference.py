"""Beam search in plain Python over a toy model, one sentence at a time; scores without penalty."""

import collections
import dataclasses

import numpy as np

from seqgen.types import BOS_ID, EOS_ID, PAD_ID


@dataclasses.dataclass
class Group:
    """K live hypotheses (log-probability, own log-probability, ids) and the n best finished."""

    live: list
    finished: list
    done: bool = False


def diverse_answers(model, line, *, beams, groups, strength, limit, answers):
    """The answers of diverse beam search, best first: (score, own log-probability, ids)."""
    width, kept = beams // groups, -(-answers // groups)
    states = [Group([(0.0, 0.0, [])], []) for _ in range(groups)]
    for position in range(limit):
        taken = collections.Counter()
        for group in states:
            if group.done:
                continue
            found = []
            for log_prob, own, ids in group.live:
                logits = model.reference_logits(line, ids)
                normalizer = np.log(np.exp(logits).sum())
                for token in range(len(logits)):
                    last = position + 1 == limit
                    if token in (PAD_ID, BOS_ID) or (last and token != EOS_ID):
                        continue
                    gain = logits[token] - normalizer
                    penalised = log_prob + min(gain - strength * taken[token], 0.0)
                    found.append((penalised, own + gain, [*ids, token]))
            found.sort(key=lambda item: -item[0])
            ended = [item for item in found[:width] if item[2][-1] == EOS_ID]
            group.finished = sorted(group.finished + ended, key=lambda item: -item[0])[:kept]
            group.live = [item for item in found if item[2][-1] != EOS_ID][:width]
            taken.update(item[2][-1] for item in group.live + ended)
            full = len(group.finished) == kept
            group.done = not group.live or (full and group.live[0][0] <= group.finished[-1][0])
    everything = [item for group in states for item in group.finished]
    return sorted(everything, key=lambda item: -item[0])[:answers]


def share_out(log_probs, missing, ends, beams):
    """`share_beams_out` for one sentence: (the first K in turn, the first K that live on)."""
    groups = collections.defaultdict(list)
    for place in sorted(range(len(log_probs)), key=lambda place: -log_probs[place]):
        if np.isfinite(log_probs[place]):
            groups[missing[place]].append(place)
    order = []
    while any(groups.values()):
        for lacking in sorted(groups):
            if groups[lacking]:
                order.append(groups[lacking].pop(0))
    return order[:beams], [place for place in order if not ends[place]][:beams]


def best_without_shares(model, line, table, *, beams, limit):
    """Highest log-probability that a beam finds which keeps words possible and shares nothing."""
    columns = {int(token): i for i, token in enumerate(table.alphabet) if token >= 0}
    moves, missing = np.asarray(table.moves), np.asarray(table.missing)
    live, best = [(0.0, [], 0)], -np.inf
    for position in range(limit):
        found = []
        for log_prob, ids, state in live:
            logits = model.reference_logits(line, ids)
            gains = logits - np.log(np.exp(logits).sum())
            for token in range(len(logits)):
                after = moves[state, columns.get(token, -1)]
                ends = token == EOS_ID
                fits = missing[state] == 0 if ends else missing[after] < limit - 1 - position
                if token not in (PAD_ID, BOS_ID) and fits:
                    found.append((log_prob + gains[token], [*ids, token], after))
        found.sort(key=lambda item: -item[0])
        ended = [item[0] for item in found[:beams] if item[1][-1] == EOS_ID]
        best = max([best, *ended])
        live = [item for item in found if item[1][-1] != EOS_ID][:beams]
    return best
