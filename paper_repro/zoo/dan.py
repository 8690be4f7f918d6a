"""The n-gram student of Sparse Distillation: a huge table, a mean, a small head (arXiv 2110.08536v2, section 2.3).

A batch is ``ids`` (int64 [total], the n-grams of all texts end to end) and ``offsets`` (int64 [B + 1]); nothing is
padded. In training only the rows that a batch looks up are touched, and the table gets one sparse gradient in which
each comes once. So neither forward nor backward knows how many rows the table has. Mean and sum on a CPU have kernels
for that (``zoo.pooling``); else the rows are taken out of the table once, and all else is ordinary autograd on that
small matrix.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paper_repro.errors import UserError
from paper_repro.zoo.pooling import PoolRows

Pooling = Literal["mean", "sum", "max", "attention"]


class Dan(nn.Module):
    """Pooled n-gram embeddings [dim] -> hidden layers -> logits: ``W2 act(W1 mean_i E(g_i) + b1) + b2``.

    ``hidden``: width of each hidden layer, None is one of ``dim`` (the paper's head is dim-dim-classes).
    ``activation``: the paper says ReLU, its released code ran tanh. ``pooling``: the paper's table 5; attention is the
    softmax of ``E(g_i) . query`` with one learned query. ``feature_dropout``: share of a batch's n-grams that is left
    out, ``dropout``: before each linear layer; both as in the released code, in training only. ``pairs``: two texts per
    example, u and v, through one table; the head reads [u, v, u * v, |u - v|] (section 4.4).

    The table starts normal with standard deviation ``init_std`` (torch's 1.0 drowns what few epochs can learn). A text
    without n-grams pools to zeros. Raises UserError for sizes below 1.
    """

    def __init__(
        self,
        num_classes: int,
        vocab: int = 1_000_000,
        dim: int = 1_000,
        hidden: Sequence[int] | None = None,
        pooling: Pooling = "mean",
        activation: Literal["relu", "tanh"] = "relu",
        dropout: float = 0.0,
        feature_dropout: float = 0.0,
        pairs: bool = False,
        init_std: float = 0.1,
    ) -> None:
        super().__init__()
        widths = [dim] if hidden is None else list(hidden)
        if min(vocab, dim, *widths, 1) < 1:
            raise UserError(f"A table of {vocab} rows of {dim} with hidden layers {widths} is empty; use at least 1.")
        self.pooling, self.pairs, self.feature_dropout = pooling, pairs, feature_dropout
        self.activation: nn.Module = nn.ReLU() if activation == "relu" else nn.Tanh()
        self.table = nn.Embedding(vocab, dim, sparse=True)
        nn.init.normal_(self.table.weight, std=init_std)
        self.query = nn.Parameter(torch.zeros(dim)) if pooling == "attention" else None
        sizes = [4 * dim if pairs else dim, *widths]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.head = nn.Linear(sizes[-1], num_classes)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, ids: Tensor, offsets: Tensor, pair_ids: Tensor | None = None, pair_offsets: Tensor | None = None
    ) -> Tensor:
        """Logits [B, num_classes]; the second texts of pairs come as ``pair_ids`` and ``pair_offsets``."""
        state = self.pool(ids, offsets)
        if self.pairs:
            if pair_ids is None or pair_offsets is None:
                raise UserError("This model reads pairs of texts; give the second texts too.")
            other = self.pool(pair_ids, pair_offsets)
            state = torch.cat([state, other, state * other, (state - other).abs()], dim=1)
        for layer in self.layers:
            state = self.activation(layer(self.dropout(state)))
        return self.head(self.dropout(state))

    def pool(self, ids: Tensor, offsets: Tensor) -> Tensor:
        """Pooled embeddings [B, dim]."""
        if self.training and self.feature_dropout:
            ids, offsets = drop_features(ids, offsets, self.feature_dropout)
        table = self.table.weight
        if torch.is_grad_enabled() and table.requires_grad:
            if self.pooling in ("mean", "sum") and table.device.type == "cpu" and table.dtype == torch.float32:
                return cast(Tensor, PoolRows.apply(table, ids, offsets, self.pooling))
            rows, ids = torch.unique(ids, return_inverse=True)
            table = cast(Tensor, TakeRows.apply(table, rows))
        if self.query is not None:
            weights = segment_softmax((table @ self.query)[ids], offsets)
            return F.embedding_bag(
                ids, table, offsets, mode="sum", per_sample_weights=weights, include_last_offset=True
            )
        return F.embedding_bag(ids, table, offsets, mode=self.pooling, include_last_offset=True)


class TakeRows(torch.autograd.Function):
    """``table[rows]`` for distinct, sorted ``rows``, with a sparse gradient in which each row comes once."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.shape = table.shape
        return table.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        return torch.sparse_coo_tensor(rows[None], grads[0], ctx.shape, check_invariants=False), None


def segment_softmax(scores: Tensor, offsets: Tensor) -> Tensor:
    """Softmax of ``scores`` [total] within each segment [offsets[i], offsets[i + 1])."""
    count = len(offsets) - 1
    segment = torch.repeat_interleave(
        torch.arange(count, device=scores.device), offsets.diff(), output_size=len(scores)
    )
    highest = scores.new_zeros(count).scatter_reduce(0, segment, scores.detach(), "amax", include_self=False)
    weights = (scores - highest[segment]).exp()
    return weights / scores.new_zeros(count).index_add(0, segment, weights)[segment]


def drop_features(ids: Tensor, offsets: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """``ids`` and ``offsets`` with each n-gram left out with probability ``share``."""
    keep = torch.rand(len(ids), device=ids.device) >= share
    kept = torch.cat([offsets.new_zeros(1), keep.cumsum(0)])
    return ids[keep], kept[offsets]
