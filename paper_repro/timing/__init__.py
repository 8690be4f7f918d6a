"""The one timing harness. Importing it imports no torch; ``timing.inference`` does."""

from paper_repro.timing.harness import Measurement, Samples, measure
from paper_repro.timing.machine import Machine
from paper_repro.timing.summary import Summary, median_interval, ratio, summarise
from paper_repro.timing.torch_hooks import device_sync, module_state, pinned_threads

__all__ = [
    "Machine",
    "Measurement",
    "Samples",
    "Summary",
    "device_sync",
    "measure",
    "median_interval",
    "module_state",
    "pinned_threads",
    "ratio",
    "summarise",
]
