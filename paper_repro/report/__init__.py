"""The report: one self-contained page with every claim, figure, environment and deviation. Imports no torch."""

from paper_repro.report.build import build
from paper_repro.report.deviations import deviations_text, write_deviations

__all__ = ["build", "deviations_text", "write_deviations"]
