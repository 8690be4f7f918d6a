"""Deferral curves and their area, operating points, and amortised cost. Pure numpy.

With K the kept examples, ``acc = P(K) acc_S(K) + (1 - P(K)) acc_T(not K)``; the x-axis is always the fraction of the
examples that the student keeps, from 0 (all teacher) to 1 (all student).
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def deferral_curve(score: np.ndarray, student_right: np.ndarray, teacher_right: np.ndarray) -> Floats:
    """Cascade accuracy [N + 1] when the k highest scores are kept, k = 0 .. N.

    Examples with equal scores are interchangeable: the curve is its expectation over their order (a straight line), so
    a constant score gives random deferral and no ordering of the data changes the result.
    Raises ValueError when the arrays differ in length or are empty.
    """
    if not len(score) == len(student_right) == len(teacher_right) > 0:
        raise ValueError(f"need equal, positive lengths; got {len(score)}, {len(student_right)}, {len(teacher_right)}")
    gain = student_right.astype(np.float64) - teacher_right.astype(np.float64)
    _, group, size = np.unique(-score, return_inverse=True, return_counts=True)
    mean_gain = np.bincount(group, weights=gain) / size
    steps = np.repeat(mean_gain, size)
    return (teacher_right.sum() + np.concatenate([[0.0], np.cumsum(steps)])) / len(score)


def area(curve: Floats) -> float:
    """Area under a curve over the student fraction 0..1 (trapezoid): the mean accuracy of the cascade."""
    return float((curve[:-1] + curve[1:]).mean() / 2)


def at_fraction(curve: Floats, fractions: np.ndarray) -> Floats:
    """The curve at the given student fractions, linearly interpolated."""
    return np.interp(fractions, np.linspace(0.0, 1.0, len(curve)), curve)


def oracle_score(student_right: np.ndarray, teacher_right: np.ndarray) -> Floats:
    """The best possible order: keep where only the student is right, defer last where only the teacher is."""
    return student_right.astype(np.float64) - teacher_right.astype(np.float64)


def threshold_for_fraction(score: np.ndarray, fraction: float) -> float:
    """The threshold that keeps the share ``fraction`` of these (held-out) scores; 0 keeps none, 1 keeps all."""
    if fraction <= 0.0:
        return float("inf")
    return float(np.quantile(score, 1.0 - fraction, method="lower"))


def operating_point(keep: np.ndarray, student_right: np.ndarray, teacher_right: np.ndarray) -> tuple[float, float]:
    """(student fraction, cascade accuracy) for a boolean keep decision [N]."""
    return float(keep.mean()), float(np.where(keep, student_right, teacher_right).mean())


def amortised_cost(
    student_cost: float, teacher_cost: float, student_fraction: np.ndarray | float
) -> np.ndarray | float:
    """Mean cost per example, ``c_S + (1 - P(K)) c_T``, in the unit of the two costs: the student always runs."""
    return student_cost + (1.0 - np.asarray(student_fraction)) * teacher_cost


def kept_by_easy_share(keep: np.ndarray, easy: np.ndarray, share: float) -> float:
    """Student fraction when the traffic's share of easy examples is ``share``: the test set reweighted."""
    return float(share * keep[easy].mean() + (1.0 - share) * keep[~easy].mean())
