"""Texts, and their tokens: encoded once, cached, padded per batch."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock

from paper_repro.config import sha256_key
from paper_repro.data.load import open_split
from paper_repro.errors import UserError
from paper_repro.paths import cache_dir

if TYPE_CHECKING:
    from torch import Tensor

WORD = re.compile(r"\b\w\w+\b")  # scikit-learn's
ENCODING = 1  # raise when ``encode`` changes what it writes: the cache is keyed on it


@dataclass(frozen=True)
class TextSplit:
    """texts [N], the second texts of pairs [N] or None, labels int64 [N], names of the classes, fingerprint."""

    texts: list[str] = field(repr=False)
    pairs: list[str] | None = field(repr=False)
    labels: np.ndarray
    classes: list[str]
    fingerprint: str


@dataclass(frozen=True)
class Tokens:
    """Token ids of N texts end to end (int32 [total]); text i is ids[offsets[i] : offsets[i + 1]] (offsets int64)."""

    ids: np.ndarray
    offsets: np.ndarray
    pad_id: int = 0

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def pad(self, indices: np.ndarray, max_length: int) -> "tuple[Tensor, Tensor]":
        """input_ids and attention_mask (both int64 [B, L]) of the texts ``indices``; L is the longest, at most
        ``max_length``, at least 1. Longer texts are cut here, which loses their last special token: encode with the
        same ``max_length``.
        """
        import torch

        starts = self.offsets[indices]
        lengths = np.minimum(self.offsets[np.asarray(indices) + 1] - starts, max_length)
        column = np.arange(max(int(lengths.max(initial=1)), 1))
        mask = column < lengths[:, None]
        ids = np.full(mask.shape, self.pad_id, dtype=np.int64)
        ids[mask] = self.ids[(starts[:, None] + column)[mask]]
        return torch.from_numpy(ids), torch.from_numpy(mask.astype(np.int64))


def plain_words(text: str) -> str:
    """The words of ``text`` by scikit-learn's rule, as an n-gram student reads it: what two copies have in common."""
    return " ".join(WORD.findall(text.lower()))


def load_texts(name: str, split: str) -> TextSplit:
    """The texts of ``split`` ("test" is the official labelled test, GLUE's validation for example).

    Raises UserError for data that is missing, not text, or without class labels.
    """
    opened = open_split(name, split)
    columns = opened.info.columns
    if opened.info.modality != "text":
        raise UserError(f"The data set '{name}' holds images, not text; choose a text data set.")
    return TextSplit(
        opened.strings(columns.input),
        opened.strings(columns.pair) if columns.pair else None,
        opened.labels(),
        opened.classes(),
        opened.fingerprint,
    )


def encode(split: TextSplit, tokenizer: Any, max_length: int) -> Tokens:
    """Encode the texts (or pairs) of ``split``, special tokens included, each cut to ``max_length`` tokens.

    ``tokenizer`` is a fast transformers tokenizer or a ``tokenizers.Tokenizer``; it is copied, so its own truncation
    and padding neither matter nor change. Cached in ``<cache>/tokens`` by fingerprint, tokenizer and length.
    """
    from tokenizers import Tokenizer

    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    settings = {**json.loads(backend.to_str()), "truncation": None, "padding": None}
    identity = {"data": split.fingerprint, "tokenizer": sha256_key(settings), "length": max_length, "rule": ENCODING}
    path = cache_dir() / "tokens" / f"{sha256_key(identity)}.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        if not path.exists():
            copy = Tokenizer.from_str(json.dumps(settings))
            copy.enable_truncation(max_length)
            _write(path, copy, split)
    with np.load(path, allow_pickle=False) as stored:
        return Tokens(stored["ids"], stored["offsets"], _pad_id(tokenizer, backend))


def _write(path: Path, tokenizer: Any, split: TextSplit) -> None:
    rows = split.texts if split.pairs is None else list(zip(split.texts, split.pairs, strict=True))
    encoded = [np.array(one.ids, dtype=np.int32) for one in tokenizer.encode_batch_fast(rows)]
    lengths = [0, *(len(one) for one in encoded)]
    temporary = path.with_suffix(".partial.npz")
    empty = np.zeros(0, dtype=np.int32)
    np.savez(temporary, ids=np.concatenate([empty, *encoded]), offsets=np.cumsum(lengths, dtype=np.int64))
    temporary.replace(path)


def _pad_id(tokenizer: Any, backend: Any) -> int:
    pad_id = getattr(tokenizer, "pad_token_id", None)
    if pad_id is None and backend.padding:
        pad_id = backend.padding["pad_id"]
    if pad_id is None:
        pad_id = next((i for i in map(backend.token_to_id, ("[PAD]", "<pad>")) if i is not None), 0)
    return int(pad_id)
