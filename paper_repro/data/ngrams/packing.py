"""Texts as the kernels read them: one run of UTF-8 bytes."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from paper_repro.data.ngrams.characters import Analyzer, lower_case, word_characters
from paper_repro.data.ngrams.machine import BLOCK, address, get_int32, get_uint8, get_uint64, kernel, put_uint8
from paper_repro.data.ngrams.tokens import character_bytes, decode
from paper_repro.errors import UserError

_HIGH = np.uint64(0x8080808080808080)  # the bits that ASCII bytes do not have
_NONE = np.zeros(0, dtype=np.uint8)


@dataclass(frozen=True)
class Packed:
    """UTF-8 bytes of N texts (uint8), a line break between two; text i ends before ends[i] (int64 [N]).

    All but ASCII is in lower case; the kernels that read it lower the rest. ``longest``: bytes of the longest text.
    ``ascii``: all is ASCII.
    """

    data: np.ndarray
    ends: np.ndarray
    longest: int
    ascii: bool

    def letters(self, analyzer: Analyzer) -> np.ndarray:
        """What a kernel must know of characters to read these texts: nothing if all is ASCII."""
        return _NONE if self.ascii else word_characters(analyzer)


def refuse_one(texts: object) -> None:
    """UserError for a single text in place of several."""
    if isinstance(texts, str | bytes):
        raise UserError("One text was given where a list of texts is needed; put it into a list.")


def as_rows(texts: Iterable[str | bytes], first_row: int = 0) -> list[str]:
    """The texts as a list of strings; ``first_row`` is the number of the first in messages.

    Raises UserError for a single text, for what is neither string nor bytes, and for bytes that are not UTF-8.
    """
    refuse_one(texts)
    rows: list[str] = texts if isinstance(texts, list) else list(texts)  # type: ignore[arg-type]
    if set(map(type, rows)) - {str}:
        return [_as_text(text, row) for row, text in enumerate(rows, first_row)]
    return rows


def _as_text(text: object, row: int) -> str:
    if isinstance(text, str):
        return str(text)
    if not isinstance(text, bytes):
        raise UserError(f"Row {row} is {type(text).__name__}, not text; give strings or UTF-8 bytes.")
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"Row {row} is not valid UTF-8 (at byte {error.start}); decode it with its own encoding, "
            "or with errors='replace', and give strings."
        ) from None


def pack(texts: list[str]) -> Packed:
    """Put texts end to end. Lone surrogates are kept, as three bytes each."""
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    others = [row for row, text in enumerate(texts) if not text.isascii()]
    packed = _join(encoded, not others)
    if others:
        rows = np.array(others, dtype=np.int64)
        if not lower_others(packed.data, packed.ends, rows, lower_case()):
            for row in others:
                encoded[row] = texts[row].lower().encode("utf-8", "surrogatepass")
            return _join(encoded, False)
    return packed


def _join(encoded: list[bytes], is_ascii: bool) -> Packed:
    sizes = list(map(len, encoded))
    ends = np.fromiter(itertools.accumulate(sizes, lambda end, size: end + 1 + size), dtype=np.int64, count=len(sizes))
    data = np.frombuffer(bytearray(b"\n").join([*encoded, bytes(BLOCK)]), dtype=np.uint8)
    return Packed(data, ends, max(sizes, default=0), is_ascii)


@kernel
def lower_others(data: np.ndarray, ends: np.ndarray, rows: np.ndarray, lower: np.ndarray) -> bool:
    """Put the characters of these texts that are not ASCII into lower case, in place.

    False where that is not possible, because the lower case has another length or depends on what is around.
    """
    for row in rows:
        at = ends[row - 1] + 1 if row else 0
        while at < ends[row]:
            if get_uint64(address(data) + at, 0) & _HIGH == 0:
                at += 8
                continue
            first = get_uint8(address(data), at)
            size = character_bytes(first)
            if size > 1:
                character = address(data) + at
                code = get_int32(address(lower), decode(character, first, size))
                if code < 0:
                    return False
                if code > 0:
                    for last in range(size - 1, 0, -1):
                        put_uint8(character, last, code & 0x3F | 0x80)
                        code >>= 6
                    put_uint8(character, 0, (0xF00 >> size) & 0xFF | code)
            at += size
    return True
