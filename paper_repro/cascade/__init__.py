"""Cascades: deferral rules, deferral curves and cost, calibrated thresholds, and the deployable module."""

from paper_repro.cascade.calibration import calibrate_threshold
from paper_repro.cascade.module import Cascade, CascadeOutput
from paper_repro.cascade.rules import DeferralHead, Threshold

__all__ = ["Cascade", "CascadeOutput", "DeferralHead", "Threshold", "calibrate_threshold"]
