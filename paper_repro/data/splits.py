"""Cut a validation (or test) split: seeded, stratified, and if asked without parting what belongs together."""

import hashlib
from dataclasses import dataclass

import numpy as np

from paper_repro.errors import UserError


@dataclass(frozen=True)
class Split:
    """Row numbers (int64, ascending) of the two parts, and the SHA-256 of both that goes into result records."""

    train: np.ndarray
    validation: np.ndarray
    sha256: str


def stratified_split(
    labels: np.ndarray, validation_fraction: float, seed: int, groups: np.ndarray | None = None
) -> Split:
    """Cut ``validation_fraction`` of every class from ``labels`` (integers [N]) into a validation split.

    Without ``groups`` each class gives round(fraction * its size) rows, at least one and never all. With ``groups``
    (integers [N]) a group stays whole: groups are taken in random order as long as no class exceeds its share, so the
    split may fall short of the fraction by less than a group. The random order is by SHA-256 of (seed, number): it
    depends on no library's generator (our choice).

    Raises UserError for a fraction outside (0, 1), unlabelled rows, or when no group is small enough.
    """
    labels = np.asarray(labels)
    if not 0.0 < validation_fraction < 1.0:
        raise UserError(f"The validation fraction is {validation_fraction}; it must lie between 0 and 1.")
    if labels.size == 0 or labels.min() < 0:
        raise UserError("Rows without a label cannot be split by class; choose a labelled split.")
    chosen = np.zeros(len(labels), dtype=bool)
    classes, sizes = np.unique(labels, return_counts=True)
    shares = np.clip(np.rint(sizes * validation_fraction).astype(np.int64), 1, np.maximum(sizes - 1, 0))
    if groups is None:
        order = _order(len(labels), seed)
        for label, share in zip(classes, shares, strict=True):
            chosen[order[labels[order] == label][:share]] = True
    else:
        chosen = _whole_groups(np.searchsorted(classes, labels), np.asarray(groups), shares, seed)
    train, validation = np.flatnonzero(~chosen).astype(np.int64), np.flatnonzero(chosen).astype(np.int64)
    if not len(train) or not len(validation):
        raise UserError(
            "The data is too small for a validation split, or too many of its rows are alike or belong together: such "
            "rows are never split. Give more data."
        )
    digest = hashlib.sha256(train.astype("<i8").tobytes() + b"|" + validation.astype("<i8").tobytes())
    return Split(train, validation, digest.hexdigest())


def _whole_groups(labels: np.ndarray, groups: np.ndarray, shares: np.ndarray, seed: int) -> np.ndarray:
    names, member = np.unique(groups, return_inverse=True)
    counts = np.zeros((len(names), len(shares)), dtype=np.int64)
    np.add.at(counts, (member, labels), 1)
    left = shares.copy()
    taken = np.zeros(len(names), dtype=bool)
    for group in _order(len(names), seed):
        if (counts[group] <= left).all():
            taken[group] = True
            left = left - counts[group]
    return taken[member]


def _order(count: int, seed: int) -> np.ndarray:
    keys = [hashlib.sha256(f"{seed}:{number}".encode()).digest() for number in range(count)]
    return np.array(sorted(range(count), key=keys.__getitem__), dtype=np.int64)
