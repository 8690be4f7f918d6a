"""Seeds derived from named axes, so that what is shared between runs is said and not a side effect.

``derive(3, "order", dataset="cifar10", epoch=2)`` is the same for every method of repetition 3, and differs for
repetition 4: 'same data order for all methods, a new one per repetition' is a choice of axes.
"""

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from paper_repro.config import canonical_json

if TYPE_CHECKING:
    import torch


def derive(seed: int, stream: str, **axes: int | str) -> int:
    """A 63-bit seed for ``stream`` (what the draws are for) along the named ``axes``. Our choice: SHA-256."""
    digest = hashlib.sha256(canonical_json([seed, stream, axes]).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def numpy_rng(seed: int, stream: str, **axes: int | str) -> np.random.Generator:
    """A numpy generator on its own stream."""
    return np.random.default_rng(derive(seed, stream, **axes))


def torch_rng(seed: int, stream: str, **axes: int | str) -> "torch.Generator":
    """A torch CPU generator on its own stream."""
    import torch

    return torch.Generator().manual_seed(derive(seed, stream, **axes))
