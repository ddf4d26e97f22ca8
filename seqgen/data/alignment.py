"""What the lengths of two sides say about a parallel corpus: outliers, and where it is shifted.

The length of a translation is proportional to its source's with a variance that grows with length
(Gale & Church, "A Program for Aligning Sentences in Bilingual Corpora", CL 1993). Both constants
are estimated by medians here, so that a corpus that is half broken still tells them.
"""

import dataclasses
import itertools

import numpy as np

BLOCK = 32  # rows that are judged together
MAX_SHIFT = 6  # lines missing on one side that the search looks for, around either end's shift
SURPRISE_CAP = 8.0  # nats a single row may contribute: one odd pair is not a drift
MIN_STRANGERS_COST = 1.0  # nats; true partners cost 0.5, so less than this tells nothing
WINDOW = 256  # rows from which the length model is fitted where most of the file may be shifted
MAX_WINDOWS = 32
JITTER = 12.0  # characters of variance that even the shortest pair has


@dataclasses.dataclass(frozen=True)
class LengthModel:
    """Robust constants of a split.

    Attributes:
      ratio: median of target length / source length.
      scale: robust standard deviation of the residuals (1.4826 x their median size).
    """

    ratio: float
    scale: float

    def deviations(self, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Residuals of pairs in standard deviations: about N(0, 1) for true translations.

        Args:
          source: [n] lengths in characters.
          target: [n] lengths in characters.
        """
        return _residuals(source, target, self.ratio) / self.scale


def _residuals(source: np.ndarray, target: np.ndarray, ratio: float) -> np.ndarray:
    expected = source * ratio
    return (target - expected) / np.sqrt(expected + target + JITTER)


def fit_lengths(source: np.ndarray, target: np.ndarray) -> LengthModel:
    """Estimate the model from corresponding rows; strangers may be up to half of them.

    Args:
      source: [n] lengths in characters, n >= 1, all > 0.
      target: [n] lengths in characters, all > 0.
    """
    ratio = float(np.median(target / source))
    residuals = _residuals(source, target, ratio)
    # Not below a quarter: texts by rule (numbers, copies) hardly scatter, and any change strikes.
    scale = max(0.25, 1.4826 * float(np.median(np.abs(residuals))))
    return LengthModel(ratio=ratio, scale=scale)


def outliers(
    source: np.ndarray, target: np.ndarray, model: LengthModel, *, deviations: float, factor: float
) -> np.ndarray:
    """Flags [n] of pairs beyond `deviations` AND off in ratio by more than `factor` either way.

    Either test alone cries wolf: the first on long free translations, the second on short ones.
    """
    far = np.abs(model.deviations(source, target)) > deviations
    off = np.abs(np.log((target + 1.0) / (source * model.ratio + 1.0))) > np.log(factor)
    return far & off


@dataclasses.dataclass(frozen=True)
class Drift:
    """A stretch of rows whose sides do not belong together.

    Attributes:
      start: first suspicious row, counted from 0.
      stop: the row after the last.
      shift: by how many lines the target is ahead (source row i + shift belongs to target row i),
        or None where no shift fits.
    """

    start: int
    stop: int
    shift: int | None


def find_drifts(source: np.ndarray, target: np.ndarray) -> list[Drift] | None:
    """Stretches where the rows of two files are shifted against each other.

    For every small shift each block of rows gets its cost, -log N(z; 0, 1) under the length model
    (capped); the cheapest sequence of shifts with a price on each change is found by dynamic
    programming over the blocks, and its changes are then placed to the row. A further state, "no
    shift fits", costs what strangers cost.

    Args:
      source: [m] lengths in characters; 0 = the row cannot be judged.
      target: [n] lengths in characters; if m != n, the shift at the end is expected to be m - n.

    Returns:
      None where lengths tell nothing: too few rows, or all of one length.
    """
    rows = min(len(source), len(target))
    end_shift = len(source) - len(target)
    near = range(-MAX_SHIFT, MAX_SHIFT + 1)
    shifts: list[int] = sorted({*near, *(end_shift + shift for shift in near)}, key=abs)
    model = _best_model(source, target, shifts) if rows >= 4 else None
    strangers = _strangers_cost(source, target, model) if model else 0.0
    if model is None or strangers < MIN_STRANGERS_COST:
        return None
    costs = np.stack(
        [
            *(_costs(source, target, shift, rows, model, outside=strangers) for shift in shifts),
            np.full(rows, strangers),
        ]
    )
    # Equal totals are strong evidence of correspondence; unequal ones prove that a change exists.
    price = 25.0 if end_shift else 60.0
    path = _cheapest_path(costs, price)
    return _as_drifts(path, [*shifts, None])


def _best_model(source: np.ndarray, target: np.ndarray, shifts: list[int]) -> LengthModel | None:
    """The model of the stretches where partners stand together: the tightest at any shift.

    Stretches, because of a file with many lost lines only small parts share one shift; the tenth
    part of them, because the very tightest is so by chance or by its kind of text.
    """
    rows = min(len(source), len(target))
    num_windows = min(MAX_WINDOWS, rows // WINDOW) or 1
    tightest: dict[int, LengthModel] = {}
    for shift in shifts:
        a, b = _partners(source, target, shift)
        usable = np.flatnonzero((a > 0) & (b > 0))
        for number, window in enumerate(np.array_split(usable, num_windows)):
            if len(window) >= 4:
                model = fit_lengths(a[window], b[window])
                rival = tightest.get(number, model)
                tightest[number] = min(rival, model, key=lambda one: one.scale)
    models = sorted(tightest.values(), key=lambda model: model.scale)
    return models[len(models) // 10] if models else None


def _partners(source: np.ndarray, target: np.ndarray, shift: int) -> tuple[np.ndarray, np.ndarray]:
    """Lengths of source row i + shift and target row i wherever both exist."""
    first = max(0, -shift)
    last = min(len(target), len(source) - shift)
    return source[first + shift : max(first, last) + shift], target[first : max(first, last)]


def _costs(
    source: np.ndarray,
    target: np.ndarray,
    shift: int,
    rows: int,
    model: LengthModel,
    *,
    outside: float = SURPRISE_CAP,
) -> np.ndarray:
    """float64 [rows]: surprise of target row i beside source row i + shift, in nats."""
    costs = np.full(rows, outside)
    first = max(0, -shift)
    a, b = _partners(source, target[:rows], shift)
    known = (a > 0) & (b > 0)
    surprise = np.minimum(0.5 * model.deviations(a, b) ** 2, SURPRISE_CAP)
    # A row that cannot be judged speaks neither for nor against any shift.
    costs[first : first + len(a)] = np.where(known, surprise, 1.0)
    return costs


def _strangers_cost(source: np.ndarray, target: np.ndarray, model: LengthModel) -> float:
    rows = min(len(source), len(target))
    far = np.roll(source[:rows], rows // 2 + 1)
    known = (far > 0) & (target[:rows] > 0)
    surprise = np.minimum(0.5 * model.deviations(far, target[:rows]) ** 2, SURPRISE_CAP)
    return float(surprise[known].mean()) if known.any() else 0.0


def _cheapest_path(costs: np.ndarray, price: float) -> np.ndarray:
    """The state of each row (int [rows]), 0 at first if nothing speaks against it.

    Args:
      costs: [states, rows].
      price: nats that a change of state costs.
    """
    num_states, rows = costs.shape
    starts = np.arange(0, rows, BLOCK)
    blocks = np.add.reduceat(costs, starts, axis=1)
    best = blocks[:, 0] + price * (np.arange(num_states) > 0)
    came_from = np.zeros((len(starts), num_states), np.int32)
    for block in range(1, len(starts)):
        change = int(np.argmin(best))
        stay = best <= best[change] + price
        came_from[block] = np.where(stay, np.arange(num_states), change)
        best = np.minimum(best, best[change] + price) + blocks[:, block]
    states = np.empty(len(starts), np.int64)
    states[-1] = int(np.argmin(best))
    for block in range(len(starts) - 1, 0, -1):
        states[block - 1] = came_from[block, states[block]]
    path = np.repeat(states, BLOCK)[:rows]
    for block in np.flatnonzero(np.diff(states)) + 1:
        # Place the change to the row: the cheapest cut in the two blocks around it.
        low, high = (block - 1) * BLOCK, min(rows, (block + 1) * BLOCK)
        old, new = states[block - 1], states[block]
        gain = np.concatenate([[0.0], np.cumsum(costs[old, low:high] - costs[new, low:high])])
        cut = low + int(np.argmin(gain))
        path[low:cut], path[cut:high] = old, new
    return path


def _as_drifts(path: np.ndarray, shifts: list[int | None]) -> list[Drift]:
    edges = [0, *(np.flatnonzero(np.diff(path)) + 1).tolist(), len(path)]
    return [
        Drift(start=start, stop=stop, shift=shifts[path[start]])
        for start, stop in itertools.pairwise(edges)
        if shifts[path[start]] != 0
    ]
