"""What Python says of characters, as tables for the kernels: which belong to words, and what their lower case is.

Built when the first text comes that is not ASCII, from this very Python's Unicode, in about 20 ms.
"""

import functools
import re
from typing import Literal

import numpy as np

from paper_repro.errors import UserError

Analyzer = Literal["sklearn", "whitespace"]
WORDS: dict[Analyzer, str] = {"sklearn": r"\w+", "whitespace": r"\S+"}
CODE_POINTS = 0x110000
CAPITAL_SIGMA = 0x3A3  # the one letter whose lower case depends on its neighbours


def check(n: int, analyzer: str) -> None:
    """UserError for an n-gram length that cannot be or an unknown analyzer."""
    if not 1 <= n <= 255:
        raise UserError(f"N-grams of 1 to {n} words cannot be made; choose n from 1 to 255.")
    if analyzer not in WORDS:
        raise UserError(f"There is no analyzer '{analyzer}'; choose one of: {', '.join(WORDS)}.")


@functools.cache
def word_characters(analyzer: Analyzer) -> np.ndarray:
    """A bit per code point (uint8 [CODE_POINTS / 8], lowest bit first): does it belong to words?

    As ``re`` has it, and ``str.split``, whose whitespace is the same.
    """
    flags = np.zeros(CODE_POINTS, dtype=bool)
    for run in re.finditer(WORDS[analyzer], _all_characters()):
        flags[run.start() : run.end()] = True
    return np.packbits(flags, bitorder="little")


@functools.cache
def lower_case() -> np.ndarray:
    """Per code point (int32 [CODE_POINTS]) its lower case if that is another one of as many UTF-8 bytes, else 0; -1
    where ``str.lower`` has more to do."""
    table = np.zeros(CODE_POINTS, dtype=np.int32)
    characters = _all_characters()
    for start in range(0, CODE_POINTS, 0x1000):
        chunk = characters[start : start + 0x1000]
        if chunk.lower() != chunk:
            for code, character in enumerate(chunk, start):
                lower = character.lower()
                if lower != character:
                    table[code] = ord(lower) if len(lower) == 1 and _bytes(lower) == _bytes(character) else -1
    table[CAPITAL_SIGMA] = -1
    return table


def _all_characters() -> str:
    return np.arange(CODE_POINTS, dtype="<u4").tobytes().decode("utf-32-le", "surrogatepass")


def _bytes(character: str) -> int:
    return len(character.encode("utf-8", "surrogatepass"))
