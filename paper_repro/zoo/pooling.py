"""Mean and sum pooling of table rows on a CPU, with a backward pass that makes each touched row's gradient once.

torch either gives a dense gradient as large as the table or a sparse one with a row per look-up. Here look-ups are
sorted by row and then by bag, and each row's sum is written once, its terms added in the order of the bags.
"""

from typing import Any, Literal

import numba
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


class PoolRows(torch.autograd.Function):
    """``F.embedding_bag(ids, table, offsets, mode)`` with last offset; its gradient is sparse and coalesced."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, ids: Tensor, offsets: Tensor, mode: Literal["mean", "sum"]) -> Tensor:
        ctx.save_for_backward(ids, offsets)
        ctx.shape, ctx.mode = table.shape, mode
        return F.embedding_bag(ids, table, offsets, mode=mode, include_last_offset=True)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        ids, offsets = ctx.saved_tensors
        sizes = offsets.diff().numpy()
        weights = np.ones(len(sizes), np.float32)
        if ctx.mode == "mean":
            weights /= np.maximum(sizes, 1)
        bits = max(len(sizes) - 1, 1).bit_length()
        lookups = ids.numpy() << bits | np.repeat(np.arange(len(sizes)), sizes)
        lookups.sort()
        rows, values = _sums(lookups, bits, weights, grads[0].contiguous().numpy())
        gradient = torch.sparse_coo_tensor(
            torch.from_numpy(rows)[None], torch.from_numpy(values), ctx.shape,
            check_invariants=False, is_coalesced=True,
        )  # fmt: skip
        return gradient, None, None, None


@numba.njit(nogil=True, cache=True, fastmath={"contract"})
def _sums(lookups: np.ndarray, bits: int, weights: np.ndarray, gradient: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distinct rows (int64 [U]) and, for each, the weighted sum of ``gradient`` [B, d] over the bags that look it up.

    ``lookups``: row << bits | bag, sorted.
    """
    distinct, last = 0, np.int64(-1)
    for lookup in lookups:
        if lookup >> bits != last:
            distinct, last = distinct + 1, lookup >> bits
    rows, values = np.empty(distinct, np.int64), np.zeros((distinct, gradient.shape[1]), np.float32)
    at, last = -1, np.int64(-1)
    for lookup in lookups:
        row, bag = lookup >> bits, lookup & ((np.int64(1) << bits) - 1)
        if row != last:
            at, last = at + 1, row
            rows[at] = row
        for column in range(gradient.shape[1]):
            values[at, column] += weights[bag] * gradient[bag, column]
    return rows, values
