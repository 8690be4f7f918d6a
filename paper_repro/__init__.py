"""Reproduce four papers on big-model quality at small-model cost, with judged claims."""

__version__ = "0.1.0"
