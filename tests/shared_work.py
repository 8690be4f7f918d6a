"""Functions for processes that share work: in a file of their own, so that such a process imports nothing heavy."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

from paper_repro.errors import UserError


def trouble(texts: Sequence[str]) -> list[str]:
    """Upper case, or trouble."""
    if "fail" in texts:
        raise UserError("No.")
    if "die" in texts:
        os._exit(1)
    return [text.upper() for text in texts]


def read_ngrams(path: Path, texts: Sequence[str]) -> tuple[list[int], list[int], bool]:
    """The ids and offsets that a stored vocabulary gives ``texts``, and whether its file is mapped in this process."""
    from paper_repro.data.ngrams import Vocabulary

    vocabulary = Vocabulary.load(path)
    bags = vocabulary.transform(texts, threads=1)
    return bags.ids.tolist(), bags.offsets.tolist(), str(path) in Path("/proc/self/maps").read_text(encoding="utf-8")


def spin(seconds: Sequence[float]) -> None:
    """Use the first of ``seconds`` of CPU."""
    end = time.process_time() + seconds[0]
    while time.process_time() < end:
        pass
