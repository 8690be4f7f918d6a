"""Intervals cover what they say, equivalence is proved and not assumed, and everything is seeded."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paper_repro import stats

SHAPES = {
    "normal": lambda rng, n: rng.normal(size=n),
    "mildly skewed": lambda rng, n: (rng.gamma(8, size=n) - 8) / np.sqrt(8),  # skewness 0.7
}
DIFFERENCES = [0.31, -0.12, 0.25, 0.4, 0.08]  # made up
finite = st.floats(-1e3, 1e3, allow_nan=False).map(lambda x: round(x, 3))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("n", [5, 16])
def test_intervals_of_a_mean_cover_at_small_n(shape, n):
    rng = np.random.default_rng(7)
    runs, hits, bootstrap_hits = 1200, 0, 0
    for _ in range(runs):
        values = SHAPES[shape](rng, n)
        interval = stats.mean_interval(values, resamples=200)
        bootstrap = stats.paired_bootstrap(values, resamples=200)
        hits += interval.low <= 0 <= interval.high
        bootstrap_hits += bootstrap.low <= 0 <= bootstrap.high
    assert 0.93 <= hits / runs <= 0.98
    if n == 5:
        assert bootstrap_hits / runs < 0.9  # why the bootstrap alone will not do


def test_the_interval_is_pinned():
    assert stats.paired_bootstrap(DIFFERENCES) == pytest.approx((0.184, -0.006, 0.318, 5), abs=0.008)
    assert stats.t_interval(DIFFERENCES) == pytest.approx((0.184, -0.07207, 0.44007, 5), abs=1e-5)
    assert stats.mean_interval(DIFFERENCES) == stats.t_interval(DIFFERENCES)


def test_draws_depend_on_the_seed_argument_and_nothing_else():
    np.random.seed(1)
    first = stats.paired_bootstrap(DIFFERENCES, seed=5)
    np.random.seed(2)
    assert stats.paired_bootstrap(DIFFERENCES, seed=5) == first
    assert stats.paired_bootstrap(DIFFERENCES, seed=5, resamples=200) != first


@settings(max_examples=30, deadline=None)
@given(st.lists(finite, min_size=2, max_size=8), st.sampled_from([0.25, 2.0, 1024.0]))
def test_intervals_hold_their_estimate_and_scale_with_the_unit(values, unit):
    base = stats.mean_interval(values, resamples=300)
    scaled = stats.mean_interval(np.asarray(values) * unit, resamples=300)  # exact: a power of two
    assert base.low <= base.estimate + 1e-9 and base.estimate <= base.high + 1e-9
    assert scaled[:3] == pytest.approx([unit * limit for limit in base[:3]], rel=1e-12)


def test_degenerate_series():
    assert stats.mean_interval([2.0, 2.0, 2.0]) == (2.0, 2.0, 2.0, 3)
    one = stats.mean_interval([2.0])
    assert one.estimate == 2.0 and np.isnan(one.low) and np.isnan(one.high)
    ties = stats.paired_bootstrap([0, 0, 0, 1.0], np.median)  # BCa is undefined: percentile
    assert (ties.low, ties.high) == (0.0, 1.0)
    for bad in ([], [1.0, float("nan")], [[1.0]]):
        with pytest.raises(ValueError, match="non-empty"):
            stats.mean_interval(bad)


def test_large_samples_need_no_widening():
    values = np.random.default_rng(0).exponential(size=200)
    assert stats.mean_interval(values) == stats.paired_bootstrap(values)


def test_equivalence_is_proved_by_narrow_intervals_only():
    rng = np.random.default_rng(0)
    narrow, wide = 0.01 * rng.normal(size=16), rng.normal(size=16)
    assert stats.tost(narrow, margin=0.05).equivalent
    assert stats.tost(narrow, margin=0.05).p < 0.001
    assert not stats.tost(wide, margin=0.05).equivalent
    assert not stats.tost(narrow + 0.1, margin=0.05).equivalent
    assert not stats.tost([0.0], margin=0.05).equivalent
    assert stats.tost([0.0, 0.0], margin=0.05) == (True, 0.0, (0.0, 0.0, 0.0, 2))
    with pytest.raises(ValueError, match="positive"):
        stats.tost(narrow, margin=0)


def test_equivalence_errs_at_most_at_its_level():
    rng = np.random.default_rng(3)
    wrong = [stats.tost(1.0 + rng.normal(size=8), margin=1.0, seed=1).equivalent for _ in range(150)]
    assert np.mean(wrong) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 150)


def test_proportions_are_exact():
    assert stats.proportion_interval(0, 16) == pytest.approx((0.0, 0.0, 0.2059, 16), abs=1e-4)
    assert stats.proportion_interval(16, 16) == pytest.approx((1.0, 0.7941, 1.0, 16), abs=1e-4)
