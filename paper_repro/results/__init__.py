"""One JSON file per cell: schema, atomic store, environment capture, tidy frames. Imports no torch."""

from paper_repro.results.frame import load, load_samples, samples_to_frame, to_frame
from paper_repro.results.schema import SCHEMA, Metric, Record
from paper_repro.results.store import Store

__all__ = ["SCHEMA", "Metric", "Record", "Store", "load", "load_samples", "samples_to_frame", "to_frame"]
