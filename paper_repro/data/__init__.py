"""Data: the manifest of all data sets, one way to load them, and what the trainer reads them through."""

from paper_repro.data.images import ImageSplit, load_images
from paper_repro.data.load import absolute, describe, fingerprint, label, load
from paper_repro.data.manifest import MANIFEST, DatasetInfo
from paper_repro.data.phrases import overlap_mask, phrase_groups, sst2_test_overlap
from paper_repro.data.splits import Split, stratified_split
from paper_repro.data.store import fetch, status, verify
from paper_repro.data.text import TextSplit, Tokens, encode, load_texts

__all__ = [
    "MANIFEST",
    "DatasetInfo",
    "ImageSplit",
    "Split",
    "TextSplit",
    "Tokens",
    "absolute",
    "describe",
    "encode",
    "fetch",
    "fingerprint",
    "label",
    "load",
    "load_images",
    "load_texts",
    "overlap_mask",
    "phrase_groups",
    "sst2_test_overlap",
    "status",
    "stratified_split",
    "verify",
]
