"""Statistics of timings: medians, because the noise of a timing is one-sided. Pure; imports no torch.

The unit of every interval is the round, not the call: calls of one round share the state of the machine then.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from paper_repro.stats import Interval

NOISY = 0.05  # a coefficient of variation above this is called noisy (our choice)
Rounds = Sequence[float] | np.ndarray


class Summary(NamedTuple):
    """What one series of rounds says, in the unit of the series. Flagged rounds are counted and kept.

    ``low`` and ``high`` are NaN where there are too few rounds for an interval; ``median_unflagged`` is NaN where
    every round is flagged; ``cv`` is standard deviation over mean (NaN for one round).
    """

    median: float
    low: float
    high: float
    q25: float
    q75: float
    cv: float
    noisy: bool
    n: int
    flagged: int
    median_unflagged: float


def median_interval(values: Rounds, level: float = 0.95) -> Interval:
    """Median of ``values``, shape [n], with its distribution-free interval between two order statistics.

    The k-th smallest and the k-th largest value, with the largest k that keeps the coverage at or above ``level``
    for any continuous distribution of independent rounds (e.g. Conover, Practical Nonparametric Statistics). A
    bootstrap of the median does not: at 7 rounds its nominal 95 % interval covers 88 %. NaN limits below 6 rounds
    at 95 %. Raises ValueError for no values or NaN.
    """
    x = np.sort(_checked(values))
    k = _rank(len(x), level)
    if k == 0:
        return Interval(float(np.median(x)), float("nan"), float("nan"), len(x))
    return Interval(float(np.median(x)), float(x[k - 1]), float(x[-k]), len(x))


def ratio(numerator: Rounds, denominator: Rounds, level: float = 0.95) -> Interval:
    """Median over rounds of ``numerator / denominator``, shapes [n], with its order-statistic interval.

    Round i of both ran back to back, so that a machine that slowly drifts cancels in each quotient. Raises
    ValueError for unequal lengths.
    """
    top, bottom = _checked(numerator), _checked(denominator)
    if len(top) != len(bottom):
        raise ValueError(f"rounds are paired: {len(top)} of one and {len(bottom)} of the other cannot be divided")
    return median_interval(top / bottom, level)


def summarise(values: Rounds, flags: Sequence[Sequence[str]] | None = None, level: float = 0.95) -> Summary:
    """Summary of one value per round, shape [n]; ``flags`` [n] holds what was wrong with each round, if anything."""
    x = _checked(values)
    flagged = np.zeros(len(x), dtype=bool) if flags is None else np.array([bool(found) for found in flags])
    if len(flagged) != len(x):
        raise ValueError(f"{len(x)} rounds but {len(flagged)} lists of flags")
    interval = median_interval(x, level)
    q25, q75 = (float(q) for q in np.quantile(x, [0.25, 0.75]))
    cv = float(x.std(ddof=1) / x.mean()) if len(x) > 1 else float("nan")
    clean = float("nan") if flagged.all() else float(np.median(x[~flagged]))
    return Summary(*interval[:3], q25, q75, cv, cv > NOISY, len(x), int(flagged.sum()), clean)


def with_limits(name: str, unit: str, interval: Interval, split: str = "synthetic") -> list[dict[str, Any]]:
    """The metrics of a record for an estimate and its limits: ``name``, ``name/low`` and ``name/high``."""
    parts = {"": interval.estimate, "/low": interval.low, "/high": interval.high}
    return [
        {"name": name + part, "value": value, "unit": unit, "split": split, "n": interval.n}
        for part, value in parts.items()
    ]


def _rank(n: int, level: float) -> int:
    """Largest k with ``2 P(Binomial(n, 1/2) < k) <= 1 - level``; 0 where there is none."""
    tail, k = 0.0, 0
    while k < n // 2:
        tail += math.comb(n, k) / 2**n
        if 2 * tail > 1 - level:
            break
        k += 1
    return k


def _checked(values: Rounds) -> np.ndarray:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or not len(x) or np.isnan(x).any():
        raise ValueError(f"statistics of timings need a non-empty series without NaN, not {values!r}")
    return x
