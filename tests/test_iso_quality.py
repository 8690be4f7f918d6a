"""Iso-quality speed-up: curves with a known answer, refusals, and how often its interval holds the truth."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paper_repro.iso_quality import Curve, break_even, common_range, speedup, speedup_at_most

DURATIONS = np.array([1.0, 2.0, 4.0, 8.0])


def law(seconds, gain=1.0):
    """Quality of a run of so many seconds; a method with ``gain`` gets in t what the baseline gets in gain * t."""
    return 0.5 + 0.1 * np.log2(gain * seconds)


def curve(seeds=4, gain=1.0, noise=0.0, seed=0, shared=None, clock=0.0):
    """``clock``: standard deviation of the logarithm by which a clock errs, independently in each run."""
    rng = np.random.default_rng(seed)
    seconds = np.tile(DURATIONS, (seeds, 1))
    error = noise * rng.standard_normal(seconds.shape) + (0 if shared is None else shared[:, None])
    read = seconds * np.exp(clock * rng.standard_normal(seconds.shape) - clock**2 / 2) if clock else seconds
    return Curve(read, law(seconds, gain) + error)


@pytest.mark.parametrize("gain", [0.5, 1.0, 1.42, 1.96])
def test_the_speedup_of_exact_curves_is_the_gain_at_every_common_quality(gain):
    baseline, method = curve(), curve(gain=gain)
    low, high = common_range(baseline, method)
    assert (low, high) == pytest.approx((max(law(1), law(1, gain)), min(law(8), law(8, gain))))
    for quality in np.linspace(low, high, 7):
        found = speedup(baseline, method, float(quality), resamples=50)
        assert found == pytest.approx((gain, gain, gain, 4))


def test_a_teachers_training_is_charged_and_pays_after_so_many_students():
    baseline, method, quality = curve(), curve(gain=2.0), law(4.0)
    assert method.seconds_to(quality) == pytest.approx(2.0)
    charged = Curve(method.seconds + 3.0, method.quality)
    assert speedup(baseline, charged, quality, resamples=50).estimate == pytest.approx(4 / 5)
    assert break_even(baseline, method, quality, 3.0) == pytest.approx(1.5)
    assert break_even(method, baseline, quality, 3.0) == float("inf")


def test_nothing_is_extrapolated():
    baseline, method = curve(), curve(gain=1.5)
    low, high = common_range(baseline, method)
    for quality in (low - 1e-6, high + 1e-6):
        with pytest.raises(ValueError, match="not reached by both"):
            speedup(baseline, method, quality)
    with pytest.raises(ValueError, match="outside what this curve reaches"):
        baseline.seconds_to(law(8.0) + 1e-6)
    assert common_range(baseline, curve(gain=100.0)) is None
    with pytest.raises(ValueError, match="have nothing in common"):
        speedup(baseline, curve(gain=100.0), law(8.0))


def test_a_method_that_ends_too_low_has_an_upper_limit_only():
    baseline, slow = curve(), curve(gain=0.2)  # at 8 s the slow one is where the baseline is at 1.6 s
    found = speedup_at_most(baseline, slow, law(3.0), resamples=50)
    assert found == pytest.approx((3 / 8, 0.0, 3 / 8, 4))
    assert speedup(baseline, Curve(slow.seconds * 9, law(slow.seconds * 9, 0.2)), law(3.0)).estimate < found.high
    for quality, message in ((law(1.6), "use speedup"), (law(9.0), "outside what this curve reaches")):
        with pytest.raises(ValueError, match=message):
            speedup_at_most(baseline, slow, quality)
    with pytest.raises(ValueError, match="pair them"):
        speedup_at_most(curve(3), slow, law(3.0))
    assert np.isnan(speedup_at_most(curve(1), curve(1, gain=0.2), law(3.0)).low)


@pytest.mark.parametrize(("seeds", "noise"), [(3, 0.01), (6, 0.02)])
def test_the_upper_limit_is_seldom_below_the_truth(seeds, noise):
    runs, held = 300, 0
    for run in range(runs):
        baseline = curve(seeds, noise=noise, seed=2 * run)
        method = curve(seeds, 3 / 8.5, noise=noise, seed=2 * run + 1)  # reaches it half a second too late
        measure = speedup_at_most if method.range[1] < law(3.0) else speedup
        held += measure(baseline, method, law(3.0), resamples=400, seed=run).high >= 3 / 8.5
    assert held / runs >= 0.96  # 97.5 % of one side, less 1.6 standard errors of 300 runs


def test_where_quality_falls_with_time_neighbours_are_pooled():
    falling = Curve(np.array([[1.0, 2.0, 4.0]]), np.array([[0.5, 0.7, 0.6]]))
    assert falling.range == pytest.approx((0.5, 0.65))
    assert falling.seconds_to(0.65) == pytest.approx(2.0)  # the first of the two that reach it
    assert falling.seconds_to(0.575) == pytest.approx(np.sqrt(2.0))


@pytest.mark.parametrize(
    ("seconds", "quality"),
    [
        ([[1.0, 2.0]], [[0.1]]),
        ([[1.0]], [[0.1]]),
        ([[2.0, 1.0]], [[0.1, 0.2]]),
        ([[0.0, 1.0]], [[0.1, 0.2]]),
        ([[1.0, 2.0]], [[0.1, float("nan")]]),
    ],
)
def test_a_curve_that_is_none_is_refused(seconds, quality):
    with pytest.raises(ValueError, match=r"curve needs|must be positive|must ascend"):
        Curve(np.array(seconds), np.array(quality))


def test_seeds_must_be_paired_and_one_has_no_interval():
    with pytest.raises(ValueError, match="pair them"):
        speedup(curve(3), curve(4), 0.6)
    one = speedup(curve(1), curve(1, gain=1.5), 0.7)
    assert one.estimate == pytest.approx(1.5) and np.isnan(one.low) and np.isnan(one.high)


@given(st.permutations(range(5)), st.integers(0, 99))
def test_the_order_of_seeds_does_not_matter_and_time_units_neither(order, seed):
    baseline, method = curve(5, noise=0.01, seed=seed), curve(5, 1.4, noise=0.01, seed=seed + 100)
    quality, order = float(np.mean(common_range(baseline, method))), np.array(order)
    found = speedup(baseline, method, quality, resamples=200)
    minutes = [Curve(c.seconds[order] / 60, c.quality[order]) for c in (baseline, method)]
    again = speedup(*minutes, quality, resamples=200)
    assert again.estimate == pytest.approx(found.estimate)
    assert again.low <= again.estimate <= again.high and found.low <= found.estimate <= found.high


def test_what_seeds_share_does_not_widen_the_interval():
    shared = 0.05 * np.random.default_rng(1).standard_normal(6)
    paired = speedup(curve(6, shared=shared), curve(6, 1.4, shared=shared), law(4.0), resamples=500)
    apart = speedup(curve(6, shared=shared), curve(6, 1.4, shared=shared[::-1].copy()), law(4.0), resamples=500)
    assert paired.high - paired.low < 1e-6 < apart.high - apart.low


@pytest.mark.parametrize(
    ("seeds", "noise", "clock"), [(3, 0.01, 0.0), (6, 0.01, 0.0), (6, 0.03, 0.0), (3, 0.01, 0.1), (5, 0.005, 0.15)]
)
def test_the_interval_holds_the_truth_as_often_as_it_says(seeds, noise, clock):
    runs, held = 300, 0
    for run in range(runs):
        baseline = curve(seeds, noise=noise, seed=2 * run, clock=clock)
        method = curve(seeds, 1.5, noise=noise, seed=2 * run + 1, clock=clock)
        found = speedup(baseline, method, law(4.0), resamples=400, seed=run)
        held += found.low <= 1.5 <= found.high
    assert held / runs >= 0.93  # 95 % less 1.6 standard errors of 300 runs


def test_a_quality_at_the_end_of_a_noisy_curve_has_an_open_interval():
    baseline, method = curve(5, noise=0.02, seed=3), curve(5, 1.5, noise=0.02, seed=4)
    found = speedup(baseline, method, common_range(baseline, method)[1], resamples=500)
    assert np.isinf(found.high)
