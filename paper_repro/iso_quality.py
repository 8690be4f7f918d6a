"""Iso-quality speed-up: how much sooner one way of training reaches the same quality as another.

Every point is a run of its own whose learning rate has come to its end: the middle of a longer run is no short run.
t(Q) is read from the curve of mean time and mean quality over seeds, made monotone (isotonic regression) and
interpolated in straight lines between durations, in the logarithm of time. Nothing is extrapolated: the speed-up
S(Q) = t_baseline(Q) / t_method(Q) exists where both curves do. The paper's own formula could not be read; this is the
practice of its laboratory (Portes et al., arXiv 2206.00832; secondary) with an interval, which is our choice.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats
from scipy.optimize import isotonic_regression

from paper_repro.stats import RESAMPLES, SMALL, Interval

ROUNDING = 1e-9  # two means of the same numbers may differ by as much


@dataclass(frozen=True)
class Curve:
    """Runs of one way of training: ``seconds`` and ``quality`` float [S, D] of S seeds and D durations, each seed at
    each duration. Durations ascend. Higher quality is better, so give a loss with a minus sign.

    Raises ValueError for other shapes, fewer than two durations, values that are not finite, and times that are not
    positive or whose means do not ascend.
    """

    seconds: np.ndarray
    quality: np.ndarray

    def __post_init__(self) -> None:
        if self.seconds.shape != self.quality.shape or self.seconds.ndim != 2 or self.seconds.shape[1] < 2:
            raise ValueError(
                "a curve needs times and qualities of the same shape [seeds, durations], 2 durations or more"
            )
        if not (np.isfinite(self.seconds).all() and np.isfinite(self.quality).all() and (self.seconds > 0).all()):
            raise ValueError("times must be positive, and times and qualities finite")
        if (np.diff(self.seconds.mean(axis=0)) <= 0).any():
            raise ValueError("durations must ascend: the mean time of each must be above that of the one before")

    @property
    def seeds(self) -> int:
        return len(self.quality)

    @property
    def range(self) -> tuple[float, float]:
        """The lowest and the highest quality that the curve reaches."""
        quality = isotonic_regression(self.quality.mean(axis=0)).x
        return float(quality[0]), float(quality[-1])

    def seconds_to(self, quality: float) -> float:
        """Seconds to ``quality``. Raises ValueError outside ``range``."""
        low, high = self.range
        if not low - ROUNDING <= quality <= high + ROUNDING:
            raise ValueError(f"a quality of {quality:.6g} is outside what this curve reaches, {low:.6g} to {high:.6g}")
        return self.weighted_seconds_to(quality, np.full((1, self.seeds), 1 / self.seeds)).item()

    def weighted_seconds_to(self, quality: float, weights: np.ndarray) -> np.ndarray:
        """Seconds to ``quality`` [R] on curves of weighted means over seeds; ``weights`` float [R, S], rows of sum 1.

        Infinity where the curve ends below ``quality``, and 0 where it begins above: how long shorter runs would take
        is not known.
        """
        means = zip(weights @ self.seconds, weights @ self.quality, strict=True)
        return np.array([_interpolated(seconds, qualities, quality) for seconds, qualities in means])


def _interpolated(seconds: np.ndarray, quality: np.ndarray, wanted: float) -> float:
    reached = isotonic_regression(quality).x
    if wanted < reached[0] - ROUNDING:
        return 0.0
    if wanted > reached[-1] + ROUNDING:
        return float("inf")
    wanted = min(max(wanted, reached[0]), reached[-1])
    right = int(np.searchsorted(reached, wanted))  # the first duration that reaches it
    if right == 0:
        return float(seconds[0])
    share = (wanted - reached[right - 1]) / (reached[right] - reached[right - 1])
    left, to = np.log(seconds[right - 1 : right + 1])
    return float(np.exp(left + share * (to - left)))


def common_range(baseline: Curve, method: Curve) -> tuple[float, float] | None:
    """The qualities that both curves reach, or None where they have none in common."""
    low, high = max(baseline.range[0], method.range[0]), min(baseline.range[1], method.range[1])
    return (low, high) if low <= high else None


def speedup(
    baseline: Curve, method: Curve, quality: float, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """S(Q) = t_baseline(Q) / t_method(Q) with an interval over seeds; row i of both is the same seed.

    What else the method costs, as training its teacher, belongs to its runs' seconds. Seeds are drawn with replacement,
    whole and for both curves together, so that what they share cancels. In a draw in which a curve does not reach Q, or
    begins above it, its time counts as infinite or as zero, which widens the interval; where that leaves no quotient
    the draw is left out. Below ``SMALL`` seeds each limit is the wider of the bootstrap's and of Student's t on the
    jackknife's pseudo-values of log S, as bootstraps of few values are too narrow (see ``stats``). Limits are NaN for
    one seed.

    Raises ValueError where Q is outside the range that both curves reach, or where they have different seeds.
    """
    n = baseline.seeds
    if n != method.seeds:
        raise ValueError(f"the baseline has {n} seeds and the method {method.seeds}; pair them")
    both = common_range(baseline, method)
    if both is None or not both[0] - ROUNDING <= quality <= both[1] + ROUNDING:
        reach = "nothing" if both is None else f"{both[0]:.6g} to {both[1]:.6g}"
        raise ValueError(f"a quality of {quality:.6g} is not reached by both curves, which have {reach} in common")

    def ratios(weights: np.ndarray) -> np.ndarray:
        slow, fast = (curve.weighted_seconds_to(quality, weights) for curve in (baseline, method))
        with np.errstate(invalid="ignore", divide="ignore"):
            return slow / fast

    return _over_seeds(ratios, n, level, resamples, seed)


def speedup_at_most(
    baseline: Curve, method: Curve, quality: float, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """How large S(Q) can be where ``method`` ends below ``quality``: it takes longer than its longest runs did.

    The estimate is t_baseline(Q) over the mean time of those runs, and the interval begins at 0. Its upper limit is as
    in ``speedup``, with the time of the longest runs in every draw in which the method does not reach Q. This assumes
    of runs longer than any that was made only that they take longer.

    Raises ValueError where the method does reach Q, the baseline does not, or they have different seeds.
    """
    n = baseline.seeds
    if n != method.seeds:
        raise ValueError(f"the baseline has {n} seeds and the method {method.seeds}; pair them")
    baseline.seconds_to(quality)
    if quality <= method.range[1] + ROUNDING:
        raise ValueError(f"the method reaches a quality of {quality:.6g} or begins above it; use speedup")

    def bounds(weights: np.ndarray) -> np.ndarray:
        slow, fast = (curve.weighted_seconds_to(quality, weights) for curve in (baseline, method))
        with np.errstate(invalid="ignore", divide="ignore"):
            return slow / np.where(np.isinf(fast), weights @ method.seconds[:, -1], fast)

    found = _over_seeds(bounds, n, level, resamples, seed)
    return Interval(found.estimate, float("nan") if n == 1 else 0.0, found.high, n)


def _over_seeds(
    statistic: Callable[[np.ndarray], np.ndarray], n: int, level: float, resamples: int, seed: int
) -> Interval:
    """``statistic`` of weights of seeds (float [R, n] -> [R]) at equal weights, with the interval of ``speedup``."""
    estimate = statistic(np.full((1, n), 1 / n)).item()
    if n == 1:
        return Interval(estimate, float("nan"), float("nan"), 1)
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=resamples)
    different, back = np.unique(draws, axis=0, return_inverse=True)  # of few seeds there are few
    drawn = statistic(different / n)[back.ravel()]
    tail = (1 - level) / 2
    low, high = np.quantile(drawn[~np.isnan(drawn)], [tail, 1 - tail], method="inverted_cdf")
    if n < SMALL:
        without = statistic((1 - np.eye(n)) / (n - 1))
        t_low, t_high = _of_pseudo_values(estimate, without, level)
        low, high = min(low, t_low), max(high, t_high)
    return Interval(estimate, float(low), float(high), n)


def _of_pseudo_values(estimate: float, without: np.ndarray, level: float) -> tuple[float, float]:
    """Student's t on the jackknife of log S; ``without`` [n] leaves one seed out. Nothing is known unless all exist."""
    n = len(without)
    if not np.isfinite(without).all() or (without <= 0).any():
        return 0.0, float("inf")
    pseudo = n * np.log(estimate) - (n - 1) * np.log(without)
    half = stats.t.ppf(0.5 + level / 2, n - 1) * pseudo.std(ddof=1) / np.sqrt(n)
    return float(np.exp(pseudo.mean() - half)), float(np.exp(pseudo.mean() + half))


def break_even(baseline: Curve, method: Curve, quality: float, teacher_s: float) -> float:
    """How many students must share a teacher that took ``teacher_s`` seconds until they have paid for it.

    Infinity where the method saves nothing. Raises ValueError where a curve does not reach ``quality``.
    """
    saved = baseline.seconds_to(quality) - method.seconds_to(quality)
    return teacher_s / saved if saved > 0 else float("inf")
