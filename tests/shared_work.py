"""Functions for processes that share work: in a file of their own, so that such a process imports nothing heavy."""

import os
import time
from collections.abc import Sequence

from paper_repro.errors import UserError


def trouble(texts: Sequence[str]) -> list[str]:
    """Upper case, or trouble."""
    if "fail" in texts:
        raise UserError("No.")
    if "die" in texts:
        os._exit(1)
    return [text.upper() for text in texts]


def spin(seconds: Sequence[float]) -> None:
    """Use the first of ``seconds`` of CPU."""
    end = time.process_time() + seconds[0]
    while time.process_time() < end:
        pass
