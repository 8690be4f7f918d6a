"""Choose a deferral threshold with a finite-sample guarantee (beyond the paper).

Given epsilon and delta, pick the threshold on held-out data such that, for exchangeable data,
``P(accuracy of the cascade >= accuracy of the teacher - epsilon) >= 1 - delta``.
Learn-then-test (Angelopoulos et al., arXiv 2110.01052) by fixed-sequence testing: thresholds are tried from 'keep
nothing' (where the loss is exactly 0) towards 'keep everything', and the last one before the first failure is taken.
Each step tests the mean of the bounded loss ``1[kept] (1[teacher right] - 1[student right])`` with a betting test
(Waudby-Smith and Ramdas, arXiv 2010.09686), which is exact for any n and uses the small variance of this loss.
"""

import numpy as np
from numpy.typing import ArrayLike

from paper_repro.seeds import numpy_rng

# From strict to loose, for scores in [0, 1] such as the margin; dense at both ends. Fixed before any data is seen: a
# threshold picked from the scores it is tested on would not be a hypothesis of the theorem.
THRESHOLDS = 1.0 / (1.0 + np.exp(-np.linspace(10.0, -10.0, 201)))


def betting_p_value(values: np.ndarray, bound: float, delta: float) -> float:
    """p-value of 'the mean of ``values`` is at least ``bound``' for independent values in [0, 1].

    Capital ``prod_t (1 + b_t (bound - x_t))`` is a non-negative supermartingale under the hypothesis when each bet
    ``b_t`` depends on earlier values only, so its running maximum exceeds 1/p with probability at most p (Ville).
    ``delta`` only sets the size of the bets.
    """
    n = len(values)
    before = np.arange(1, n + 1)
    mean = (0.5 + np.concatenate([[0.0], np.cumsum(values)])) / np.arange(1, n + 2)
    squares = np.concatenate([[0.0], np.cumsum((values - mean[1:]) ** 2)])
    variance = (0.25 + squares[:-1]) / before
    bets = np.minimum(np.sqrt(2.0 * np.log(1.0 / delta) / (n * variance)), 0.75 / (1.0 - bound))
    log_capital = np.cumsum(np.log1p(bets * (bound - values)))
    return float(min(1.0, np.exp(-max(0.0, log_capital.max()))))


def calibrate_threshold(
    score: ArrayLike,
    student_right: ArrayLike,
    teacher_right: ArrayLike,
    *,
    epsilon: float,
    delta: float,
    thresholds: np.ndarray = THRESHOLDS,
) -> float:
    """The threshold (keep ``score >= threshold``) chosen on held-out data [N]; infinity when nothing may be kept.

    Takes arrays and CPU tensors. ``thresholds`` are the candidates from strict to loose; they must not be computed from
    the held-out data. ``epsilon`` and ``delta`` are fractions in (0, 1). Raises ValueError outside of that or without
    data.
    """
    if not (0.0 < epsilon < 1.0 and 0.0 < delta < 1.0):
        raise ValueError(f"epsilon and delta must be in (0, 1); got {epsilon} and {delta}")
    scores = np.asarray(score)
    if len(scores) == 0:
        raise ValueError("no held-out examples to calibrate on")
    # The betting test is valid for data in random order; a file sorted by class or by score is not.
    order = numpy_rng(0, "calibration order").permutation(len(scores))
    scores = scores[order]
    loss = (np.asarray(teacher_right, np.float64) - np.asarray(student_right, np.float64))[order]
    accepted = float("inf")
    for threshold in thresholds:
        kept_loss = np.where(scores >= threshold, loss, 0.0)
        if betting_p_value((1.0 + kept_loss) / 2.0, (1.0 + epsilon) / 2.0, delta) > delta:
            break
        accepted = float(threshold)
    return accepted
