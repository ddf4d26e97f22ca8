import itertools

import numpy as np
import pytest

from seqgen.data.alignment import find_drifts, fit_lengths, outliers
from seqgen.data.language_profile import fit_profile


def _lengths(rows=3000, ratio=1.2, seed=0):
    """Lengths as translations have them: variance in proportion to length."""
    rng = np.random.default_rng(seed)
    source = rng.lognormal(4.0, 0.45, rows).round() + 3
    target = np.maximum(1, ratio * source + rng.normal(0, 0.8, rows) * np.sqrt(2.2 * source))
    return source, target.round()


@pytest.mark.parametrize("ratio", [0.3, 1.0, 1.2])
def test_model_finds_the_constants_even_if_a_third_is_strangers(ratio):
    source, target = _lengths(ratio=ratio)
    target[::3] = np.random.default_rng(1).permutation(target[::3])
    model = fit_lengths(source, target)
    assert model.ratio == pytest.approx(ratio, rel=0.05)
    assert 0.5 < model.scale < 1.6


def test_deviations_are_standard_normal_for_translations():
    source, target = _lengths()
    deviations = fit_lengths(source, target).deviations(source, target)
    assert abs(deviations.mean()) < 0.1
    assert 0.9 < deviations.std() < 1.1


def test_outliers_are_the_planted_ones():
    source, target = _lengths()
    target[[5, 70]] = target[[5, 70]] * 5 + 60
    target[900] = 2
    model = fit_lengths(source, target)
    flags = outliers(source, target, model, deviations=5.0, factor=2.0)
    assert np.flatnonzero(flags).tolist() == [5, 70, 900]


@pytest.mark.parametrize("seed", range(4))
def test_corresponding_files_have_no_drift(seed):
    assert find_drifts(*_lengths(seed=seed)) == []


@pytest.mark.parametrize(("lost", "seed"), [(1, 0), (3, 1), (40, 2), (700, 3)])
@pytest.mark.parametrize("side", ["source", "target"])
def test_lost_lines_give_a_drift_with_their_number_as_shift(lost, seed, side):
    source, target = _lengths(seed=seed)
    place = 1234
    gone = np.arange(place, place + lost)
    if side == "source":
        source = np.delete(source, gone)
    else:
        target = np.delete(target, gone)
    drifts = find_drifts(source, target)
    assert drifts
    assert abs(drifts[0].start - place) <= 6
    # Lost sources leave their targets alone: any state may stand there, but not "no shift".
    assert all(one.stop == other.start for one, other in itertools.pairwise(drifts))
    assert drifts[-1].shift == (lost if side == "target" else -lost)
    assert drifts[-1].stop == min(len(source), len(target))


def test_drift_ends_where_the_other_side_loses_as_much():
    source, target = _lengths()
    (drift,) = find_drifts(np.delete(source, 2000), np.delete(target, 1000))
    assert abs(drift.start - 1000) <= 6
    assert abs(drift.stop - 2000) <= 6
    assert drift.shift == 1


def test_first_of_many_lost_lines_is_found():
    source, target = _lengths(rows=20_000)
    lost = np.sort(np.random.default_rng(5).choice(20_000, 20, replace=False))
    drifts = find_drifts(source, np.delete(target, lost))
    assert drifts
    assert abs(drifts[0].start - lost[0]) <= 6


def test_lengths_that_tell_nothing_say_so():
    assert find_drifts(np.full(100, 7.0), np.full(99, 8.0)) is None
    assert find_drifts(np.ones(2), np.ones(1)) is None
    assert find_drifts(np.zeros(50), np.zeros(50)) is None


def test_unusable_rows_do_not_hide_a_drift():
    source, target = _lengths()
    source[100:140] = 0
    drifts = find_drifts(source, np.delete(target, 1500))
    assert drifts
    assert abs(drifts[0].start - 1500) <= 6


def test_profile_tells_two_languages_apart_in_any_script():
    english = [b"the house is green", b"there was nothing in it", b"we shall see"] * 9
    greek = [line.encode() for line in ["το σπίτι είναι πράσινο", "δεν υπήρχε τίποτα"] * 9]
    profile = fit_profile(english, greek)
    assert (profile.scores(english) > 4).all()
    assert (profile.scores(greek) < -4).all()


def test_a_line_scores_the_same_alone_and_among_others():
    profile = fit_profile([b"the one", b"the other"], [b"der eine", b"der andere"])
    lines = [b"the thing", b"", b"der Ding", b"x" * 5000]
    together = profile.scores(lines)
    alone = np.concatenate([profile.scores([line]) for line in lines])
    np.testing.assert_array_equal(together, alone)


def test_equal_languages_give_no_preference():
    lines = [b"a b c", b"c b a", b"b b b"]
    assert np.abs(fit_profile(lines, lines).scores(lines)).max() == 0
