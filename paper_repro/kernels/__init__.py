"""Majority Kernels (arXiv 2402.05033): train k kernels, deploy their mean. Also the controls that speak for or against.

Read in this order: ``majority`` (expand, fold), ``coefficients`` (the laws), ``drawn`` (one draw per step), ``fused``
(fast optimisers), ``noise``, ``simplex``, ``selection`` (what it is compared with), ``sharpness``.
"""

from paper_repro.kernels.coefficients import Law, draw_coefficients, expected_square, pairing
from paper_repro.kernels.drawn import draw, drawn
from paper_repro.kernels.fused import MajorityAdamW, MajoritySGD
from paper_repro.kernels.majority import (
    Granularity,
    Layers,
    Majority,
    Scale,
    are_kernels,
    expand,
    fold,
    fold_state,
    fuse,
    is_fused,
    is_stack,
    spread,
    untied,
)
from paper_repro.kernels.noise import add_noise
from paper_repro.kernels.recalibration import RECALIBRATION, recalibrated

__all__ = [
    "RECALIBRATION",
    "Granularity",
    "Law",
    "Layers",
    "Majority",
    "MajorityAdamW",
    "MajoritySGD",
    "Scale",
    "add_noise",
    "are_kernels",
    "draw",
    "draw_coefficients",
    "drawn",
    "expand",
    "expected_square",
    "fold",
    "fold_state",
    "fuse",
    "is_fused",
    "is_stack",
    "pairing",
    "recalibrated",
    "spread",
    "untied",
]
